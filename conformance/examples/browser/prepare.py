"""Writes what the pages and answer.js beside this file read: `python prepare.py [--model clipref/scenes-vit]`.

- model/: visual.onnx and textual.onnx, merges.txt, and model.json with the configuration, for index.html;
- questions/, as `clipref conformance export` writes them, graphs/ with the ONNX files of each of their checkpoints, and
  merges.txt, the published models' vocabulary: for answer.html and answer.js.

Nothing is overwritten: what is there already has to be removed first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from clipref import ClipError
from clipref.cli import main as clipref
from clipref.hub import locate
from clipref.vocabulary import DEFAULT_MERGES
from clipref.weights import Checkpoint
from clipref.weights_tools.export_onnx import export_onnx

# What engine.js answers.
LEVELS = ("describe", "tokenize", "preprocess", "towers", "similarity", "properties", "pipeline", "trained")


def write_model(model: str, out: Path) -> None:
    """The folder that index.html reads. Raises ClipError, also if it exists."""
    checkpoint = Checkpoint(*locate(model))
    for _ in export_onnx(model, out):
        pass
    described = {"name": model, "logit_scale": checkpoint.logit_scale, **checkpoint.config.to_dict()}
    (out / "model.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    if checkpoint.merges is None:
        write_default_merges(out / "merges.txt")
    else:
        shutil.copyfile(checkpoint.merges, out / "merges.txt")


def write_default_merges(path: Path) -> None:
    """The published models' vocabulary, as text."""
    path.write_bytes(gzip.decompress(DEFAULT_MERGES.read_bytes()))


def write_questions(folder: Path, options: Sequence[str]) -> int:
    """questions/, graphs/ and merges.txt in a folder, by options of `clipref conformance export`; the exit code."""
    if code := clipref(["conformance", "export", str(folder / "questions"), *options]):
        return code
    for checkpoint in sorted((folder / "questions" / "checkpoints").iterdir()):
        for _ in export_onnx(checkpoint, folder / "graphs" / checkpoint.name):
            pass
    write_default_merges(folder / "merges.txt")
    return 0


def main() -> int:
    """Write both, into the folder of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clipref/scenes-vit", help="what index.html computes with")
    args = parser.parse_args()
    folder = Path(__file__).parent
    try:
        write_model(args.model, folder / "model")
        return write_questions(folder, ["--levels", *LEVELS])
    except ClipError as problem:
        print(f"prepare.py: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
