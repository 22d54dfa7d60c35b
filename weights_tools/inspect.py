"""Say what a checkpoint is: architecture, size, dtypes, digests, statistics, and how it differs from the published.

PATH is a file or folder of any layout that `clipref convert` reads, or a model id; nothing is written. The statistics
are those that matter to numerics: how far the largest channels stand out, how far LayerNorm gains reach, and the
logit scale. `--run` runs the model, too: the largest activations against float16's range, tokens whose norms stand out,
dead heads, and what float16, bfloat16 and int8 cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipref.backends import kind_of
from clipref.cli.common import add_json_argument, print_json, print_table
from clipref.cli.models import parameters
from clipref.cli.walk import images_at
from clipref.config import PUBLISHED, ClipConfig, tensor_shapes, text_shapes, visual_shapes
from clipref.digests import model_digest, rounded_digest, tensor_digest
from clipref.errors import InputError, WeightsError
from clipref.hub import EMBEDDED, present
from clipref.towers import IMAGE_KINDS
from clipref.weights import Checkpoint, check_tensors, ignored

from .activations import audit
from .activations import rows as audited_rows
from .convert import add_source_arguments, cast, not_finite, options_of, part_bytes
from .layouts import OPENAI, TIMM, TRANSFORMERS, Assembly
from .sources import OPENAI_FILES, Doubt, Options, Source, open_source

_LAYOUTS = {
    OPENAI: "the tensor names of OpenAI and open_clip",
    TRANSFORMERS: "the tensor names of transformers",
    TIMM: "the tensor names of timm",
}


def inspect(path: str | Path, options: Options | None = None) -> dict[str, Any]:
    """Everything that the command prints, as JSON types. Raises ModelNotFound, WeightsError or ConfigError."""
    source, doubts, unknown = _open(path, options or Options())
    config = source.config.to_dict()
    for tower, setting in unknown:
        if setting in (config[tower] or {}):  # a ResNet has no activation to doubt
            config[tower][setting] = None
    tensors = {name: assembly for name, assembly in source.tensors.items() if not ignored(name)}
    problems = []
    try:
        shapes, dtypes = ({n: getattr(r, part) for n, r in tensors.items()} for part in ("shape", "dtype"))
        check_tensors(shapes, dtypes, source.config, str(path))
    except WeightsError as error:
        problems.append(str(error))
    found = {name: _read(name, assembly) for name, assembly in tensors.items() if name in tensor_shapes(source.config)}
    problems += [f"{name} has {f.not_finite} values that are not finite" for name, f in found.items() if f.not_finite]
    nearest, deviations = _deviations(source.config, unknown)
    digest = model_digest({n: (tensors[n].dtype, tensors[n].shape, f.sha256) for n, f in found.items()})
    sizes = Counter[str]()
    for assembly in tensors.values():
        sizes[assembly.dtype] += part_bytes(assembly)
    return {
        "path": str(path),
        "kind": source.kind,
        "layout": source.layout,
        "model": source.model,
        "identity": _identity(source, digest, nearest, deviations),
        "files": source.files,
        "bytes": sum(sizes.values()),
        "bytes by dtype": dict(sizes),
        "tensors": len(tensors),
        "config": config,
        "parameters": {
            "image": parameters(visual_shapes(source.config)),
            "text": parameters(text_shapes(source.config)),
        },
        "digest": digest,
        "rounded digest": model_digest({n: ("F16", tensors[n].shape, f.rounded) for n, f in found.items()}),
        "nearest published": nearest,
        "deviations": deviations,
        "doubts": doubts,
        "problems": problems,
        "statistics": _statistics(found),
        "digests": {name: f.sha256 for name, f in found.items()},
    }


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is kept of one tensor."""

    sha256: str
    rounded: str  # the same of its values rounded to float16
    not_finite: int
    largest: float
    smallest: float
    channel_ratio: float  # the largest channel's root mean square over the median channel's


