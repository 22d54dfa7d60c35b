"""Convert any published CLIP checkpoint into one safetensors folder.

SRC is a file or a folder: OpenAI's `.pt`, a torch.save file, safetensors (sharded or not) in the names of OpenAI,
open_clip or transformers; or a model id that is on this machine. Torch isn't needed, and nothing in the file is run.
DST becomes a folder that opens with `AutoModel.from_pretrained(DST)`: model.safetensors, config.json, the tokenizer's
merges, and provenance.json, which has the sha256 of what was read, of every tensor, and of all together. With --to
transformers or --to open_clip it is a folder that those read: their tensor names, configurations and tokenizer's files.
Numbers keep their dtype and their bits unless --dtype says otherwise. Tensors are copied one by one, so little memory
is needed. DST is there whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clipref.cli.common import add_activation_argument
from clipref.config import PUBLISHED, NoTower, Shape, tensor_shapes
from clipref.digests import PROVENANCE_NAME, digest_record, model_digest, refuse_other, tensor_digest
from clipref.errors import InputError, WeightsError
from clipref.hub import present
from clipref.lazy import no_fork
from clipref.vocabulary import DEFAULT_MERGES, Vocabulary, read_vocabulary, symbols_of
from clipref.weights import FLOATS, check_tensors, ignored, read_config

from .folder import new_folder, refuse_existing, write_json, write_tensors
from .hub_files import check_files
from .layouts import Assembly
from .sources import OPENAI_VOCABULARY, Options, Source, open_source
from .stored import Array
from .targets import TARGETS

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def convert(
    source: str | os.PathLike[str] | Source,
    destination: str | os.PathLike[str],
    options: Options | None = None,
    *,
    to: str = "clipref",
    dtype: str | None = None,
    origin: Mapping[str, Any] | None = None,
    digest: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the folder `destination` from a checkpoint of any known layout; returns its path.

    `to` is the layout that is written: "clipref", "transformers" or "open_clip" (targets.py). `dtype` casts every
    tensor to "float32", "float16", "bfloat16" or "float64", rounding to nearest; None keeps each as it is. `origin` is
    added to the provenance. `digest` is what the result has to have, or nothing is kept. `progress` shows a bar on
    standard error.

    Raises ModelNotFound, WeightsError, ConfigError, also for what the layout can't express, or InputError if
    `destination` exists.
    """
    if to not in TARGETS:
        raise InputError(f"to is {to!r}; expected one of {', '.join(TARGETS)}.")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    refuse_existing(destination)
    if not isinstance(source, Source):
        source = open_source(source, options or Options())
        check_files(source.weights.parent, source.files)
    where = " + ".join(name for name in source.files if not name.endswith(".json")) or "the source"
    assemblies = {name: assembly for name, assembly in source.tensors.items() if not ignored(name)}
    check_tensors(
        {name: assembly.shape for name, assembly in assemblies.items()},
        {name: assembly.dtype for name, assembly in assemblies.items()},
        source.config,
        where,
    )
    target = TARGETS[to]
    pieces = target.pieces(source.config)  # in the order of the tensors that they are made of
    dtypes = {name: DTYPES[dtype] if dtype else assemblies[name].dtype for name in tensor_shapes(source.config)}
    layout = {
        name: (dtypes[piece.source], piece.shape(assemblies[piece.source].shape)) for name, piece in pieces.items()
    }  # fmt: skip
    found: dict[str, tuple[str, Shape, str]] = {}

    def values() -> Iterator[tuple[str, Array]]:
        of_source = groupby(pieces.items(), key=lambda named: named[1].source)
        for source_name, made in _bar(of_source, assemblies, progress):
            assembly = assemblies[source_name]
            stored = assembly.read()
            if count := not_finite(stored, assembly.dtype):
                raise WeightsError(
                    f"{where}: tensor {source_name!r} has {count} values that are not finite (NaN or infinity), so "
                    "nothing that it takes part in has a meaning: the file is damaged, or its training went wrong."
                )
            value = cast(stored, assembly.dtype, dtypes[source_name], source_name)
            found[source_name] = dtypes[source_name], assembly.shape, tensor_digest(value)
            yield from ((name, piece.of(value)) for name, piece in made)

    with new_folder(destination) as folder:
        target.write_rest(folder, source.config, vocabulary_of(source), set(dtypes.values()))
        write_tensors(folder / target.weights, layout, values())
        whole = model_digest(found)
        if digest is not None:
            refuse_other(where, whole, digest)
        record = digest_record(folder / target.weights, whole)
        write_json(folder / PROVENANCE_NAME, _provenance(source, record, found, to, dtype, origin or {}))
    return Path(destination)


