"""Token ids of texts, with start and end and without padding; and the pieces that they stand for.

The vocabulary is that of the nine published models, unless --model names another. A single - reads texts from standard
input, one a line.
"""

from __future__ import annotations

import argparse

from .common import add_activation_argument, add_json_argument, print_json
from .texts import lines_of, text_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("text", nargs="+", type=text_argument, help="texts, or - for standard input")
    parser.add_argument("--model", help="id, folder or file whose vocabulary is meant")
    add_activation_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Print a text's ids and pieces; JSON has one line a text."""
    from ..hub import locate
    from ..tokenizer import Tokenizer
    from ..weights import Checkpoint

    tokenizer = Tokenizer.default()
    if args.model is not None:
        merges = Checkpoint(*locate(args.model, activation=args.activation)).merges
        tokenizer = tokenizer if merges is None else Tokenizer.from_file(merges)
    texts = lines_of("-", "") if args.text == ["-"] else args.text
    for text in texts:
        ids = [tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id]
        pieces = [tokenizer.decode([i]).strip() for i in ids]
        if args.json:
            print_json({"text": text, "ids": ids, "pieces": pieces})
        else:
            print(" ".join(map(str, ids)))
            print(" | ".join(pieces))