def _read(name: str, assembly: Assembly) -> _Found:
    stored = assembly.read()
    value = cast(stored, assembly.dtype, "F64" if assembly.dtype == "F64" else "F32", name)
    infinite = not_finite(stored, assembly.dtype)
    value = np.abs(value)
    with np.errstate(invalid="ignore", over="ignore"):
        axes = tuple(range(1, value.ndim))
        ratio = 1.0
        if value.ndim > 1 and value.size:
            # Embeddings and projections have their channels last, weights first.
            last = "embedding" in name or name in ("visual.proj", "text_projection")
            channels = np.sqrt(np.square(value).mean(tuple(range(value.ndim - 1)) if last else axes, np.float64))
            ratio = float(channels.max() / max(float(np.median(channels)), np.finfo(np.float64).tiny))
        largest, smallest = (float(f(value)) if value.size else math.nan for f in (np.max, np.min))
    return _Found(tensor_digest(stored), rounded_digest(stored, assembly.dtype), infinite, largest, smallest, ratio)


def _open(path: str | Path, options: Options) -> tuple[Source, list[str], list[tuple[str, str]]]:
    """The source, with something assumed for what is in doubt; the doubts; and the settings that they are about."""
    doubts: list[str] = []
    for assumed in (options, dataclasses.replace(options, activation=options.activation or "quick_gelu")):
        try:
            return open_source(path, assumed), doubts, [(t, "activation") for t in ("vision", "text") if doubts]
        except Doubt as doubt:
            doubts.append(str(doubt))
    unknown = [(t, "heads") for t in ("vision", "text") if getattr(options, f"{t}_heads") is None]
    if len(set(doubts)) > 1:
        unknown += [("vision", "activation"), ("text", "activation")]
    heads = dataclasses.replace(assumed, vision_heads=options.vision_heads or 1, text_heads=options.text_heads or 1)
    return open_source(path, heads), list(dict.fromkeys(doubts)), unknown


def _statistics(found: Mapping[str, _Found]) -> dict[str, Any]:
    ratios = sorted(((f.channel_ratio, name) for name, f in found.items()), reverse=True)
    norms = {name: f for name, f in found.items() if ".ln_" in f".{name}" and name.endswith(".weight")}
    gains = sorted(
        ((f.largest / f.smallest if f.smallest else math.inf, name) for name, f in norms.items()), reverse=True
    )
    scale = found.get("logit_scale")
    return {
        "largest channel over median channel": {name: round(ratio, 2) for ratio, name in ratios[:5]},
        "LayerNorm gains, smallest and largest": {
            name: [norms[name].smallest, norms[name].largest] for _, name in gains[:5]
        },
        "logit scale": None if scale is None else math.exp(scale.largest),
    }


