"""Zero-shot classification of images: the most probable of the labels given.

Labels come from --labels, separated by commas, or from --labels-file, one a line. A label's embedding is the mean over
all templates, in which {} stands for the label.
"""

from __future__ import annotations

import argparse

from ..errors import InputError
from .common import add_json_argument, add_model_arguments, open_model, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("image", nargs="+", help="images' paths")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", help="cat,dog,...")
    labels.add_argument("--labels-file", help="a text file, one label a line")
    parser.add_argument("--template", action="append", help="repeatable (default: 'a photo of a {}')")
    parser.add_argument("--top-k", type=int, default=5)
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Print the best labels of each image; JSON has one line an image."""
    labels = read_labels(args)
    model = open_model(args)
    rows = model.classify(args.image, labels, args.template or ("a photo of a {}",), args.top_k)
    if args.json:
        for path, row in zip(args.image, rows, strict=True):
            print_json({"image": path, "labels": [{"label": label, "probability": p} for label, p in row]})
        return
    table = [("image", "probability", "label")]
    for path, row in zip(args.image, rows, strict=True):
        table += [(path if i == 0 else "", f"{p:.4f}", label) for i, (label, p) in enumerate(row)]
    print_table(table)


def read_labels(args: argparse.Namespace) -> list[str]:
    """The labels, without blanks around them. Raises InputError if there are none."""
    if args.labels is not None:
        found = args.labels.split(",")
    else:
        with open(args.labels_file, encoding="utf-8") as file:
            found = file.read().splitlines()
    labels = [label.strip() for label in found if label.strip()]
    if not labels:
        raise InputError("no labels; give at least one in --labels or --labels-file.")
    return labels
