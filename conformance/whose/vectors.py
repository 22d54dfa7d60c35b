"""Stored vectors, as other programs leave them: read, matched with the items that they are of, and their precision.

A store is a `.npy` file (with names beside it as `clipref embed` writes them, or without), a parquet file with the
columns `path` and `embedding`, a `.safetensors` file of `clipref embed`, or a folder of clip-retrieval.

The precision is told from the numbers, not from the file's dtype: where all of them lie on a coarser grid, they were
rounded to it. That float32 numbers lie on float16's grid by chance has the probability 2**-13 each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from clipref.cli.texts import name_of
from clipref.errors import InputError
from clipref.files import parse_json, read_bytes
from clipref.numerics import to_bfloat16
from clipref.search.formats import IMPORTS, MAX_NAMES

from ..protocol import Array

Storage: TypeAlias = Literal["float64", "float32", "float16", "bfloat16", "int8"]
# How many doublings less probable than 1 it has to be that numbers lie on a grid of steps by chance.
_BITS = 60
_STEPS = 128  # of int8, to either side


@dataclass(frozen=True)
class Store:
    """Vectors [N, D] as they were stored, and the names of their items, None where the file has none."""

    vectors: Array
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class Grid:
    """What stored numbers were rounded to.

    `values` [N, D] float64 are the numbers, `half` [N, D] half a step of the grid at each. Of int8, both are in steps,
    and `steps` [N] is how large a step of each vector is, NaN where only whole numbers were stored; else it is None.
    """

    storage: Storage
    values: Array
    half: Array
    steps: Array | None = None


def read_store(path: str | os.PathLike[str]) -> Store:
    """The vectors of a file or folder. Raises InputError."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a .npy, .parquet or .safetensors file, or a folder.")
    kinds = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    read = _read_clip_retrieval if path.is_dir() else kinds.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"{path}: expected a .npy, .parquet or .safetensors file, or a folder as clip-retrieval writes it."
        )
    try:
        store = read(path)
    except InputError:
        raise
    except Exception as error:  # numpy's, pyarrow's, safetensors' and JSON's readers raise several kinds
        raise InputError(f"{path} can't be read as vectors: {error}.") from error
    _check(store.vectors, path)
    return store


def _check(vectors: Array, path: Path) -> None:
    found = f"{path} has {vectors.dtype} of shape {list(vectors.shape)}"
    if vectors.ndim != 2 or not vectors.size:
        raise InputError(f"{found}; expected vectors [N, E], at least one.")
    if vectors.dtype.kind not in "fi" or (vectors.dtype.kind == "i" and vectors.dtype != np.int8):
        raise InputError(f"{found}; expected float64, float32, float16, bfloat16 (in .safetensors) or int8.")
    rows = vectors.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1))
    if bad.size:
        raise InputError(f"{found}; row {bad[0]} is zero or not finite, so nothing can be told of it. Leave it out.")


def _read_npy(path: Path) -> Store:
    vectors = np.load(path, allow_pickle=False)
    beside = path.with_suffix(".names.json")
    if not beside.is_file():
        return Store(vectors[None] if vectors.ndim == 1 else vectors, None)
    names = parse_json(read_bytes(beside, MAX_NAMES))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != len(vectors):
        raise InputError(f"{beside} doesn't have the names of the {len(vectors)} vectors of {path}; remove or mend it.")
    return Store(vectors, tuple(names))


def _read_safetensors(path: Path) -> Store:
    from safetensors import safe_open

    from clipref.weights import FLOATS
    from clipref.weights_tools.stored import safetensors_tensors

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    # Whole numbers of 8 bits aren't a checkpoint's, and the others come bit for bit.
    names = tuple(parse_json(metadata["names"].encode())) if "names" in metadata else None
    tensors = safetensors_tensors(path)
    chosen = "embeddings" if "embeddings" in tensors else next(iter(tensors)) if len(tensors) == 1 else None
    if chosen is None:
        raise InputError(f"{path} has {len(tensors)} tensors; expected one, or one called embeddings.")
    tensor = tensors[chosen]
    if tensor.dtype == "I8":
        with safe_open(path, framework="numpy") as file:
            vectors = file.get_tensor(chosen)
    elif tensor.dtype not in FLOATS:
        raise InputError(f"{path}: {chosen} is {tensor.dtype}; expected {', '.join(FLOATS)} or I8.")
    else:
        vectors = tensor.read()
        if tensor.dtype == "BF16":
            vectors = (vectors.astype(np.uint32) << 16).view(np.float32)
    if names is not None and len(names) != len(vectors):
        raise InputError(f"{path} has {len(vectors)} vectors and {len(names)} names.")
    return Store(vectors, names)


