"""What torch has saved, read without torch and without running any of it: TorchScript archives and `torch.save` zips.

Both are zip files that hold a pickle and, uncompressed beside it, the bytes of the tensors
(https://github.com/pytorch/pytorch, torch/csrc/jit/docs/serialization.md). A pickle is a program for a small machine
that builds objects by calling whatever it names. The machine here, `unpickle`, can't call anything: it knows tensors,
storages, containers, numbers, strings, and inert stand-ins for the modules of a TorchScript archive. A pickle that
names anything else is refused, and the error says what it asked for. What a file claims of itself (sizes, offsets,
strides) is checked against its bytes before anything of that size is made.

Refuses files of torch before 1.6, which aren't zips, and big-endian ones.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from clipref.config import Shape
from clipref.errors import WeightsError

from .stored import Array, Stored, read_array

# What an honest checkpoint stays far below: ViT-bigG-14 has 1,800 tensors, and its pickle 150 KB.
MAX_MEMBERS = 50_000
MAX_PICKLE = 4_000_000
MAX_OPERATIONS = 600_000
MAX_CODE = 4_000_000
MAX_DEPTH = 100
MAX_GAPS = 2**25  # numbers of a storage that lie between a tensor's own, and are read with them

# torch's storage classes: safetensors' name of the dtype, and numpy's.
_STORAGES = {
    "DoubleStorage": ("F64", "<f8"),
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "<i1"),
    "ByteStorage": ("U8", "<u1"),
    "BoolStorage": ("BOOL", "<u1"),
}


@dataclass(frozen=True)
class TorchFile:
    """A file's tensors by name, and what it says of its own making."""

    tensors: dict[str, Stored]
    code: str | None  # a TorchScript archive's source, None for a torch.save file


def read_torch_file(path: str | os.PathLike[str]) -> TorchFile:
    """Open a TorchScript archive or a torch.save file. Raises WeightsError for anything else."""
    path = Path(path)
    try:
        members, archive = _members(path)
        with archive:
            root = _root(members)
            if archive.getinfo(f"{root}/data.pkl").file_size > MAX_PICKLE:
                raise WeightsError(f"its pickle is over {MAX_PICKLE} bytes, more than a checkpoint of CLIP has.")
            order = f"{root}/byteorder"
            if order in members and _beginning(archive, order, 16) != b"little":
                raise WeightsError("its numbers are big-endian; save it anew on a little-endian machine.")
            pickled = archive.read(f"{root}/data.pkl")
            code = _code(archive, f"{root}/code/")
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, struct.error, EOFError, ValueError) as error:
        raise WeightsError(f"{path} is not a sound zip file: {error}. Fetch it again.") from error
    try:
        value = unpickle(pickled)
        named = dict(_named_tensors(value))
        tensors = {name: _stored(tensor, path, root, members, name[:80]) for name, tensor in named.items()}
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return TorchFile(tensors, code)


# --- the zip ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """Where an uncompressed member's bytes are; None if they are compressed."""

    offset: int | None
    size: int


