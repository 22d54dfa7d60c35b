"""What torch has saved, read without torch and without running any of it: TorchScript archives and `torch.save` zips.

Both are zip files that hold a pickle and, uncompressed beside it, the bytes of the tensors
(https://github.com/pytorch/pytorch, torch/csrc/jit/docs/serialization.md). What a file claims of itself (offsets,
strides, how often a module is part of others) is checked against its bytes before anything of that size is made.

Refuses files of torch before 1.6, which aren't zips, and big-endian ones.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from clipref.errors import WeightsError

from .stored import Array, Stored, read_array
from .torch_pickle import MAX_OPERATIONS, STORAGES, Module, Tensor, unpickle
from .torch_zip import MAX_MEMBERS, Member, content, read_members

# A bound that honest checkpoints stay far below: ViT-bigG-14's pickle has 150 KB.
MAX_PICKLE = 4_000_000
MAX_CODE = 4_000_000
MAX_DEPTH = 100
MAX_NAME = 1000  # characters
MAX_GAPS = 2**25  # numbers of a storage that lie between a tensor's own, and are read with them
# How often the tensors may use each byte of the file: tied weights are there twice, with an average of them four times.
MAX_USES = 4


@dataclass(frozen=True)
class TorchFile:
    """A file's tensors by name, and what it says of its own making."""

    tensors: dict[str, Stored]
    code: str | None  # a TorchScript archive's source, None for a torch.save file


def read_torch_file(path: str | os.PathLike[str]) -> TorchFile:
    """Open a TorchScript archive or a torch.save file. Raises WeightsError for anything else."""
    path = Path(path)
    try:
        members = read_members(path)
        root = _root(members)
        order = members.get(f"{root}/byteorder")
        if order is not None and content(path, order, 16) != b"little":
            raise WeightsError("its numbers are big-endian; save it anew on a little-endian machine.")
        pickled = content(path, members[f"{root}/data.pkl"], MAX_PICKLE)
        code = _code(path, members, f"{root}/code/")
        value = unpickle(pickled)
        tensors = _stored_tensors(_named_tensors(value), path, root, members)
        if not tensors and isinstance(value, dict):
            keys = ", ".join(repr(str(key)[:40]) for key in list(value)[:5])
            raise WeightsError(f"it holds a dict without tensors ({keys}); expected a state dict.")
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error}.") from error
    return TorchFile(tensors, code)


def _root(members: Mapping[str, Member]) -> str:
    roots = [name[: -len("/data.pkl")] for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise WeightsError("its zip has no data.pkl in one top folder; expected a file that torch has saved.")
    pickle = members[f"{roots[0]}/data.pkl"]
    if pickle.compressed:
        raise WeightsError("its pickle is compressed, which torch never does.")
    if pickle.size > MAX_PICKLE:
        raise WeightsError(f"its pickle is over {MAX_PICKLE} bytes, more than a checkpoint of CLIP has.")
    return roots[0]


def _code(path: Path, members: Mapping[str, Member], prefix: str) -> str | None:
    """A TorchScript archive's source text, as much of it as is needed to see which operations it uses."""
    names = [name for name in members if name.startswith(prefix)]
    if not names:
        return None
    text, left = [], MAX_CODE
    for name in names:
        if name.endswith(".py") and left > 0:
            text.append(content(path, members[name], left).decode("utf-8", "replace"))
            left -= len(text[-1])
    return "\n".join(text)


def _named_tensors(top: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a TorchScript module by path, or of a state dict by key, under the keys of the dicts around it.

    Each with every name that leads to it: a module may be part of several, as one with tied weights is. Refused where
    that makes more of them than the longest pickle could list, as M modules do that each hold the same module of K
    names. Keys that aren't text are passed over, which an optimizer's state has.
    """
    if not isinstance(top, Module | dict):
        raise WeightsError(f"it holds a {type(top).__name__}; expected a TorchScript module or a state dict.")
    visited = 0
    waiting = [(top, "", 0)]
    while waiting:
        owner, prefix, depth = waiting.pop()
        parts = owner.state if isinstance(owner, Module) else owner
        visited += len(parts) + 1
        if depth > MAX_DEPTH:
            raise WeightsError(f"its parts contain one another, or lie over {MAX_DEPTH} deep.")
        if visited > MAX_OPERATIONS:
            raise WeightsError("its parts hold one another so often that their tensors would have too many names.")
        for key, part in parts.items():
            if not isinstance(key, str) or not isinstance(part, (Tensor, type(top))):
                continue
            name = f"{prefix}{key}"
            if len(name) > MAX_NAME:
                raise WeightsError(f"its parts contain one another, or have a name of over {MAX_NAME} characters.")
            if isinstance(part, Tensor):
                yield name, part
            else:
                waiting.append((part, f"{name}.", depth + 1))


def _stored_tensors(
    named: Iterator[tuple[str, Tensor]], path: Path, root: str, members: Mapping[str, Member]
) -> dict[str, Stored]:
    """The tensors in the file, which are no more than it has bytes for."""
    tensors: dict[str, Stored] = {}
    left = MAX_USES * sum(member.size for key, member in members.items() if key.startswith(f"{root}/data/"))
    for name, tensor in named:
        if len(tensors) == MAX_MEMBERS:
            raise WeightsError(f"it has names for over {MAX_MEMBERS} tensors.")
        if name in tensors:
            raise WeightsError(f"it has two tensors named {name[:80]!r}.")
        tensors[name], size = _locate_tensor(tensor, path, root, members, name[:80])
        left -= size
        if left < 0:
            raise WeightsError(f"its tensors share storages, and are more than {MAX_USES} times what the file has.")
    return tensors


def _locate_tensor(
    tensor: Tensor, path: Path, root: str, members: Mapping[str, Member], name: str
) -> tuple[Stored, int]:
    """The tensor, once it is certain that it lies in its storage, and its storage in the file; the bytes to be read."""
    storage = tensor.storage
    dtype, numpy_dtype = STORAGES[storage.kind][0], np.dtype(STORAGES[storage.kind][1])
    member = members.get(f"{root}/data/{storage.key}")
    if member is None or member.compressed:
        raise WeightsError(f"tensor {name!r}: its storage {storage.key[:40]!r} is missing, or compressed.")
    if not 0 <= storage.numel * numpy_dtype.itemsize <= member.size:
        raise WeightsError(
            f"tensor {name!r}: its storage claims {storage.numel} numbers of {dtype}, but has {member.size} bytes."
        )
    count = math.prod(tensor.shape)
    # Numbers from the first that is used to behind the last.
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) if count else 0
    if tensor.offset + span > storage.numel or count > span:
        raise WeightsError(
            f"tensor {name!r}: shape {tensor.shape}, strides {tensor.strides} and offset {tensor.offset} leave its "
            f"storage of {storage.numel} numbers, or use some of them twice."
        )
    if span - count > MAX_GAPS:
        raise WeightsError(f"tensor {name!r}: its {count} numbers lie scattered among {span}, as no weight's do.")
    begin = member.offset + tensor.offset * numpy_dtype.itemsize

    def read() -> Array:
        numbers = read_array(path, numpy_dtype, span, begin)
        strides = [s * numpy_dtype.itemsize for s in tensor.strides]
        return np.asarray(as_strided(numbers, tensor.shape, strides), order="C")

    return Stored(dtype, tensor.shape, read), span * numpy_dtype.itemsize
