"""Checkpoints on disk: which files there are, whether they fit the configuration, and their tensors a tower at a time.

A checkpoint is a folder with `model.safetensors` in OpenAI's tensor names, and optionally `config.json` and the
tokenizer's merges; or one bare `.safetensors` file. Everything is checked from the file's header before a single
weight is read. Refuses what it can't vouch for: other layouts (weights_tools converts them), and anything pickled.

The safetensors library checks the header (https://github.com/huggingface/safetensors, "Format"); the tensors are
views of the memory-mapped file, which float32 needs no copy of.
"""

from __future__ import annotations

import difflib
import json
import math
import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .config import ClipConfig, Shape, infer_config, tensor_shapes, text_shapes, visual_shapes
from .errors import ConfigError, ModelNotFound, WeightsError

DType: TypeAlias = Literal["float32", "float64"]

MERGES_NAMES = ("merges.txt", "merges.txt.gz", "bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")

# Buffers and constants that archives of CLIP carry beside the weights; none takes part in the forward pass.
_IGNORED = re.compile(r".*\.num_batches_tracked|(.*\.)?attn_mask|input_resolution|context_length|vocab_size")

# As the file has them; numpy has no bfloat16, the upper half of a float32.
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


# Bytes of a safetensors header; ViT-bigG-14's has 250,000. The library takes 100 MB, a gigabyte once they are parsed.
MAX_HEADER = 8_000_000


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another, and from itself after it was written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def ignored(name: str) -> bool:
    """Whether a tensor of this name may be in a checkpoint and takes no part in the forward pass."""
    return _IGNORED.fullmatch(name) is not None


class SafetensorsFile:
    """The tensors of one memory-mapped safetensors file, by name. Raises WeightsError if the file is damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path).absolute()  # which a later os.chdir doesn't move
        try:
            with open(self.path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"it would have a header of {length} bytes; a checkpoint of CLIP has a small one")
            # The library proves that the header is sound and that offsets tile the file, so below they can be trusted.
            with safe_open(self.path, framework="numpy"):
                pass
            with open(self.path, "rb") as file:
                self._opened = _identity(os.fstat(file.fileno()))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._bytes = np.frombuffer(self._map, np.uint8)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"{self.path} is not a sound safetensors file: {error}. Fetch or convert it again."
            ) from error
        header = json.loads(self._bytes[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        self._start = 8 + length
        self._header: dict[str, Any] = header
        self.shapes: dict[str, Shape] = {name: tuple(entry["shape"]) for name, entry in header.items()}
        self.dtypes: dict[str, str] = {name: entry["dtype"] for name, entry in header.items()}

    def stored(self, name: str) -> NDArray[Any]:
        """One tensor of a dtype in FLOATS, bit for bit. Read, not mapped, so that its memory can be given back."""
        begin, end = self._header[name]["data_offsets"]
        dtype = FLOATS[self.dtypes[name]]
        self.check_unchanged()
        with open(self.path, "rb") as file:
            raw = np.fromfile(file, dtype, (end - begin) // dtype.itemsize, offset=self._start + begin)
        return raw.reshape(self.shapes[name])

    def check_unchanged(self) -> None:
        """Raise WeightsError if the path leads to another file than was opened, or to a changed one, or to none.

        For whoever reads by the path: the tensors' places, and the other tower's weights, are those of the file opened.
        """
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise WeightsError(
                f"{self.path} can't be read any more ({error.strerror}), and a tower that wasn't used so far needs it; "
                f"put it back and open the model again."
            ) from error
        if _identity(found) != self._opened:
            raise WeightsError(f"{self.path} has changed since it was opened; open the model again.")

    def offset_of(self, array: NDArray[Any]) -> int | None:
        """Where in the file an array's bytes are, if they lie there as the array has them."""
        first, given = (x.__array_interface__["data"][0] for x in (self._bytes, array))
        inside = first <= given and given + array.nbytes <= first + self._bytes.nbytes
        return given - first if inside and array.flags.c_contiguous and array.flags.aligned else None

    def release(self) -> None:
        """Give back the memory of what was read of the mapped file; what is needed again is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)

    def read(self, name: str, dtype: DType) -> NDArray[Any]:
        """One tensor as `dtype`; a read-only view of the file where that is its dtype already.

        Raises WeightsError if a value isn't finite.
        """
        if FLOATS[self.dtypes[name]] == np.dtype(dtype):
            begin, end = self._header[name]["data_offsets"]
            raw: NDArray[Any] = self._bytes[self._start + begin : self._start + end].view(dtype)
            tensor = np.asarray(raw.reshape(self.shapes[name]))
        else:
            raw = self.stored(name)  # a mapping would keep what is only read once
            if self.dtypes[name] == "BF16":
                raw = (raw.astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):  # what float32 can't hold is found below
                tensor = raw.astype(dtype, copy=False)
        if not np.isfinite(tensor).all():
            count = int(np.count_nonzero(~np.isfinite(tensor)))
            raise WeightsError(
                f"{self.path}: tensor {name!r} has {count} values that are not finite (NaN or infinity); "
                f"the checkpoint is damaged. Fetch or convert it again."
            )
        return tensor


class Checkpoint:
    """A checkpoint that fits its configuration, and its towers' parameters, read when asked for."""

    def __init__(self, path: str | os.PathLike[str], config: ClipConfig | None = None) -> None:
        """Open a folder or a `.safetensors` file and check every tensor's name, shape and dtype.

        `config` overrides `config.json`; without either, the configuration is inferred from the tensor shapes.
        Raises ModelNotFound, ConfigError or WeightsError.
        """
        weights, folder = _files(Path(path).absolute())
        self.file = SafetensorsFile(weights)
        if config is None and folder is not None and (folder / "config.json").is_file():
            config = read_config(folder / "config.json")
        self.config = infer_config(self.file.shapes) if config is None else config
        self.merges = None if folder is None else next((p for n in MERGES_NAMES if (p := folder / n).is_file()), None)
        check_tensors(self.file.shapes, self.file.dtypes, self.config, str(weights))

    @property
    def logit_scale(self) -> float:
        """The factor that turns cosines into logits: the exponential of the tensor `logit_scale`.

        Raises WeightsError unless float32 holds it: as infinity or zero it would make every probability the same.
        """
        logarithm = float(self.file.read("logit_scale", "float64"))
        limits = np.log([np.finfo(np.float32).tiny, np.finfo(np.float32).max])
        if not limits[0] <= logarithm <= limits[1]:
            raise WeightsError(
                f"{self.file.path}: logit_scale is {logarithm:g}, whose exponential float32 can't hold; expected the "
                f"logarithm of the scale, about 4.6. Is the scale itself stored there?"
            )
        return math.exp(logarithm)

    def visual(self, dtype: DType) -> Any:
        """The image tower's parameters, nested, without the prefix `visual`."""
        return self._nested(visual_shapes(self.config), dtype)["visual"]

    def text(self, dtype: DType) -> Any:
        """The text tower's parameters, nested."""
        return self._nested(text_shapes(self.config), dtype)

    def _nested(self, names: Mapping[str, Shape], dtype: DType) -> Any:
        return nest({name: self.file.read(name, dtype) for name in names})


