"""Checkpoints on disk: which files there are, whether they fit the configuration, and their tensors a tower at a time.

A checkpoint is a `.safetensors` file in OpenAI's tensor names, in a folder `model.safetensors`, with `config.json` and
perhaps the tokenizer's merges beside it. Everything is checked from the file's header before a single
weight is read. Refuses what it can't vouch for: other layouts (weights_tools converts them), and anything pickled.

The safetensors library checks the header (https://github.com/huggingface/safetensors, "Format"); the tensors are
views of the memory-mapped file, which float32 needs no copy of.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import mmap
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .config import ClipConfig, Shape, tensor_shapes, text_shapes, visual_shapes
from .digests import model_digest, part_digest, read_provenance, recorded_digest, remember_digest, remembered_digest
from .errors import ConfigError, ModelNotFound, WeightsError
from .files import no_weights, open_regular, parse_json, read_bytes
from .lazy import no_fork
from .memory import trim
from .nesting import Unread, nest

DType: TypeAlias = Literal["float32", "float64"]

# Files of merges in the order of preference; the last has other people's steps before the merges, which have to be
# checked.
MERGES_NAMES = (
    "merges.txt",
    "merges.txt.gz",
    "bpe_simple_vocab_16e6.txt.gz",
    "bpe_simple_vocab_16e6.txt",
    "tokenizer.json",
)

# Buffers and constants that archives of CLIP carry beside the weights; none takes part in the forward pass.
_IGNORED = re.compile(r".*\.num_batches_tracked|(.*\.)?attn_mask|input_resolution|context_length|vocab_size")

# The dtypes that files have; numpy has no bfloat16, the upper half of a float32.
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


# Bytes of a config.json; ours has 900.
MAX_CONFIG = 1_000_000

# Bytes of a safetensors header; ViT-bigG-14's has 250,000. The library takes 100 MB, a gigabyte once they are parsed.
MAX_HEADER = 8_000_000
# Bytes of a tensor whose values are checked when a checkpoint is opened: all but the matrices, in the published models.
SMALL = 2**20


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """The identity of a file, which is another after it was written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def ignored(name: str) -> bool:
    """Whether a tensor of this name may be in a checkpoint and takes no part in the forward pass."""
    return _IGNORED.fullmatch(name) is not None


