"""What several commands share: the options of a model, and how tables and JSON are printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..model import CLIP

DEFAULT_MODEL = "clipref/shapes-vit"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model and --backend."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="id, folder or .safetensors file (default: %(default)s, which knows drawn shapes only)",
    )
    parser.add_argument("--backend", default="auto", help="auto, reference, onnx, ... (default: %(default)s)")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def open_model(args: argparse.Namespace) -> CLIP:
    """The model that the arguments name."""
    from ..model import AutoModel

    return AutoModel.from_pretrained(args.model, backend=args.backend)


def print_json(value: Any) -> None:
    """One line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest entry; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip())
