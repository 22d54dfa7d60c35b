"""Zero-shot classification of images: the most probable of the labels given.

Labels come from --labels, separated by commas, or from --labels-file, one a line. A label's embedding is the mean over
all templates, in which {} stands for the label. JSON has one line an image, as soon as it is classified.
"""

from __future__ import annotations

import argparse

from ..classifier import TEMPLATES
from ..errors import ImageError, InputError
from .common import add_json_argument, add_model_arguments, open_model, print_json, print_table
from .readable import LEFT_OUT, add_keep_going_argument, leave_out, problem_of
from .texts import lines_of, name_of, text_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("image", nargs="+", help="images' paths")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", type=text_argument, help="cat,dog,...")
    labels.add_argument("--labels-file", metavar="FILE", help="a text file, one label a line; - for standard input")
    parser.add_argument(
        "--template", action="append", type=text_argument, help=f"repeatable (default: {TEMPLATES[0]!r})"
    )
    parser.add_argument("--top-k", type=int, default=5)
    add_keep_going_argument(parser)
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the best labels of each image; LEFT_OUT if one could not be read."""
    labels = read_labels(args)
    classifier = open_model(args).classifier(labels, args.template or TEMPLATES)
    table = [("image", "probability", "label")]
    left_out = 0
    for number, path in enumerate(args.image):
        try:
            best = classifier.classify(path, args.top_k)
        except ImageError as error:
            leave_out(args, problem_of(number, error))
            left_out += 1
            continue
        if args.json:
            found = [{"label": label, "probability": probability} for label, probability in best]
            print_json({"image": name_of(path), "labels": found})
        table += [(path if i == 0 else "", f"{p:.4f}", label) for i, (label, p) in enumerate(best)]
    if left_out == len(args.image):
        raise ImageError("no image could be read.")
    if not args.json:
        print_table(table)
    return LEFT_OUT if left_out else 0


def read_labels(args: argparse.Namespace) -> list[str]:
    """The labels, without blanks around them. Raises InputError if there are none."""
    found = args.labels.split(",") if args.labels is not None else lines_of(args.labels_file, "--labels-file")
    labels = [label.strip() for label in found if label.strip()]
    if not labels:
        raise InputError("no labels; give at least one in --labels or --labels-file.")
    return labels