def _members(path: Path) -> tuple[dict[str, _Member], zipfile.ZipFile]:
    """Every member of the zip, none of which is encrypted, repeated, outside of the file or on top of another."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            raise WeightsError(
                "it is neither safetensors nor a zip as torch has written since version 1.6. If it is an older torch "
                "file, open it with torch once and save it anew, or take the safetensors file of the same model."
            )
        file.seek(max(0, size - 65_557))  # the end record, and the longest comment
        if file.read().count(b"PK\x05\x06") == 0:
            raise WeightsError("it was cut short: the zip's directory at the end is missing. Fetch it again.")
    if _directory_size(path, size) > MAX_MEMBERS * 200:
        raise WeightsError(f"its zip directory is of a size for more than {MAX_MEMBERS} members.")
    archive = zipfile.ZipFile(path)
    try:
        members: dict[str, _Member] = {}
        spans: list[tuple[int, int, str]] = []
        with open(path, "rb") as file:
            for info in archive.infolist():
                shown = info.filename[:80]
                if info.filename in members:
                    raise WeightsError(f"its zip has the member {shown!r} twice.")
                if info.flag_bits & 1:
                    raise WeightsError(f"its zip's member {shown!r} is encrypted.")
                if ".." in info.filename.split("/") or info.filename.startswith("/") or "\\" in info.filename:
                    raise WeightsError(f"its zip's member {shown!r} points out of the archive.")
                file.seek(info.header_offset)
                header = file.read(30)
                if len(header) != 30 or header[:4] != b"PK\x03\x04":
                    raise WeightsError(f"its zip's member {shown!r} is not where the directory says.")
                name_length, extra_length = struct.unpack("<HH", header[26:30])
                begin = info.header_offset + 30 + name_length + extra_length
                end = begin + info.compress_size
                if end > size:
                    raise WeightsError(f"its zip's member {shown!r} ends after the file. Fetch it again.")
                spans.append((info.header_offset, end, info.filename))
                stored = info.compress_type == zipfile.ZIP_STORED
                if not stored and info.compress_type != zipfile.ZIP_DEFLATED:  # others need memory before they say so
                    raise WeightsError(f"its zip's member {shown!r} is compressed as torch never does.")
                if stored and info.compress_size != info.file_size:
                    raise WeightsError(f"its zip's member {shown!r} contradicts itself about its size.")
                members[info.filename] = _Member(begin if stored else None, info.file_size)
        spans.sort()
        for (_, end, name), (begin, _, other) in pairwise(spans):
            if begin < end:
                raise WeightsError(f"its zip's members {name[:80]!r} and {other[:80]!r} overlap.")
    except BaseException:
        archive.close()
        raise
    return members, archive


def _directory_size(path: Path, size: int) -> int:
    """Bytes of the zip's central directory, before anything of that size is read (APPNOTE.TXT, 4.3.14 to 4.3.16)."""
    with open(path, "rb") as file:
        start = max(0, size - 65_557)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if len(tail) - at < 22:
            raise WeightsError("it was cut short: the zip's directory at the end is missing. Fetch it again.")
        (length,) = struct.unpack_from("<I", tail, at + 12)
        locator = tail[max(0, at - 20) : at]
        if locator[:4] == b"PK\x06\x07":
            (where,) = struct.unpack_from("<Q", locator, 8)
            if where + 56 > size:
                raise WeightsError("its zip's directory points out of the file.")
            file.seek(where)
            (length,) = struct.unpack_from("<Q", file.read(56), 40)
    return int(length)


