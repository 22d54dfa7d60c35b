"""One case and one answer as files, for programs, for processes of engines, and for exported folders.

A case is a folder with `case.json` (id, verb, attributes, the checkpoint's folder) and `inputs.safetensors` (the arrays
by the names that protocol.py lists). An answer is a safetensors file with the outputs by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipref.files import write_whole
from clipref.weights_tools.folder import write_json

from ..protocol import Array, Case
from .failures import Garbage

# Bytes. The largest answer to a case is some 10 MB; all activations of one image in ViT-L/14@336px have 290 MB.
_LARGEST_ANSWER = 2**26
_LARGEST_TRACE = 2**28 + 2**26
# Dtypes of safetensors that numpy has too.
_DTYPES = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64")


def write_case(folder: Path, case: Case, checkpoint: str | None) -> None:
    """`case.json` and `inputs.safetensors` in a folder that exists; `checkpoint` is absolute, or relative to it."""
    write_arrays(folder / "inputs.safetensors", case.inputs)
    write_json(
        folder / "case.json",
        {**description(case), "checkpoint": checkpoint, "claims": list(case.claims)},
    )


def read_case(folder: Path) -> Case:
    """What write_case has written."""
    from safetensors.numpy import load_file

    written = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    checkpoint = None if written["checkpoint"] is None else folder / written["checkpoint"]
    level = written["id"].partition("/")[0]
    inputs = load_file(folder / "inputs.safetensors")
    return Case(
        written["id"], level, written["verb"], tuple(written["claims"]), inputs, written["attributes"], checkpoint
    )


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """A safetensors file of arrays by name, whatever their strides."""
    from safetensors.numpy import save_file

    with write_whole(path) as scratch:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, scratch)


def description(case: Case) -> dict[str, Any]:
    """What decides the answer of a case, but for the checkpoint."""
    return {
        "id": case.id,
        "verb": case.verb,
        "attributes": dict(case.attributes),
        "inputs_sha256": digest(case.inputs),
    }


def digest(arrays: Mapping[str, Array]) -> str:
    """sha256 of arrays: their names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def read_answer(path: Path, verb: str) -> dict[str, Array]:
    """The outputs of a verb by name. Raises Garbage if the file is not what it should be."""
    from safetensors import SafetensorError, safe_open

    # A link could lead to a device without an end, or to a file of somebody else's.
    if path.is_symlink() or not path.is_file():
        raise Garbage(f"{path.name} is not a regular file; expected a safetensors file")
    largest = _LARGEST_TRACE if verb.startswith("trace") else _LARGEST_ANSWER
    if (size := path.stat().st_size) > largest:
        raise Garbage(f"{path.name} has {size} bytes; expected at most {largest}")
    outputs: dict[str, Array] = {}
    try:
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise Garbage(f"{name!r} in {path.name} has dtype {dtype}; expected F32, or I64 for whole numbers")
                outputs[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Garbage(f"{path.name} is not a safetensors file that numpy can read: {problem}") from problem
    if not outputs:
        raise Garbage(f"{path.name} has no tensors in it")
    return outputs
