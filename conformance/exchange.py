"""Cases and answers as files, for engines that run elsewhere or are written in another language.

A case is a folder with `case.json` (id, verb, attributes, the checkpoint's folder) and `inputs.safetensors` (the arrays
by the names that case.py lists). An answer is a safetensors file with the outputs by name. `export` writes all cases
and the checkpoints that they need, and in `export.json` which they are and the sha256 of each file, so that `check`
misses what is gone. Whoever answers puts `answer.safetensors` beside each `case.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipref import __version__
from clipref.errors import InputError
from clipref.files import read_bytes
from clipref.weights_tools.folder import new_folder, write_json
from clipref.weights_tools.sources import sha256

from .case import Array, Case
from .engines.failures import Garbage

ANSWER = "answer.safetensors"
# Of a checkpoint, what an engine may need.
CHECKPOINT_FILES = ("model.safetensors", "config.json", "merges.txt")
# In bytes. The largest answer to a case is some 10 MB; all activations of one image in ViT-L/14@336px have 290 MB.
_LARGEST_ANSWER = 2**26
_LARGEST_TRACE = 2**28 + 2**26
_LARGEST_LIST = 2**24  # of an export.json: all cases have less than a hundredth of it
# Dtypes of safetensors that numpy has too.
_DTYPES = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64")


@dataclass(frozen=True)
class Exported:
    """What a folder was exported with, as its export.json has it."""

    profile: str
    cases: tuple[str, ...]  # ids
    files: Mapping[str, str]  # the sha256 of each, by its path in the folder


def folder_name(case: Case) -> str:
    """Where a case lies in an exported folder: its id, without the spaces that shells stumble over."""
    return f"cases/{case.id.replace(' ', '-')}"


def write_case(folder: Path, case: Case, checkpoint: str | None) -> None:
    """`case.json` and `inputs.safetensors` in a folder that exists; `checkpoint` is absolute, or relative to it."""
    write_arrays(folder / "inputs.safetensors", case.inputs)
    write_json(
        folder / "case.json",
        {**asked(case), "checkpoint": checkpoint, "claims": list(case.claims)},
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

    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)


def asked(case: Case) -> dict[str, Any]:
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


def export(cases: Iterable[Case], out: str | os.PathLike[str], onnx: bool = False, profile: str = "openai") -> int:
    """Write cases, and the checkpoints that they need, to a new folder; returns how many cases.

    With `onnx`, those of the towers are also written in the layout of ONNX's backend tests (write_backend_test).
    `profile`: of preprocessing, by which `check` will grade. Raises InputError if `out` exists.
    """
    ids = []
    with new_folder(out) as root:
        for case in cases:
            ids.append(case.id)
            folder = root / folder_name(case)
            folder.mkdir(parents=True)
            checkpoint = None
            if case.checkpoint is not None:
                copy = root / "checkpoints" / case.checkpoint.name
                if not copy.exists():
                    _copy_checkpoint(case.checkpoint, copy)
                checkpoint = Path(os.path.relpath(copy, folder)).as_posix()
            write_case(folder, case, checkpoint)
            (folder / "verb").write_text(case.verb, encoding="ascii")  # for scripts that read no JSON
            if onnx and case.verb in ("encode_image", "encode_text"):
                write_backend_test(root / "onnx" / case.id.replace(" ", "-"), case)
        if not ids:
            raise InputError("There are no cases to export; name a level or a case that there is.")
        written = [path for part in ("cases", "checkpoints") for path in sorted((root / part).rglob("*"))]
        files = {path.relative_to(root).as_posix(): sha256(path) for path in written if path.is_file()}
        write_json(root / "export.json", {"clipref": __version__, "profile": profile, "cases": ids, "files": files})
    return len(ids)


def _copy_checkpoint(source: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, copy / name)


def write_backend_test(folder: Path, case: Case) -> None:
    """One case as ONNX's backend tests have theirs: model.onnx, test_data_set_0/input_0.pb and output_0.pb.

    The model is complete, with standard operators, recorded from the reference; the output is the reference's in
    float64, rounded to float32. See https://github.com/onnx/onnx/tree/main/onnx/backend/test.
    """
    from onnx import numpy_helper

    from clipref.engine import ReferenceEngine
    from clipref.kernels.recording import complete, record_image, record_text
    from clipref.weights import Checkpoint

    assert case.checkpoint is not None
    checkpoint = Checkpoint(case.checkpoint)
    reference = ReferenceEngine(checkpoint, "float64")
    if case.verb == "encode_image":
        name, given = "pixels", case.inputs["pixels"]
        model = complete(record_image(checkpoint.config, checkpoint.visual("float32")), "visual")
        right = reference.encode_image(given)
    else:
        name, given = "ids", case.inputs["ids"].astype(np.int64)
        model = complete(record_text(checkpoint.config, checkpoint.text("float32"), "int64"), "textual")
        right = reference.encode_text(given)
    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    proto: Any = numpy_helper.from_array(np.ascontiguousarray(given), name)
    (data / "input_0.pb").write_bytes(proto.SerializeToString())
    proto = numpy_helper.from_array(right.astype(np.float32), "embeddings")
    (data / "output_0.pb").write_bytes(proto.SerializeToString())


def exported(folder: Path) -> Exported:
    """What a folder was exported with. Raises InputError if it isn't an exported folder."""
    path = folder / "export.json"
    try:
        text = read_bytes(path, _LARGEST_LIST)
    except OSError as problem:
        raise InputError(
            f"{folder} has no export.json that can be read ({problem}); expected a folder that clipref conformance "
            "export wrote."
        ) from problem
    try:
        found = json.loads(text.decode("utf-8"))
        known = Exported(found["profile"], tuple(found["cases"]), dict(found["files"]))
        if not known.cases or not all(isinstance(text, str) for text in (known.profile, *known.cases)):
            raise ValueError("no ids of cases")
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise InputError(
            f"{path} is not as this version of clipref conformance export writes it ({problem!r}); bring the original "
            "back, or export the cases again."
        ) from problem
    return known