def _root(members: Mapping[str, _Member]) -> str:
    roots = [name[: -len("/data.pkl")] for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise WeightsError("its zip has no data.pkl in one top folder; expected a file that torch has saved.")
    if members[f"{roots[0]}/data.pkl"].offset is None:
        raise WeightsError("its pickle is compressed, which torch never does.")
    return roots[0]


def _code(archive: zipfile.ZipFile, prefix: str) -> str | None:
    """A TorchScript archive's source text, as much of it as is needed to see which operations it uses."""
    names = [info.filename for info in archive.infolist() if info.filename.startswith(prefix)]
    if not names:
        return None
    text, left = [], MAX_CODE
    for name in names:
        if name.endswith(".py") and left > 0:
            text.append(_beginning(archive, name, left).decode("utf-8", "replace"))
            left -= len(text[-1])
    return "\n".join(text)


def _beginning(archive: zipfile.ZipFile, name: str, count: int) -> bytes:
    """A member's first bytes; it may be compressed, and be enormous when it isn't."""
    with archive.open(name) as file:
        return file.read(count)


# --- the pickle ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """Something that the pickle names. Never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Module:
    """The inert stand-in for a module of a TorchScript archive."""

    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Storage:
    """A persistent id: which member of the zip, of which dtype, how many numbers."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage, in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape


_MARK = object()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    axes = type(shape) is type(strides) is tuple and len(shape) == len(strides) <= 8
    if not axes or not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise WeightsError("its pickle describes a tensor whose offset, shape or strides make no sense.")
    if not isinstance(storage, Storage):
        raise WeightsError("its pickle describes a tensor without a storage.")
    return Tensor(storage, offset, shape, strides)


def _first(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> dict[Any, Any]:
    return {}


# All that can be "called". None does more than to put its arguments together, or takes longer if they are large.
_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "collections.OrderedDict": lambda: {},
    "torch.Size": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    # What training scripts save beside the weights: a device, numbers of numpy.
    "torch.device": _nothing,
    "numpy.dtype": _nothing,
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
    "_codecs.encode": _nothing,
}
# The parsed command line of a training script; a stand-in is made of it, as of a module.
_NAMESPACE = "argparse.Namespace"


def _name(module: Any, name: Any) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise WeightsError("its pickle names something that is not a name.")
    found = Name(module, name)
    storage = module == "torch" and name in _STORAGES
    script = (module == "__torch__" or module.startswith("__torch__.")) and "." not in name
    if str(found) not in (*_BUILDERS, _NAMESPACE) and not storage and not script:
        raise WeightsError(
            f"its pickle asks for {str(found)[:200]!r}, which no checkpoint of CLIP needs. Nothing was run. If you "
            "trust the file, open it with torch and save its state_dict alone; otherwise throw it away."
        )
    return found


def _shown(value: Any) -> str:
    """For an error; never a container, whose text could be endless."""
    return repr(str(value)[:200]) if isinstance(value, Name) else f"a {type(value).__name__}"


def unpickle(data: bytes) -> Any:
    """What a pickle describes, built from plain values and the stand-ins above. Raises WeightsError."""
    # Named first of all, so that a bad name is what the error is about, whatever else is wrong.
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if operation.name in ("GLOBAL", "INST"):
                _name(*str(argument).split(" ", 1))
            if count > MAX_OPERATIONS:
                raise WeightsError(f"its pickle has over {MAX_OPERATIONS} operations.")
        return _run(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError, OverflowError) as error:
        raise WeightsError(f"its pickle is damaged ({type(error).__name__}: {error}). Fetch it again.") from error
    except (RecursionError, MemoryError) as error:
        raise WeightsError("its pickle is nested too deeply or claims too much. Fetch it again.") from error


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_mark() -> list[Any]:
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                items = stack[i + 1 :]
                del stack[i:]
                return items
        raise ValueError("no mark")

    def pop(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("stack underflow")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    argument: Any  # of the type that the operation has
    for operation, argument, _ in pickletools.genops(data):
        name = operation.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name == "MARK":
            stack.append(_MARK)
        elif name in _VALUES:
            stack.append(_VALUES[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(pop_mark()))
        elif name == "LIST":
            stack.append(pop_mark())
        elif name in ("APPEND", "APPENDS"):
            items = pop(1) if name == "APPEND" else pop_mark()
            if type(stack[-1]) is not list:
                raise ValueError("appends to what isn't a list")
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = pop(2) if name == "SETITEM" else pop_mark()
            if name == "DICT":
                stack.append({})
            if type(stack[-1]) is not dict:
                raise ValueError("sets an item of what isn't a dict")
            if not all(type(key) in (str, int) for key in items[::2]):
                raise ValueError("a dict's key is neither text nor number")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_name(*pop(2)))
        elif name == "BINPERSID":
            stack.append(_storage(*pop(1)))
        elif name == "NEWOBJ":
            cls, arguments = pop(2)
            known = isinstance(cls, Name) and (cls.module.startswith("__torch__") or str(cls) == _NAMESPACE)
            if not known or arguments != ():
                raise WeightsError(f"its pickle makes an object of {_shown(cls)}; expected a TorchScript module.")
            stack.append(Module())
        elif name == "BUILD":
            (state,) = pop(1)
            if isinstance(stack[-1], Module) and type(state) is dict:
                stack[-1].state = state
            elif type(stack[-1]) is not dict:  # a state_dict's _metadata is nothing that we need
                raise ValueError("sets the state of what isn't a module")
        elif name == "REDUCE":
            function, arguments = pop(2)
            if not isinstance(function, Name) or str(function) not in _BUILDERS or type(arguments) is not tuple:
                raise WeightsError(f"its pickle calls {_shown(function)}.")
            stack.append(_BUILDERS[str(function)](*arguments))
        else:
            raise WeightsError(f"its pickle uses the operation {name}, which torch never writes.")
    raise ValueError("no end")


_VALUES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"), lambda value: value
    ),
}


def _storage(identity: Any) -> Storage:
    """A persistent id: ("storage", class, key, device, how many numbers)."""
    if type(identity) is not tuple or len(identity) < 5 or identity[0] != "storage":
        raise WeightsError("its pickle has a persistent id that is not a storage's.")
    _, cls, key, _, numel = identity[:5]
    known = isinstance(cls, Name) and cls.module == "torch" and cls.name in _STORAGES
    if not known or not isinstance(key, str) or type(numel) is not int:
        raise WeightsError(f"its pickle has a storage of {_shown(cls)}, which is not described as torch does.")
    return Storage(cls.name, key, numel)


# --- from the pickle to tensors --------------------------------------------------------------------------------------


def _named_tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a TorchScript module by path, or of a state dict by key, under the keys of the dicts around it."""
    if isinstance(value, Module):
        return _tensors_below(value, "", 0, set())
    if not isinstance(value, dict):
        raise WeightsError(f"it holds a {type(value).__name__}; expected a TorchScript module or a state dict.")
    found = dict(_tensors_of_dicts(value))
    if not found:
        keys = ", ".join(repr(str(key)[:40]) for key in list(value)[:5])
        raise WeightsError(f"it holds a dict without tensors ({keys}); expected a state dict.")
    return iter(found.items())


def _tensors_of_dicts(top: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors under keys that are all text, joined by dots; an optimizer's have numbers among them."""
    seen = 0
    dicts = [("", top)]
    while dicts:
        prefix, value = dicts.pop()
        if prefix.count(".") > MAX_DEPTH or (seen := seen + 1 + len(value)) > MAX_OPERATIONS:
            raise WeightsError("its dicts contain one another, or hold more than a checkpoint of CLIP does.")
        for key, item in value.items():
            if isinstance(key, str) and isinstance(item, Tensor):
                yield f"{prefix}{key}", item
            elif isinstance(key, str) and isinstance(item, dict):
                dicts.append((f"{prefix}{key}.", item))


def _tensors_below(module: Module, prefix: str, depth: int, above: set[int]) -> Iterator[tuple[str, Tensor]]:
    if depth > MAX_DEPTH or id(module) in above:
        raise WeightsError("its modules contain one another, or one of them twice.")
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Module):
            above.add(id(module))
            yield from _tensors_below(value, f"{prefix}{name}.", depth + 1, above)


def _stored(tensor: Tensor, path: Path, root: str, members: Mapping[str, _Member], name: str) -> Stored:
    """The tensor, once it is certain that it lies in its storage, and its storage in the file."""
    storage = tensor.storage
    dtype, numpy_dtype = _STORAGES[storage.kind][0], np.dtype(_STORAGES[storage.kind][1])
    member = members.get(f"{root}/data/{storage.key}")
    if member is None or member.offset is None:
        raise WeightsError(f"tensor {name!r}: its storage {storage.key[:40]!r} is missing, or compressed.")
    if not 0 <= storage.numel * numpy_dtype.itemsize <= member.size:
        raise WeightsError(
            f"tensor {name!r}: its storage claims {storage.numel} numbers of {dtype}, but has {member.size} bytes."
        )
    count = math.prod(tensor.shape)
    # From the first number that is used to behind the last.
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

    return Stored(dtype, tensor.shape, read)
