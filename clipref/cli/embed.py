"""Embeddings of images, folders of images, and texts.

Without --out, prints one line of JSON an item. With --out, writes a .npy file and, beside it, the items' names as
.names.json, a list; or a .safetensors file with the tensor `embeddings`, and that list in its metadata, `names`. All of
it is there when it is complete, or nothing is. Names are UTF-8 in every locale; a byte of a file's name that is none is
written as an escape, \\udc80 to \\udcff, from which Python's os.fsencode makes the byte again.

Folders are searched to any depth for files whose suffix is that of an image format; links are followed, and each folder
is searched once; what begins with a dot is left out. A file of texts is UTF-8, a text a line. The last line on standard
error says how many items were embedded, where they are, and what was left out and why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, InputError, TextError
from ..image_batches import embedded_batches
from ..lazy import available_threads
from ..loading import preprocessed_batches, preprocessor, progress_bar
from .common import add_model_arguments, open_model, print_json
from .output import check_room, embeddings_file
from .readable import LEFT_OUT, add_keep_going_argument, leave_out, problem_of
from .streams import say
from .texts import lines_of, name_of, text_argument
from .walk import Found, images_at

if TYPE_CHECKING:
    from ..model import CLIP

Array = NDArray[Any]
TEXT_BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("image", nargs="*", help="images' paths, or folders")
    parser.add_argument("--text", action="append", type=text_argument, default=[], help="a text to embed; repeatable")
    parser.add_argument("--texts-file", metavar="FILE", help="a text file, one text a line; - for standard input")
    parser.add_argument("--out", type=Path, help="a .npy or .safetensors file")
    parser.add_argument("--normalize", action="store_true", help="unit vectors")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print JSON lines (the default without --out)")
    add_keep_going_argument(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embed images first, then texts, in the order given; LEFT_OUT if something could not be read."""
    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; expected at least 1.")
    found = find(args)
    texts = args.text + ([] if args.texts_file is None else lines_of(args.texts_file, "--texts-file"))
    if not found.images and not texts and not found.failures:
        raise InputError("nothing to embed; give images, folders, --text or --texts-file.")
    with nullcontext() if args.out is None else embeddings_file(args.out) as write:
        model = open_model(args)
        check_texts(model, texts, args.truncate)
        if write is not None:
            everything = [*map(name_of, found.images), *texts]
            check_room(args.out, len(everything), model.config.embed_dim, everything)
        names: list[str] = []
        parts: list[Array] = []
        for batch, rows in embed_in_batches(model, found, texts, args):
            names += batch
            if write is None:
                print_rows(batch, rows)
            else:
                parts.append(rows)
        if not names:
            raise ImageError("no image could be read; nothing was written.")
        if write is not None:
            write(np.concatenate(parts), names)
    if write is not None and args.json:
        print_rows(names, np.concatenate(parts))
    say(summary(len(names), args.out, found))
    return LEFT_OUT if found.failures else 0


def find(args: argparse.Namespace) -> Found:
    """The images of all paths. Raises InputError if a folder has none, ImageError for what can't be read."""
    found = Found()
    for path in args.image:
        here = images_at(path)
        if not here.images and not here.failures:
            told = here.describe_left_out()
            raise InputError(f"{path} holds no images{f'; left out: {told}' if told else ''}.")
        for problem in here.failures:
            leave_out(args, problem)
        found.add(here)
    return found


def check_texts(model: CLIP, texts: list[str], truncate: bool) -> None:
    """Raise TextError, before anything is embedded, for a text that the model doesn't take."""
    if texts:
        ids = model.tokenize(texts, truncate)  # [N, T]
        empty = np.flatnonzero((ids == model.tokenize("")).all(axis=1))
        if empty.size:
            raise TextError(f"text {empty[0]} is empty; expected something to embed. Remove it, or its line.")


def embed_in_batches(
    model: CLIP, found: Found, texts: list[str], args: argparse.Namespace
) -> Iterator[tuple[list[str], Array]]:
    """Names and embeddings [n, E], a batch at a time; images that can't be read become failures of `found`."""
    with progress_bar(len(found.images) + len(texts), sys.stderr.isatty(), unit="item") as bar:
        failed: dict[int, ImageError] = {}

        def leave_out_failed() -> None:
            for number, error in failed.items():
                bar.clear()
                problem = problem_of(number, error)
                leave_out(args, problem)
                found.failures.append(problem)
            bar.total -= len(failed)
            failed.clear()

        if found.images:
            pixels_of = preprocessor(model.config, None, model.max_pixels)
            read = preprocessed_batches(found.images, pixels_of, available_threads(), args.batch_size, failed, False)
            with closing(embedded_batches(model, read, normalize=args.normalize)) as embedded:
                for numbers, rows in embedded:
                    leave_out_failed()
                    yield [name_of(found.images[i]) for i in numbers], rows
                    bar.update(len(rows))
            leave_out_failed()
        for start in range(0, len(texts), TEXT_BATCH):
            batch = texts[start : start + TEXT_BATCH]
            yield batch, model.embed_text(batch, normalize=args.normalize, truncate=args.truncate)
            bar.update(len(batch))


def print_rows(names: list[str], rows: Array) -> None:
    """One line of JSON an item."""
    for name, row in zip(names, rows.tolist(), strict=True):
        print_json({"name": name, "embedding": row})


def summary(count: int, out: Path | None, found: Found) -> str:
    """How many items were embedded, where they are, and what was left out and why."""
    where = "" if out is None else f", in {out}"
    if out is not None and out.suffix == ".npy":
        where += f", their names in {out.with_suffix('.names.json')}"
    failed = [f"{len(found.failures)} that can't be read"] if found.failures else []
    left_out = ", ".join(failed + [told for told in (found.describe_left_out(),) if told])
    return f"{count} embedded{where}{f'; left out: {left_out}' if left_out else ''}."