def _files(path: Path) -> tuple[Path, Path | None]:
    """The weights, and the folder whose other files belong to them, if any."""
    if path.is_dir():
        weights = path / "model.safetensors"
        if not weights.is_file():
            raise ModelNotFound(f"{path} has no model.safetensors; expected a folder with one, or a .safetensors file.")
        return weights, path
    if not path.is_file():
        raise ModelNotFound(f"{path} does not exist; expected a folder with model.safetensors, or a .safetensors file.")
    return path, path.parent if path.name == "model.safetensors" else None


def read_config(path: Path) -> ClipConfig:
    """`config.json` as written by `ClipConfig.to_dict`. Raises ConfigError that names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return ClipConfig.from_dict(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}. Remove it, to have the configuration inferred.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def check_tensors(shapes: Mapping[str, Shape], dtypes: Mapping[str, str], config: ClipConfig, where: str) -> None:
    """Raise WeightsError unless the tensors are those of `config`, each of the right shape and a float dtype."""
    expected = tensor_shapes(config)
    present = {name for name in shapes if not ignored(name)}
    misshapen, missing, unexpected = [], sorted(expected.keys() - present), sorted(present - expected.keys())
    for name in sorted(expected.keys() & present):
        if shapes[name] != expected[name]:
            misshapen.append(f"{name!r} has shape {shapes[name]}, expected {expected[name]}")
        elif dtypes[name] not in FLOATS:
            misshapen.append(f"{name!r} has dtype {dtypes[name]}, expected one of {', '.join(FLOATS)}")
    problems = misshapen[:5]
    for name in missing[:5]:  # of a hostile file's thousands, comparing each with each would take hours
        near = difflib.get_close_matches(name, unexpected[:1000], n=1)
        problems.append(f"missing {name!r} {expected[name]}" + (f" (is it {near[0]!r}?)" if near else ""))
    problems += [f"unexpected {name[:80]!r} {shapes[name]}" for name in unexpected[:5]]
    if problems:
        more = len(misshapen) + len(missing) + len(unexpected) - len(problems[:5])
        rest = f"; and {more} more" if more else ""
        raise WeightsError(f"{where} does not fit its configuration: {'; '.join(problems[:5])}{rest}.")


def nest(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.0.w": x, "a.1.w": y} -> {"a": [{"w": x}, {"w": y}]}: dots nest, numbers count."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = tensor

    def listed(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if all(key.isdigit() for key in node):
            return [listed(node[str(i)]) for i in range(len(node))]
        return {key: listed(value) for key, value in node.items()}

    return {key: listed(value) for key, value in tree.items()}
