"""Embeddings of images, folders of images, and texts.

Without --out, prints one line of JSON an item. With --out, writes a .npy file and, beside it, the items' names as
.names.json; or a .safetensors file with the tensor `embeddings` and the names in its metadata. The file appears when it
is complete. Folders are searched to any depth for files that Pillow reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, InputError
from .common import add_model_arguments, open_model, print_json

if TYPE_CHECKING:
    from ..model import CLIP

Array = NDArray[Any]
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("image", nargs="*", help="images' paths, or folders")
    parser.add_argument("--text", action="append", default=[], help="a text to embed; repeatable")
    parser.add_argument("--texts-file", help="a text file, one text a line")
    parser.add_argument("--out", type=Path, help="a .npy or .safetensors file")
    parser.add_argument("--normalize", action="store_true", help="unit vectors")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    parser.add_argument("--keep-going", action="store_true", help="leave out images that can't be read, with a warning")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print JSON lines (the default without --out)")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Embed images first, then texts, in the order given."""
    write = writer(args.out)
    paths = [path for given in args.image for path in images_in(Path(given))]
    texts = list(args.text)
    if args.texts_file is not None:
        texts += Path(args.texts_file).read_text(encoding="utf-8").splitlines()
    if not paths and not texts:
        raise InputError("nothing to embed; give images, folders, --text or --texts-file.")
    model = open_model(args)
    names: list[str] = []
    rows: list[Array] = []
    for name, embedding in embedded(model, paths, texts, args):
        if args.out is None or args.json:
            print_json({"name": name, "embedding": [float(v) for v in embedding]})
        names.append(name)
        rows.append(embedding)
    if write is not None:
        if not rows:
            raise ImageError("no image could be read; nothing was written.")
        write(args.out, np.stack(rows), names)


def embedded(model: CLIP, paths: list[Path], texts: list[str], args: argparse.Namespace) -> Iterator[tuple[str, Array]]:
    """Names and embeddings, a batch at a time."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=len(paths) + len(texts), unit="item", disable=quiet) as bar:
        for batch in batches(paths, args.batch_size):
            for path, embedding in zip(batch, embed_paths(model, batch, args), strict=True):
                if embedding is not None:
                    yield str(path), embedding
            bar.update(len(batch))
        for batch in batches(texts, 256):
            rows = model.embed_text(batch, normalize=args.normalize, truncate=args.truncate)
            yield from zip(batch, rows, strict=True)
            bar.update(len(batch))


def embed_paths(model: CLIP, paths: list[Path], args: argparse.Namespace) -> list[Array | None]:
    """One embedding a path; None for one that can't be read, if that is to be survived."""
    try:
        return list(model.embed_images(paths, normalize=args.normalize, batch_size=len(paths)))
    except ImageError as error:
        if len(paths) == 1:
            if not args.keep_going:
                raise type(error)(f"{paths[0]}: {error}") from error
            print(f"clipref: warning: {paths[0]} left out: {error}", file=sys.stderr)
            return [None]
    return [row for path in paths for row in embed_paths(model, [path], args)]


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive parts of at most `size`."""
    if size < 1:
        raise InputError(f"--batch-size is {size}; expected at least 1.")
    return (items[i : i + size] for i in range(0, len(items), size))


def images_in(path: Path) -> list[Path]:
    """The path itself, or a folder's images in order. Raises InputError if a folder has none."""
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return found


def writer(out: Path | None) -> Callable[[Path, Array, list[str]], None] | None:
    """How a file of this name is written. Raises InputError before any work is done if it can't be."""
    if out is None:
        return None
    kinds = {".npy": write_npy, ".safetensors": write_safetensors}
    if out.suffix not in kinds:
        raise InputError(f"--out {out}: expected a name that ends in .npy or .safetensors.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}; make it first.")
    return kinds[out.suffix]


def write_npy(out: Path, embeddings: Array, names: list[str]) -> None:
    """embeddings.npy, and its names in embeddings.names.json."""

    def array(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, embeddings)

    replace(
        out.with_suffix(".names.json"), lambda path: path.write_text(json.dumps(names, ensure_ascii=False, indent=0))
    )
    replace(out, array)


def write_safetensors(out: Path, embeddings: Array, names: list[str]) -> None:
    """One tensor, `embeddings`, and the names as JSON in the metadata."""
    from safetensors.numpy import save_file

    metadata = {"names": json.dumps(names, ensure_ascii=False)}
    replace(out, lambda path: save_file({"embeddings": embeddings}, path, metadata))


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename, so that there is the whole file or none."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