class SafetensorsFile:
    """The tensors of one memory-mapped safetensors file, by name. Raises WeightsError if the file is damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        with no_fork:
            from safetensors import SafetensorError, safe_open

        self.path = Path(path).absolute()  # which a later os.chdir doesn't move
        try:
            file = open_regular(self.path)
            weakref.finalize(self, file.close)
            self._descriptor = file.fileno()
            self.status = os.fstat(self._descriptor)
            self._digest: str | None = None
            start = file.read(64)
            if other := no_weights(start):
                raise ValueError(other)
            length = int.from_bytes(start[:8], "little")
            if length > MAX_HEADER:
                raise ValueError(f"it would have a header of {length} bytes; a checkpoint of CLIP has a small one")
            # The library proves that the header is sound and that offsets tile the file, so below they can be trusted.
            with safe_open(self.path, framework="numpy"):
                pass
            self._check_path()  # so that what the library has read is what is mapped
            self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
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
        self._check_path()
        self._check_not_written_to()

    def _check_path(self) -> None:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise WeightsError(
                f"{self.path} can't be read any more ({error.strerror}), and a tower that wasn't used so far needs it; "
                f"put it back and open the model again."
            ) from error
        if _identity(found) != _identity(self.status):
            raise WeightsError(f"{self.path} has changed since it was opened; open the model again.")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Raise WeightsError if the file that was opened has been written to, before what is done here or meanwhile.

        For whoever computes with its weights, which are views of the mapped file, or copies of what it had. A file that
        was renamed, removed or replaced by another is the same to those who have it open, and no error. What can't be
        promised: a file that is cut short in the middle of a computation ends the process (SIGBUS), and a change within
        one tick of the file system's clock isn't seen.

        Where size and time are as they were and the inode's time isn't, somebody renamed, linked or chmoded the file,
        or wrote to it and set its time back. The digest tells, where the one of before is known: then the weights are
        read once. Otherwise a change of name, links, owner or mode is believed to be all; without one, it's an error.
        """
        self._check_not_written_to()
        yield
        self._check_not_written_to()

    def _check_not_written_to(self) -> None:
        try:
            found = os.fstat(self._descriptor)
            same = _identity(found) == _identity(self.status)
        except OSError:  # a network's file that is gone
            same = False
        if same and found.st_ctime_ns != self.status.st_ctime_ns:
            same = self._has_same_bytes(found)
            self.status = found if same else self.status
        if not same:
            raise WeightsError(
                f"{self.path} was written to after it was opened, and can't be told to have the model's weights still; "
                f"open the model again. To exchange weights that are in use, write another file and rename it."
            )

    def _has_same_bytes(self, found: os.stat_result) -> bool:
        """Whether the file of that status has the weights that were opened, as far as that can be told; see `guard`."""
        before = self._digest or remembered_digest(self.status)
        with suppress(WeightsError):  # a provenance that can't be read records nothing
            before = before or recorded_digest(read_provenance(self.path), self.status)
        if before is not None:
            return before == self._digest_by(lambda a, b: hashlib.sha256(self._bytes[a:b].data).hexdigest())
        try:
            renamed = not os.path.samestat(os.stat(self.path), found)
        except OSError:
            renamed = True
        return renamed or any(getattr(found, x) != getattr(self.status, x) for x in ("st_nlink", "st_mode", "st_uid"))

    @property
    def digest(self) -> str:
        """The digest of all tensors that take part in the forward pass (clipref.digests), from the file itself.

        The file is read once, a block at a time; for a large one the digest is remembered from process to process.
        """
        # Threads may race for it: to the same value, without a lock that a fork could copy held.
        if self._digest is None:
            self._digest = remembered_digest(self.status)
        if self._digest is None:
            self._digest = self.read_digest()
            remember_digest(self.status, self._digest)
        return self._digest

    def read_digest(self) -> str:
        """The digest of the tensors, read from the file whatever is remembered of it."""
        self.check_unchanged()
        with open_regular(self.path) as file:
            found = self._digest_by(lambda begin, end: part_digest(file, begin, end))
        self.check_unchanged()
        return found

    def _digest_by(self, digest_of: Callable[[int, int], str]) -> str:
        """The digest of the tensors, with the sha256 of the file's bytes from one offset to another."""
        found = {}
        for name, entry in self._header.items():
            if not ignored(name):
                begin, end = (self._start + offset for offset in entry["data_offsets"])
                found[name] = self.dtypes[name], self.shapes[name], digest_of(begin, end)
        return model_digest(found)

    def offset_of(self, array: NDArray[Any]) -> int | None:
        """Where in the file an array's bytes are, if they lie there as the array has them."""
        first, given = (x.__array_interface__["data"][0] for x in (self._bytes, array))
        inside = first <= given and given + array.nbytes <= first + self._bytes.nbytes
        return given - first if inside and array.flags.c_contiguous and array.flags.aligned else None

    def release(self) -> None:
        """Give back the memory of what was read of the mapped file; what is needed again is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)
        trim()

    def read(self, name: str, dtype: DType) -> NDArray[Any]:
        """One tensor as `dtype`; a read-only view of the file where that is its dtype already.

        Raises WeightsError if a value isn't finite.
        """
        with self.guard():
            tensor = self._read(name, dtype)
            finite = np.isfinite(tensor)
        if not finite.all():
            count = int(np.count_nonzero(~finite))
            raise WeightsError(
                f"{self.path}: tensor {name!r} has {count} values that are not finite (NaN or infinity); "
                f"the checkpoint is damaged. Fetch or convert it again."
            )
        return tensor

    def _read(self, name: str, dtype: DType) -> NDArray[Any]:
        if FLOATS[self.dtypes[name]] == np.dtype(dtype):
            begin, end = self._header[name]["data_offsets"]
            mapped: NDArray[Any] = self._bytes[self._start + begin : self._start + end].view(dtype)
            return np.asarray(mapped.reshape(self.shapes[name]))
        raw = self.stored(name)  # a mapping would keep what is only read once
        if self.dtypes[name] == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # what float32 can't hold is not finite
            return raw.astype(dtype, copy=False)


class Checkpoint:
    """A checkpoint that fits its configuration, and its towers' parameters, read when asked for."""

    def __init__(self, path: str | os.PathLike[str], config: ClipConfig | None = None) -> None:
        """Open a folder or a `.safetensors` file and check every tensor's name, shape and dtype.

        `config` stands for the `config.json` beside the weights, one of which there must be: what tensors can't tell
        is never assumed. Raises ModelNotFound, ConfigError or WeightsError.
        """
        weights = _weights_file(Path(path).absolute())
        beside = weights.parent
        self.file = SafetensorsFile(weights)
        self._recorded: str | None = None  # the digest that provenance.json has, "" if it has none
        self.config = _config_of(weights) if config is None else config
        self.merges = next((file for name in MERGES_NAMES if (file := beside / name).is_file()), None)
        check_tensors(self.file.shapes, self.file.dtypes, self.config, str(weights))

    @property
    def logit_scale(self) -> float:
        """The factor that turns cosines into logits: the exponential of the tensor `logit_scale`.

        NaN of one tower alone, which has none, nor anything to compare with. Raises WeightsError unless float32 holds
        it: as infinity or zero it would make every probability the same.
        """
        if "logit_scale" not in tensor_shapes(self.config):
            return math.nan
        logarithm = float(self.file.read("logit_scale", "float64"))
        limits = np.log([np.finfo(np.float32).tiny, np.finfo(np.float32).max])
        if not limits[0] <= logarithm <= limits[1]:
            raise WeightsError(
                f"{self.file.path}: logit_scale is {logarithm:g}, whose exponential float32 can't hold; expected the "
                f"logarithm of the scale, about 4.6. Is the scale itself stored there?"
            )
        return math.exp(logarithm)

    @property
    def digest(self) -> str:
        """The digest of these weights: a sha256 over names, dtypes, shapes and bytes of all tensors.

        The same for the same weights in any file, layout or sharding, once converted; another where they were cast to
        another dtype (see clipref.digests). As provenance.json beside the weights records it, as long as they have the
        size and time that it says; otherwise read from the weights, which takes about a second for a gigabyte.
        """
        if self._recorded is None:
            self._recorded = ""
            with suppress(WeightsError):  # a provenance that can't be read records nothing
                self._recorded = recorded_digest(read_provenance(self.file.path), self.file.status) or ""
        return self._recorded or self.file.digest

    def check_small_tensors(self) -> None:
        """Raise WeightsError if a value of a tensor of at most SMALL bytes isn't finite.

        A training that diverged leaves NaN in all of them, and they are read in milliseconds. The rest is checked when
        its tower is first used: to read all of it now would cost a second for a gigabyte in memory, and the disk's time
        where it isn't, also those who use one tower.
        """
        for name, shape in tensor_shapes(self.config).items():
            if math.prod(shape) * FLOATS[self.file.dtypes[name]].itemsize <= SMALL:
                self.file.read(name, "float64" if self.file.dtypes[name] == "F64" else "float32")

    def visual(self, dtype: DType) -> Any:
        """The image tower's parameters, nested, without the prefix `visual`."""
        return nest({name: self.file.read(name, dtype) for name in visual_shapes(self.config)})["visual"]

    def text(self, dtype: DType) -> Any:
        """The text tower's parameters, nested."""
        return nest({name: self.file.read(name, dtype) for name in text_shapes(self.config)})

    def unread_visual(self, dtype: DType) -> Any:
        """As `visual`, but each tensor is read, and checked, whenever it is asked for."""
        return self._unread(visual_shapes(self.config), dtype)["visual"]

    def unread_text(self, dtype: DType) -> Any:
        """As `text`, but each tensor is read, and checked, whenever it is asked for."""
        return self._unread(text_shapes(self.config), dtype)

    def _unread(self, names: Iterable[str], dtype: DType) -> Unread:
        return Unread(nest({name: name for name in names}), lambda name: self.file.read(name, dtype))


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        weights = path / "model.safetensors"
        if not weights.is_file():
            raise ModelNotFound(f"{path} has no model.safetensors; expected a folder with one, or a .safetensors file.")
        return weights
    if not path.is_file():
        raise ModelNotFound(f"{path} does not exist; expected a folder with model.safetensors, or a .safetensors file.")
    return path


def _config_of(weights: Path) -> ClipConfig:
    path = weights.parent / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{weights} has no config.json beside it; give its configuration, or open it with "
            f"AutoModel.from_pretrained, which knows the config files of other projects too."
        )
    return read_config(path)


def read_config(path: Path) -> ClipConfig:
    """`config.json` as written by `ClipConfig.to_dict`. Raises ConfigError that names the file."""
    try:
        return ClipConfig.from_dict(parse_json(read_bytes(path, MAX_CONFIG)))
    except (OSError, ValueError) as error:
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
