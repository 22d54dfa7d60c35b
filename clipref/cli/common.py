"""What several commands share: the options of a model, and how tables and JSON are printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .streams import printable, say
from .texts import json_text

if TYPE_CHECKING:
    from ..model import CLIP

DEFAULT_MODEL = "clipref/scenes-vit"
# Options of `from_pretrained` by their names here.
MODEL_OPTIONS = ("activation", "upright", "max_pixels", "revision", "digest")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --backend, and what else says how a model is to be opened."""
    parser.add_argument(
        "--model", help=f"id, folder or .safetensors file (default: {DEFAULT_MODEL}, which knows drawn shapes only)"
    )
    parser.add_argument("--backend", default="auto", help="auto, reference, onnx, ... (default: %(default)s)")
    add_activation_argument(parser)
    parser.add_argument("--upright", action="store_true", default=None, help="turn photographs as their EXIF data says")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="refuse images with more")
    parser.add_argument("--revision", help="of the repository that the model is fetched from")
    parser.add_argument("--digest", help="refuse a model that has another one")


def add_activation_argument(parser: argparse.ArgumentParser) -> None:
    """--activation."""
    parser.add_argument(
        "--activation", choices=("quick_gelu", "gelu"), help="of both transformers, where the checkpoint doesn't tell"
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def open_model(args: argparse.Namespace) -> CLIP:
    """The model that the arguments name; where they name none, says what the default one knows."""
    from ..model import AutoModel

    options = {name: value for name in MODEL_OPTIONS if (value := getattr(args, name)) is not None}
    if options.get("max_pixels", 1) < 1:
        raise InputError(f"--max-pixels is {options['max_pixels']}; expected at least 1.")
    if args.model is None:
        say(
            f"no --model was given, so {DEFAULT_MODEL} answers, which knows drawn shapes and their colours, and "
            "nothing of photographs; for those: --model clip/ViT-B-32"
        )
    return AutoModel.from_pretrained(
        DEFAULT_MODEL if args.model is None else args.model, backend=args.backend, **options
    )


def print_json(value: Any) -> None:
    """One line of JSON; in ASCII where standard output isn't UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(json_text(value, ascii_only=not encoding.lower().startswith("utf")))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest entry; the first row is the head."""
    rows = [[printable(entry) for entry in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip())
