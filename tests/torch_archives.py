"""A writer of files as torch saves them, honest unless told otherwise."""

import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from clipref.weights_tools.torch_files import read_torch_file


class Call:
    """Pickled as a call of `module.name` with arguments: what an unpickler would run."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    def __init__(self, kind: str = "FloatStorage", key: str = "0", numel: Any = 6) -> None:
        self.kind, self.key, self.numel = kind, key, numel


def glob(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def dump(value: Any) -> bytes:
    """Opcodes of protocol 2, without the end."""
    if isinstance(value, Call):
        return glob(value.module, value.name) + dump(tuple(value.arguments)) + b"R"
    if isinstance(value, Storage):
        described = b"(" + dump("storage") + glob("torch", value.kind) + dump(value.key) + dump("cpu")
        return described + dump(value.numel) + b"tQ"
    if isinstance(value, bytes):  # opcodes as they are
        return value
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        return (
            b"J" + struct.pack("<i", value)
            if abs(value) < 2**31
            else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        )
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(dump, value)) + b"t"
    if isinstance(value, dict):
        return b"}(" + b"".join(dump(k) + dump(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value))


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + dump(value) + b"."


def tensor(storage: Any = None, offset: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1)) -> Call:
    return Call("torch._utils", "_rebuild_tensor_v2", storage or Storage(), offset, shape, strides, False, {})


DATA = np.arange(6, dtype="<f4").tobytes()


def archive(pickle: bytes, members: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        for name, content in ({"archive/data/0": DATA} if members is None else members).items():
            file.writestr(name, content)
    return buffer.getvalue()


def honest() -> bytes:
    return archive(pickled({"w": tensor()}))


def opened(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    (folder / "file.pt").write_bytes(content)
    return {name: stored.read() for name, stored in read_torch_file(folder / "file.pt").tensors.items()}


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in (pickled({"w": tensor()}), pickled(Call("os", "system", "true"))):
            file.writestr("archive/data.pkl", content)
    return buffer.getvalue()


MODULE = glob("__torch__", "M") + b")\x81"
EMPTY = tensor(shape=(0,), strides=(1,))


def chain(names: list[str], value: Any) -> bytes:
    """A module that holds a module, and so on, by these names; the last holds the value."""
    inner = chain(names[1:], value) if names[1:] else dump(value)
    return MODULE + b"}" + dump(names[0]) + inner + b"sb"


def doubling(depth: int, value: Any) -> bytes:
    """Modules each of which holds the next one twice: few bytes, 2 ** depth paths."""
    if not depth:
        return chain(["w"], value)
    put, get = b"q%c" % depth, b"h%c" % depth
    return MODULE + b"}(" + dump("a") + doubling(depth - 1, value) + put + dump("b") + get + b"ub"


def doubling_dicts(depth: int) -> bytes:
    """The same with dicts."""
    if not depth:
        return dump({"w": 7})
    put, get = b"q%c" % depth, b"h%c" % depth
    return b"}(" + dump("a") + doubling_dicts(depth - 1) + put + dump("b") + get + b"u"


def shared(count: int, value: Any, times: int) -> bytes:
    """A module with `count` names for one value, in another that has it `times` times."""
    names = b"".join(dump(f"{i}") + b"h\x01" for i in range(count))
    inner = MODULE + b"q\x02}(" + dump("first") + dump(value) + b"q\x01" + names + b"ub"
    again = b"".join(dump(f"{i}") + b"h\x02" for i in range(times))
    return b"\x80\x02" + MODULE + b"}(" + dump("first") + inner + again + b"ub."


def nested_tuples(depth: int) -> bytes:
    return b")" + b"\x85" * depth


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()