def cast(value: Array, given: str, wanted: str, name: str = "a tensor") -> Array:
    """From one of safetensors' dtypes to another, to nearest, ties to even. Raises WeightsError where it overflows."""
    if given == wanted:
        return value
    if given == "BF16":
        value = (value.astype(np.uint32) << 16).view(np.float32)
    finite = np.isfinite(value).all()
    with np.errstate(over="ignore"):
        if wanted == "BF16":
            bits = value.astype(np.float32).view(np.uint32)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            result, kept = rounded, np.isfinite((rounded.astype(np.uint32) << 16).view(np.float32)).all()
        else:
            result = value.astype(FLOATS[wanted])
            kept = np.isfinite(result).all()
    if finite and not kept:
        raise WeightsError(f"{name} has values too large for {wanted}. Convert without --dtype, or to a wider one.")
    return result


def not_finite(stored: Array, dtype: str) -> int:
    """How many of a stored tensor's values are infinite or NaN."""
    return int(np.count_nonzero(~np.isfinite(cast(stored, dtype, "F32") if dtype == "BF16" else stored)))


def vocabulary_of(source: Source) -> Vocabulary | None:
    """The checkpoint's own vocabulary if it has one, else OpenAI's if that has its size, else none.

    Raises WeightsError if it has merges of its own that give another size.
    """
    if isinstance(source.config.text, NoTower) or source.config.text.tokenizer is not None:
        return None
    text = source.config.text
    if source.merges is None and text.end_of_text != OPENAI_VOCABULARY - 1:
        return None
    merges = source.merges or DEFAULT_MERGES
    vocabulary = read_vocabulary(merges)
    found = len(symbols_of(vocabulary.merges)) + len(vocabulary.added)
    if found - 1 == text.end_of_text and found <= text.vocab_size:
        return vocabulary
    if source.merges is not None:
        raise WeightsError(
            f"{merges} gives {found} tokens, but the model has {text.vocab_size}. Is it another model's?"
        )
    return None


def _provenance(
    source: Source,
    record: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, Shape, str]],
    to: str,
    dtype: str | None,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    packages = ("clipref", "numpy", "safetensors")
    return {
        "made by": "clipref convert",
        "versions": {**{name: version(name) for name in packages}, "python": platform.python_version()},
        "model": source.model,
        "source": {"kind": source.kind, **origin, "files": source.files},
        **({} if to == "clipref" else {"layout": to}),
        "cast to": dtype,
        **record,
        "tensors": {
            name: {"dtype": kind, "shape": list(shape), "sha256": digest}
            for name, (kind, shape, digest) in tensors.items()
        },
    }


def _bar(
    sources: Iterable[tuple[str, _T]], assemblies: Mapping[str, Assembly], progress: bool
) -> Iterator[tuple[str, _T]]:
    """Names of our tensors, with whatever is with them, counted by their bytes."""
    if not progress:
        yield from sources
        return
    with no_fork:
        from tqdm import tqdm

    total = sum(part_bytes(assembly) for assembly in assemblies.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as bar:
        for name, kept in sources:
            yield name, kept
            bar.update(part_bytes(assemblies[name]))


_T = TypeVar("_T")


def part_bytes(assembly: Assembly) -> int:
    """Bytes of a tensor as it is stored."""
    return int(np.prod(assembly.shape)) * FLOATS[assembly.dtype].itemsize


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that settle what a checkpoint doesn't tell."""
    add_activation_argument(parser)
    parser.add_argument("--vision-heads", type=int, metavar="N", help="attention heads of the image tower")
    parser.add_argument("--text-heads", type=int, metavar="N", help="attention heads of the text tower")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a config.json as this command writes it")
    parser.add_argument("--prefix", metavar="NAME", help="of several models in a file, the one under this name")


def options_of(args: argparse.Namespace) -> Options:
    """The options of a source, from the command line."""
    for name in ("vision_heads", "text_heads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least 1.")
    config = None if args.config is None else read_config(args.config)
    model = getattr(args, "model", None)
    return Options(config, args.activation, args.vision_heads, args.text_heads, model, args.prefix)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("source", metavar="SRC", help="a checkpoint's file or folder, or a model id")
    parser.add_argument("destination", type=Path, metavar="DST", help="the folder to make")
    parser.add_argument("--to", choices=TARGETS, default="clipref", help="the layout to write (clipref)")
    parser.add_argument("--dtype", choices=DTYPES, help="cast every tensor (default: keep each as it is)")
    parser.add_argument("--model", choices=PUBLISHED, metavar="ID", help="say that it is this published model")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Convert, and print where the result is."""
    path = convert(
        present(args.source), args.destination, options_of(args),
        to=args.to, dtype=args.dtype, progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(path)
