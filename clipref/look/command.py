"""What a cosine is made of: which place of an image, layer, head and word; as a table, JSON, or one page of HTML.

With an image, each --text is compared with it; without one, the texts with each other. Two texts show the difference.
The split over layers, heads, places and words is exact. The page has other methods beside it, and says of each what it
can't tell. Looking inside runs on the reference; what hides parts of the image, on the backend.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ..cli.common import DEFAULT_MODEL, add_json_argument, add_model_arguments, open_model, print_json, print_table
from ..cli.output import text_file
from ..cli.texts import name_of, text_argument
from ..errors import ImageError, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("image", nargs="?", help="an image's path; without it, texts are looked at alone")
    parser.add_argument("--text", action="append", type=text_argument, required=True, help="repeatable")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page that needs nothing else")
    parser.add_argument(
        "--masks", type=int, default=128, metavar="N", help="random masks of RISE, a pass each; 0: none (%(default)s)"
    )
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Look, write the page, print tables or JSON."""
    from .page import image_page, text_page
    from .report import image_report, text_report

    if args.masks < 0:
        raise InputError(f"--masks is {args.masks}; expected at least 0.")
    model_name = DEFAULT_MODEL if args.model is None else name_of(args.model)
    with ExitStack() as stack:
        write = None if args.html is None else stack.enter_context(text_file(args.html, "--html"))
        model = open_model(args)
        if args.image is None:
            report: Any = text_report(model, args.text)
            found, tables, page = text_numbers(report), text_tables(report), partial(text_page, report, model_name)
        else:
            masks = args.masks if write else 0  # nothing else shows them
            try:
                report = image_report(model, args.image, args.text, masks=masks, progress=sys.stderr.isatty())
            except ImageError as error:
                hint = "" if os.path.exists(args.image) else " If it is a text, put --text before it."
                raise ImageError(f"{error}{hint}") from error
            name = name_of(os.path.basename(args.image))
            found, tables, page = (
                image_numbers(report),
                image_tables(report),
                partial(image_page, report, name, model_name),
            )
        if write is not None:
            write(page())
    if args.json:
        print_json({**found, **({} if args.html is None else {"page": name_of(args.html)})})
        return
    for i, table in enumerate(tables):
        if i:
            print()
        print_table(table)
    if args.html is not None:
        print(f"\nThe page: {args.html.absolute()}")


def image_tables(report: Any) -> list[list[tuple[str, ...]]]:
    """Cosines; where each is from; layer by layer; words."""
    from .report import layer_rows

    scores, texts = report.scores, report.texts
    places: list[tuple[str, ...]] = [("text", "cosine", "from the places", "most from row", "column")]
    for text, cosine, found in zip(texts, scores.cosines, scores.maps, strict=True):
        row, column = divmod(int(found.argmax()), found.shape[1])
        places.append((text, f"{cosine:.4f}", f"{found.sum():+.4f}", str(row + 1), str(column + 1)))
    layers = [("part", *texts), *((name, *(f"{v:+.4f}" for v in values)) for name, values in layer_rows(scores))]
    return [places, layers, *(word_table(words, ["image"]) for words in report.words)]


def text_tables(report: Any) -> list[list[tuple[str, ...]]]:
    """Cosines of the texts with each other, and the words of each."""
    cosines = [
        ("text", *report.texts),
        *((t, *(f"{c:.4f}" for c in s.cosines)) for t, s in zip(report.texts, report.scores, strict=True)),
    ]
    return [cosines, *(word_table(words, report.texts) for words in report.words)]


def word_table(words: Any, toward: list[str]) -> list[tuple[str, ...]]:
    """Each word's direct effect on each cosine, and what leaving it out loses."""
    head = ["word", *(f"{what}, {name}" for name in toward for what in ("direct effect", "left out"))]
    rows = [tuple(head)]
    for word, direct, lost in zip(words.words, words.direct, words.left_out, strict=True):
        rows.append((word, *(f"{v:+.4f}" for pair in zip(direct, lost, strict=True) for v in pair)))
    return rows


def image_numbers(report: Any) -> dict[str, Any]:
    """All of a report but the picture, as JSON types."""
    return {
        "texts": report.texts,
        "cosines": report.scores.cosines.tolist(),
        "maps": report.scores.maps.tolist(),
        "parts": {name: part.tolist() for name, part in report.scores.parts.items()},
        "occlusion": report.occlusion.maps.tolist(),
        "rise": None if report.rise is None else report.rise.maps.tolist(),
        "rollout": report.rollout.map.tolist(),
        "logit_lens": None if report.lens is None else report.lens.cosines.tolist(),
        "words": [word_numbers(words) for words in report.words],
    }


def text_numbers(report: Any) -> dict[str, Any]:
    """All of a report, as JSON types."""
    return {
        "texts": report.texts,
        "cosines": [scores.cosines.tolist() for scores in report.scores],
        "parts": [{name: part.tolist() for name, part in scores.parts.items()} for scores in report.scores],
        "logit_lens": [lens.cosines.tolist() for lens in report.lens],
        "words": [word_numbers(words) for words in report.words],
    }


def word_numbers(words: Any) -> dict[str, Any]:
    """What is known of a text's words, as JSON types."""
    return {
        "tokens": [{"id": token.id, "piece": token.piece, "word": token.word} for token in words.tokens],
        "words": words.words,
        **{name: getattr(words, name).tolist() for name in ("direct", "left_out", "start", "end", "rest")},
    }