def _from_rows(kind: str, path: Path) -> Store:
    rows = list(IMPORTS[kind](path))
    if not rows:
        raise InputError(f"{path} has no vectors.")
    if len({vector.shape for _, vector in rows}) > 1:
        raise InputError(f"{path} has vectors of several lengths; expected one.")
    return Store(np.stack([vector for _, vector in rows]), tuple(name_of(name) for name, _ in rows))


def _read_parquet(path: Path) -> Store:
    return _from_rows("parquet", path)


def _read_clip_retrieval(path: Path) -> Store:
    return _from_rows("clip-retrieval", path)


def match(store: Store, items: Sequence[Path], folder: Path) -> list[tuple[Path, int]]:
    """Pictures of a folder, sorted, with the row of the vector of each. By name, where the store has names.

    A name is the path, the path below the folder, or, where that is one file's only, the file's name. Without names
    there have to be as many vectors as pictures, in the order of their paths. Raises InputError.
    """
    if store.names is None:
        if len(items) != len(store.vectors):
            raise InputError(
                f"There are {len(store.vectors)} vectors without names, and {len(items)} pictures in {folder}; "
                "expected as many, in the order of the pictures' paths. Or put names beside them (VECTORS.names.json)."
            )
        return list(zip(items, range(len(items)), strict=True))
    rows: dict[str, int] = {}
    for row, name in enumerate(store.names):
        rows.setdefault(name, row)
    bases: dict[str, list[int]] = {}
    for name, row in rows.items():
        bases.setdefault(os.path.basename(name), []).append(row)
    files: dict[str, int] = {}
    for path in items:
        files[path.name] = files.get(path.name, 0) + 1
    matched = []
    for path in items:
        base = name_of(path.name)
        spelt = (name_of(path), name_of(path.absolute()), name_of(path.relative_to(folder)))
        known = [rows[name] for name in spelt if name in rows]
        alone = bases.get(base, []) if files[path.name] == 1 and len(bases.get(base, [])) == 1 else []
        if known or alone:
            matched.append((path, (known or alone)[0]))
    if not matched:
        raise InputError(
            f"None of the {len(items)} pictures in {folder} has a vector: the first name is {store.names[0]!r}, the "
            f"first picture {str(items[0])!r}. Give the folder that the names are in."
        )
    return matched


def grid_of(vectors: Array) -> Grid:
    """The coarsest grid that all the numbers of vectors [N, D] lie on."""
    values = vectors.astype(np.float64)
    if vectors.dtype == np.int8:
        return Grid("int8", values, np.full(values.shape, 0.5), np.full(len(values), np.nan))
    single = values.astype(np.float32)
    if not np.array_equal(single, values):
        return Grid("float64", values, np.spacing(np.abs(values)) / 2)
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    in_half = np.array_equal(half.astype(np.float32), single)
    exact = np.float64(2.0**-11 if in_half else 2.0**-24)
    if (steps := _steps(values, exact)) is not None:
        return Grid("int8", np.rint(values / steps[:, None]), np.full(values.shape, 0.5), steps)
    if np.array_equal(to_bfloat16(single), single):
        return Grid("bfloat16", values, np.ldexp(1.0, np.frexp(values)[1] - 9))
    if in_half:
        return Grid("float16", values, np.spacing(np.abs(half)).astype(np.float64) / 2)
    return Grid("float32", values, np.spacing(np.abs(single)).astype(np.float64) / 2)


def _steps(values: Array, relative: Any) -> Array | None:
    """The step of each vector whose numbers are all whole multiples of one; None unless each vector has one.

    `relative` is how far off each number may be, as it was rounded itself.
    """
    found = []
    for row in values:
        most, size = np.abs(row).max(), np.abs(row)
        for count in range(1, _STEPS + 1):
            multiples = size * (count / most)
            slack = 4 * relative * np.maximum(multiples, 1.0)
            if (np.abs(multiples - np.rint(multiples)) <= slack).all():
                break
        else:
            return None
        if -np.log2(np.minimum(2 * slack, 1.0)).sum() < _BITS:
            return None
        found.append(most / count)
    return np.array(found)
