"""Cases and answers as files, for engines that run elsewhere or are written in another language.

`export` writes all cases, as engines/files.py has them, and the checkpoints that they need; and in `export.json` which
they are and the sha256 of each file, so that `check` misses what is gone. Whoever answers puts `answer.safetensors`
beside each `case.json`.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipref import __version__
from clipref.errors import ConfigError, InputError
from clipref.files import parse_json, read_bytes
from clipref.weights_tools.convert import convert
from clipref.weights_tools.folder import new_folder, write_json
from clipref.weights_tools.sources import sha256

from .engines.files import write_case
from .protocol import Case

ANSWER = "answer.safetensors"
# Files of a checkpoint that an engine may need.
CHECKPOINT_FILES = ("model.safetensors", "config.json", "merges.txt")
_LARGEST_LIST = 2**24  # of an export.json: all cases have less than a hundredth of it


@dataclass(frozen=True)
class Exported:
    """What a folder was exported with, as its export.json has it."""

    profile: str
    cases: tuple[str, ...]  # ids
    files: Mapping[str, str]  # the sha256 of each, by its path in the folder


def folder_name(case: Case) -> str:
    """Where a case lies in an exported folder: its id, without the spaces that shells stumble over."""
    return f"cases/{case.id.replace(' ', '-')}"


def export(
    cases: Iterable[Case],
    out: str | os.PathLike[str],
    onnx: bool = False,
    profile: str = "openai",
    layout: str = "clipref",
) -> tuple[int, Counter[str]]:
    """Write cases, and the checkpoints that they need, to a new folder; returns how many cases.

    With another `layout` of weights_tools/targets.py, cases name folders in that one, which lie beside the usual ones.
    Cases of models that it can't express are left out; how many is the second that is returned, by the reason.

    With `onnx`, those of the towers are also written in the layout of ONNX's backend tests (write_backend_test).
    `profile`: of preprocessing, by which `check` will grade. Raises InputError if `out` exists.
    """
    ids, left_out = [], Counter[str]()
    with new_folder(out) as root:
        for case in cases:
            folder, checkpoint = root / folder_name(case), None
            if case.checkpoint is not None:
                copy, laid_out = (root / place / case.checkpoint.name for place in ("checkpoints", layout))
                try:
                    if layout != "clipref" and not laid_out.exists():
                        convert(case.checkpoint, laid_out, to=layout)
                except ConfigError as problem:
                    left_out[str(problem)] += 1
                    continue
                if not copy.exists():
                    _copy_checkpoint(case.checkpoint, copy)
                checkpoint = Path(os.path.relpath(copy if layout == "clipref" else laid_out, folder)).as_posix()
            ids.append(case.id)
            folder.mkdir(parents=True)
            write_case(folder, case, checkpoint)
            (folder / "verb").write_text(case.verb, encoding="ascii")  # for scripts that read no JSON
            if onnx and case.verb in ("encode_image", "encode_text"):
                write_backend_test(root / "onnx" / case.id.replace(" ", "-"), case)
        if not ids:
            reasons = "".join(f" {reason}" for reason in left_out)
            raise InputError(f"There are no cases to export; name a level or a case that there is.{reasons}")
        written = [path for part in ("cases", "checkpoints", layout) for path in sorted((root / part).rglob("*"))]
        files = {path.relative_to(root).as_posix(): sha256(path) for path in written if path.is_file()}
        write_json(root / "export.json", {"clipref": __version__, "profile": profile, "cases": ids, "files": files})
    return len(ids), left_out


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


def read_export(folder: Path) -> Exported:
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
        found = parse_json(text)
        known = Exported(found["profile"], tuple(found["cases"]), dict(found["files"]))
        if not known.cases or not all(isinstance(text, str) for text in (known.profile, *known.cases)):
            raise ValueError("no ids of cases")
    except (ValueError, TypeError, KeyError) as problem:
        raise InputError(
            f"{path} is not as this version of clipref conformance export writes it ({problem!r}); bring the original "
            "back, or export the cases again."
        ) from problem
    return known