def _deviations(config: ClipConfig, unknown: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """The published model that is most like it, and each setting that differs, of those that are known."""
    candidates = {}
    for name, published in PUBLISHED.items():
        if kind_of(published) == kind_of(config):
            ours, theirs = _flat(config.to_dict()), _flat(published.to_dict())
            for tower, setting in unknown:
                ours.pop(f"{tower}.{setting}", None)
            candidates[name] = [
                f"{k} is {value}{f', not {theirs[k]}' if k in theirs else ''}"
                for k, value in ours.items()
                if value != theirs.get(k)
            ]
    nearest = min(candidates, key=lambda name: len(candidates[name]))
    return nearest, candidates[nearest]


def _identity(source: Source, digest: str, nearest: str, deviations: list[str]) -> str:
    """What is known of whose weights these are. A configuration that fits is no proof of it."""
    for name, sha256 in OPENAI_FILES.items():
        if sha256 in source.files.values():
            return f"equal to OpenAI's file of {name}, by its sha256"
    for name, model in EMBEDDED.items():
        if digest == model.digest:
            return f"equal to {name}, by its digest"
    if deviations:
        return f"no published architecture (the nearest is {nearest}); whose weights they are isn't known"
    return f"architecture of {nearest}; its weights are not known to be the published ones"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("path", metavar="PATH", help="a checkpoint's file or folder, or a model id")
    add_source_arguments(parser)
    parser.add_argument("--run", action="store_true", help="run it too: what its activations and precisions are like")
    parser.add_argument("--images", type=Path, metavar="DIR", help="images for --run, the first 16, not drawn ones")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print what there is to say; 1 if the checkpoint has problems."""
    path = present(args.path)
    facts = inspect(path, options_of(args))
    if args.images is not None and not args.run:
        raise InputError("--images is for --run; add it, or leave --images out.")
    if args.run and not facts["problems"]:
        facts["run"] = _audit(path, options_of(args), args.images)
    if args.json:
        print_json(facts)
    else:
        _print(facts)
    return 1 if facts["problems"] else 0


def _audit(path: Path, options: Options, images: Path | None) -> dict[str, Any]:
    """What the model is like when it runs. Raises WeightsError for another layout than this project's."""
    source = open_source(path, options)
    if not source.as_it_is:
        raise WeightsError(f"{path} is of another layout; to run it, convert it first: clipref convert {path} FOLDER")
    files: list[Path] = []
    if images is not None:
        files = images_at(str(images)).images[:_AUDITED]
        if not files:
            raise InputError(f"--images {images} has no images.")
    return audit(Checkpoint(source.weights, source.config), files)


_AUDITED = 16  # images that are looked at, of as many as there are


def _print(facts: Mapping[str, Any]) -> None:
    config = facts["config"]
    vision, text = config["vision"], config["text"]
    size = f"{_bytes(facts['bytes'])} in {facts['tensors']} tensors"
    sizes = ", ".join(f"{kind} {_bytes(count)}" for kind, count in facts["bytes by dtype"].items())
    count = {tower: f"{n:,} parameters" for tower, n in facts["parameters"].items()}
    rows = [
        ("container", facts["kind"]),
        ("layout", _LAYOUTS[facts["layout"]]),
        ("identity", facts["identity"]),
        ("size", f"{size} ({sizes})"),
        ("image tower", f"{_description(vision)}; {count['image']}"),
        ("text tower", f"{_description(text)}; {count['text']}"),
        ("embedding", str(config["embed_dim"])),
        ("nearest", f"{facts['nearest published']}{'' if facts['deviations'] else ', the same shape'}"),
        *(("  differs", deviation) for deviation in facts["deviations"]),
        ("digest", facts["digest"]),
        ("  rounded", f"{facts['rounded digest']}, of all values rounded to float16: a copy in float32 has the same"),
        *(("file", f"{name}  sha256 {digest}") for name, digest in facts["files"].items()),
    ]
    scale = facts["statistics"]["logit scale"]
    rows.append(("logit scale", "-" if scale is None else f"{scale:.4g}"))
    for n, ratio in facts["statistics"]["largest channel over median channel"].items():
        rows.append(("channels", f"up to {ratio:.1f} x the median one  {n}"))
    for n, (low, high) in facts["statistics"]["LayerNorm gains, smallest and largest"].items():
        rows.append(("gains", f"{low:.3g} to {high:.3g}  {n}"))
    rows += audited_rows(facts["run"]) if "run" in facts else []
    rows += [(title.removesuffix("s"), text) for title in ("doubts", "problems") for text in facts[title]]
    print_table(rows)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count:,} bytes"


def _description(tower: Mapping[str, Any] | None) -> str:
    if tower is None:
        return "none"
    image = IMAGE_KINDS.get(tower.get("kind", ""))
    kind = "transformer" if image is None else image.title
    return ", ".join(
        [kind, *(f"{key} {'?' if value is None else value}" for key, value in tower.items() if key != "kind")]
    )
