"""Writes prepared/, which the pages and answer.js beside this file read: `python prepare.py`. In it are

- model/, for index.html: visual.onnx and textual.onnx, merges.txt, tables.json (see tables.py), and model.json with the
  configuration;
- questions/, as `clipref conformance export` writes them, for answer.html and answer.js; graphs/ with the ONNX files of
  each of their checkpoints; merges.txt, the published models' vocabulary, and tables.json.

Nothing is overwritten: a folder that is there already has to be removed first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tables import write_tables

from clipref import ClipError
from clipref.conformance.exchange import export
from clipref.conformance.questions import questions
from clipref.hub import locate
from clipref.vocabulary import DEFAULT_MERGES
from clipref.weights import Checkpoint
from clipref.weights_tools.export_onnx import export_onnx

# What engine.js answers.
LEVELS = ("describe", "tokenize", "preprocess", "towers", "similarity", "properties", "pipeline", "embedded")


def write_model(model: str, out: Path) -> None:
    """The folder that index.html reads. Raises ClipError, also if it exists."""
    checkpoint = Checkpoint(*locate(model))
    for _ in export_onnx(model, out):
        pass
    described = {"name": model, "logit_scale": checkpoint.logit_scale, **checkpoint.config.to_dict()}
    (out / "model.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    write_tables(out / "tables.json")
    if checkpoint.merges is None:
        write_default_merges(out / "merges.txt")
    else:
        shutil.copyfile(checkpoint.merges, out / "merges.txt")


def write_default_merges(path: Path) -> None:
    """The published models' vocabulary, as text."""
    path.write_bytes(gzip.decompress(DEFAULT_MERGES.read_bytes()))


def write_questions(folder: Path, only: Sequence[str]) -> None:
    """questions/, graphs/, merges.txt and tables.json in a folder. Raises ClipError.

    `only`: of the questions those whose id has one of these texts in it, or all if there are none.
    """
    chosen = [question for question in questions(LEVELS) if not only or any(text in question.id for text in only)]
    with tempfile.TemporaryDirectory() as scratch:
        export((question.make(Path(scratch)) for question in chosen), folder / "questions")
    for checkpoint in sorted((folder / "questions" / "checkpoints").iterdir()):
        for _ in export_onnx(checkpoint, folder / "graphs" / checkpoint.name):
            pass
    write_default_merges(folder / "merges.txt")
    write_tables(folder / "tables.json")


def main() -> int:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clipref/scenes-vit", help="what index.html computes with")
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="questions whose id has this in it")
    args = parser.parse_args()
    folder = Path(__file__).parent / "prepared"
    try:
        write_model(args.model, folder / "model")
        write_questions(folder, args.only)
    except ClipError as problem:
        print(f"prepare.py: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
