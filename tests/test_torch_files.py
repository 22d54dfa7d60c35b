"""Reading what torch has saved, without torch: true files to the bit, hostile ones not at all."""

import io
import json
import pickle
import pickletools
import struct
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipref import ClipError, WeightsError
from clipref.weights_tools import torch_files
from clipref.weights_tools.stored import safetensors_tensors
from clipref.weights_tools.torch_files import MAX_USES, TorchFile, read_torch_file
from clipref.weights_tools.torch_pickle import MAX_OPERATIONS, unpickle

from . import cases

TORCH = cases.GOLDEN / "torch"


@pytest.mark.parametrize("name", ["vit.pt", "vit.bin", "rn.bin"])
def test_what_torch_saved_is_read_to_the_bit(name: str) -> None:
    file = read_torch_file(TORCH / name)
    if name == "rn.bin":  # as a training run saves it
        inside = "state_dict.module."
        assert all(n.startswith(inside) for n in file.tensors)
        file = TorchFile({n.removeprefix(inside): stored for n, stored in file.tensors.items()}, file.code)
    expected = safetensors_tensors(TORCH / f"{name.split('.')[0]}.safetensors")
    extra = {n for n in file.tensors if n.endswith("num_batches_tracked")}
    assert file.tensors.keys() - extra == expected.keys() | (
        {"input_resolution", "context_length", "vocab_size"} if name == "vit.pt" else set()
    )
    for tensor, stored in expected.items():
        ours = file.tensors[tensor]
        assert (ours.dtype, ours.shape) == (stored.dtype, stored.shape)
        assert ours.read().tobytes() == stored.read().tobytes()
    assert (file.code is not None) == name.endswith(".pt")
    assert "sigmoid(" in (file.code or "sigmoid(")


# --- a writer of such files, honest unless told otherwise -------------------------------------------------------------


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


def test_the_writer_is_honest(tmp_path: Path) -> None:
    assert np.array_equal(opened(honest(), tmp_path)["w"], np.arange(6, dtype="f4").reshape(2, 3))


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (4, (2,), (1,), [4, 5]),
        (1, (2,), (3,), [1, 4]),
        (5, (), (), 5),
        (6, (0, 3), (3, 1), np.zeros((0, 3))),
    ],
)
def test_views_of_a_storage(offset: int, shape: Any, strides: Any, expected: Any, tmp_path: Path) -> None:
    content = archive(pickled({"w": tensor(offset=offset, shape=shape, strides=strides)}))
    read = opened(content, tmp_path)["w"]
    assert read.shape == shape and read.flags.c_contiguous and np.array_equal(read, expected)


def test_bfloat16_and_what_is_beside_the_tensors(tmp_path: Path) -> None:
    state = {"module.w": tensor(Storage("BFloat16Storage", numel=12)), "module.note": "text"}
    content = archive(
        pickled({"epoch": 3, "state_dict": state, "loss": tensor(), "optimizer": {"state": {0: tensor()}}})
    )
    found = opened(content, tmp_path)
    assert found["state_dict.module.w"].dtype == np.uint16 and found.keys() == {"state_dict.module.w", "loss"}


def test_a_module_may_be_part_of_two(tmp_path: Path) -> None:
    content = archive(b"\x80\x02" + doubling(2, tensor()) + b".")
    assert opened(content, tmp_path).keys() == {"a.a.w", "a.b.w", "b.a.w", "b.b.w"}


# --- hostile files ----------------------------------------------------------------------------------------------------


def entry(info: dict[str, Any]) -> bytes:
    """The honest archive with fields of its last directory entry changed: offsets in APPNOTE.TXT, 4.3.12."""
    content = bytearray(honest())
    start = content.rfind(b"PK\x01\x02")
    for at, (kind, value) in info.items():
        struct.pack_into(kind, content, start + int(at), value)
    return bytes(content)


def with_records(records: bytes) -> bytes:
    """The honest archive with other records between its directory and the last one."""
    content = honest()
    return content[:-22] + records + content[-22:]


def two_records() -> bytes:
    """A locator that leads to one record of zip64, and another one where some readers look for it."""
    content = honest()
    length, begin = struct.unpack_from("<II", content, len(content) - 10)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, length, begin)
    return with_records(record + record + struct.pack("<4sIQI", b"PK\6\7", 0, len(content) - 22, 1))


def two_directories() -> bytes:
    """The honest directory, to which a locator leads, and another of 2 million members before the locator."""
    content = honest()
    length, begin = struct.unpack_from("<II", content, len(content) - 10)
    first = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, length, begin)
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    entries = b"".join(entry + b"%07d" % i for i in range(2_000_000))
    at = len(content) - 22 + len(first)
    second = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2 * 10**6, 2 * 10**6, len(entries), at)
    return with_records(first + entries + second + struct.pack("<4sIQI", b"PK\6\7", 0, len(content) - 22, 1))


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


FOOLED = Path(tempfile.gettempdir()) / "clipref-was-fooled"
RAN = f"touch {FOOLED}"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # What an unpickler would call.
    "os.system": (lambda: archive(pickled(Call("os", "system", RAN))), "asks for 'os.system', and would run a command"),
    "posix.system": (lambda: archive(pickled(Call("posix", "system", RAN))), "'posix.system', and would run a command"),
    "os.popen": (lambda: archive(pickled(Call("os", "popen", RAN))), "'os.popen', and would run a command"),
    "os.execvp": (lambda: archive(pickled(Call("os", "execvp", "touch"))), "'os.execvp', and would run a command"),
    "subprocess": (lambda: archive(pickled(Call("subprocess", "Popen", RAN))), "and would run a command"),
    "eval": (lambda: archive(pickled(Call("builtins", "eval", RAN))), "'builtins.eval', and would run code"),
    "python 2's eval": (lambda: archive(pickled(Call("__builtin__", "eval", RAN))), "eval', and would run code"),
    "by another module": (
        lambda: archive(b"\x80\x04" + dump("os") + dump("path.os.system") + b"\x93" + dump((RAN,)) + b"R."),
        "asks for 'os.path.os.system', and would run a command",
    ),
    "getattr": (lambda: archive(pickled(Call("builtins", "getattr", "a", "b"))), "asks for 'builtins.getattr'"),
    "numpy": (lambda: archive(pickled(Call("numpy", "fromfile", "/etc/passwd"))), "asks for 'numpy.fromfile'"),
    "numpy's constructor": (
        lambda: archive(pickled(Call("numpy.core.multiarray", "_reconstruct", 1))),
        "asks for 'numpy.core.multiarray._reconstruct'",
    ),
    "torch.load": (lambda: archive(pickled(Call("torch", "load", "x"))), "asks for 'torch.load'"),
    "torch.hub": (lambda: archive(pickled(Call("torch.hub", "load", "x"))), "asks for 'torch.hub.load'"),
    "inside a state dict": (
        lambda: archive(pickled({"w": tensor(), "x": Call("os", "system", RAN)})),
        "asks for 'os.system'",
    ),
    "never called": (lambda: archive(pickled({"w": tensor(), "x": glob("os", "system")})), "asks for 'os.system'"),
    "by its parts on the stack": (
        lambda: archive(b"\x80\x04" + dump("os") + dump("system") + b"\x93" + dump((RAN,)) + b"R."),
        "asks for 'os.system'",
    ),
    "by INST": (lambda: archive(b"(" + dump(RAN) + b"ios\nsystem\n."), "asks for 'os.system'"),
    "by OBJ": (lambda: archive(b"\x80\x02(" + glob("os", "system") + dump(RAN) + b"o."), "asks for 'os.system'"),
    "as a TorchScript name with dots": (
        lambda: archive(b"\x80\x04" + dump("__torch__") + dump("os.system") + b"\x93."),
        "asks for '__torch__.os.system'",
    ),
    "a stand-in, called": (
        lambda: archive(pickled(Call("__torch__.m", "CLIP", RAN))),
        "calls '__torch__.m.CLIP'",
    ),
    "an extension code": (lambda: archive(b"\x80\x02\x82\x01."), "operation EXT1"),
    "a persistent id of text": (lambda: archive(b"Pid\n."), "operation PERSID"),
    "setattr by BUILD": (lambda: archive(pickled((glob("__torch__.m", "C") + dump({"a": 1}) + b"b",))), "damaged"),
    # What a tensor may claim.
    "offset outside": (lambda: archive(pickled({"w": tensor(offset=1)})), "leave its storage of 6 numbers"),
    "negative offset": (lambda: archive(pickled({"w": tensor(offset=-1)})), "make no sense"),
    "strides outside": (lambda: archive(pickled({"w": tensor(strides=(4, 1))})), "leave its storage"),
    "negative strides": (lambda: archive(pickled({"w": tensor(strides=(-3, 1))})), "make no sense"),
    "zero strides": (lambda: archive(pickled({"w": tensor(shape=(10**9, 3), strides=(0, 1))})), "twice"),
    "huge numel": (lambda: archive(pickled({"w": tensor(Storage(numel=10**12))})), "claims 1000000000000 numbers"),
    "negative numel": (lambda: archive(pickled({"w": tensor(Storage(numel=-6))})), "claims -6 numbers"),
    "numel of text": (lambda: archive(pickled({"w": tensor(Storage(numel="6"))})), "not described as torch does"),
    "huge shape": (lambda: archive(pickled({"w": tensor(shape=(2**62 - 1, 2**62 - 1))})), "leave its storage"),
    "no storage": (lambda: archive(pickled({"w": tensor((1, 2))})), "without a storage"),
    "a storage that is missing": (lambda: archive(pickled({"w": tensor(Storage(key="7"))})), "'7' is missing"),
    "a storage up the tree": (lambda: archive(pickled({"w": tensor(Storage(key="../0"))})), "'../0' is missing"),
    "a storage of no known kind": (lambda: archive(pickled({"w": tensor(Storage("Size"))})), "storage of 'torch.Size'"),
    # What can be nested, repeated or endless.
    "a dict in itself": (lambda: archive(b"\x80\x02}q\x00" + dump("a") + b"h\x00s."), "over 100 deep"),
    "a state dict in itself": (
        lambda: archive(b"\x80\x02}q\x00" + dump("state_dict") + b"h\x00s."),
        "a name of over 1000 characters",
    ),
    "a module in itself": (
        lambda: archive(b"\x80\x02" + glob("__torch__", "M") + b")\x81q\x00}" + dump("m") + b"h\x00sb."),
        "contain one another",
    ),
    "modules that double": (lambda: archive(b"\x80\x02" + doubling(70, 7) + b"."), "too many names"),
    "modules that double, 200 deep": (lambda: archive(b"\x80\x02" + doubling(200, EMPTY) + b"."), "over 100 deep"),
    "3,000 names, referred to 3,000 times": (lambda: archive(shared(3000, EMPTY, 3000)), "over 50000 tensors"),
    "300,000 numbers, referred to 200,000 times": (lambda: archive(shared(200_000, 7, 50_000)), "too many names"),
    "names that grow by 500 characters": (
        lambda: archive(b"\x80\x02" + chain(["x" * 500] * 3, EMPTY) + b"."),
        "a name of over 1000 characters",
    ),
    "two tensors of one name": (
        lambda: archive(
            b"\x80\x02" + MODULE + b"}(" + dump("a.w") + dump(EMPTY) + dump("a") + chain(["w"], EMPTY) + b"ub."
        ),
        "two tensors named 'a.w'",
    ),
    "two tensors of one name in dicts": (
        lambda: archive(pickled({"a.w": EMPTY, "a": {"w": EMPTY}})),
        "two tensors named 'a.w'",
    ),
    "dicts that double": (lambda: archive(b"\x80\x02" + doubling_dicts(70) + b"."), "too many names"),
    "tensors that share a storage": (
        lambda: archive(pickled({f"{i}": tensor() for i in range(MAX_USES + 1)})),
        "are more than 4 times what the file has",
    ),
    "tensors scattered over a storage": (
        lambda: archive(pickled({f"{i}": tensor(shape=(2,), strides=(5,)) for i in range(MAX_USES + 1)})),
        "are more than 4 times what the file has",
    ),
    "tuples without end": (lambda: archive(b"\x80\x02" + nested_tuples(400_000) + b"."), "it holds a tuple"),
    "tuples as keys": (
        lambda: archive(b"\x80\x02}" + nested_tuples(400_000) + b"Ns."),
        "neither text nor number",
    ),
    "a billion laughs": (
        lambda: archive(b"\x80\x02)" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"Q."),
        "not a storage's",
    ),
    "a memo of 4 billion": (lambda: archive(b"\x80\x02Nr\xff\xff\xff\xff."), "it holds a NoneType"),
    "a string of 4 GB": (lambda: archive(b"\x80\x02X\xff\xff\xff\xffabc."), "damaged"),
    "an integer of 2 GB": (lambda: archive(b"\x80\x02\x8b\xff\xff\xff\x7fabc."), "damaged"),
    "too many operations": (lambda: archive(b"\x80\x02" + b"N0" * MAX_OPERATIONS + b"N."), "operations"),
    "a name with an escape": (lambda: archive(b"\x80\x02cos\\\xc6\nx\n."), "damaged"),
    "an empty stack": (lambda: archive(b"\x80\x02."), "damaged"),
    "no end": (lambda: archive(b"\x80\x02N"), "damaged"),
    "no mark": (lambda: archive(b"\x80\x02t."), "damaged"),
    "nothing": (lambda: archive(b""), "damaged"),
    "a pickle of a list": (lambda: archive(pickle.dumps([1, 2], protocol=2)), "it holds a list"),
    # What a zip may claim.
    "up the tree": (
        lambda: archive(pickled({"w": tensor()}), {"archive/data/0": DATA, "../../etc/cron.d/x": b"x"}),
        "points out of the archive",
    ),
    "an absolute member": (
        lambda: archive(pickled({"w": tensor()}), {"archive/data/0": DATA, "/etc/cron.d/x": b"x"}),
        "points out of the archive",
    ),
    "a member twice": (twice, "twice"),
    "an encrypted member": (lambda: entry({"8": ("<H", 1)}), "is encrypted"),
    "a member outside": (lambda: entry({"42": ("<I", 10**9)}), "not where the directory says"),
    "a member too long": (lambda: entry({"20": ("<I", 10**9), "24": ("<I", 10**9)}), "ends after the members do"),
    "something behind the directory": (lambda: honest() + b"\0", "cut short"),
    "something before the directory's records": (lambda: with_records(b"\0" * 56), "is not where torch writes it"),
    "a second record of zip64": (two_records, "is not where torch writes it"),
    "a directory that isn't one": (lambda: entry({"0": ("<I", 0)}), "directory is damaged"),
    "a directory that is cut": (lambda: entry({"28": ("<H", 9999)}), "damaged"),
    "a pickle with another sum": (lambda: honest().replace(dump("w"), dump("v")), "don't have their sum"),
    "a member on another": (lambda: entry({"42": ("<I", 0)}), "overlap"),
    "two sizes": (lambda: entry({"24": ("<I", 5)}), "contradicts itself"),
    "a compressed storage": (
        lambda: archive(pickled({"w": tensor()}), None, zipfile.ZIP_DEFLATED),
        "its pickle is compressed",
    ),
    "compressed by another method": (
        lambda: archive(pickled({"w": tensor()}), {"archive/code/x.py": b"x" * 99}, zipfile.ZIP_LZMA),
        "is compressed as torch never does",
    ),
    "a name of a megabyte": (
        lambda: archive(pickled({"x" * 10**6: tensor(offset=1)})),
        "a name of over 1000 characters",
    ),
    "a bomb of a pickle": (
        lambda: archive(b"\x80\x02" + b"N" * 5_000_000 + b"."),
        "its pickle is over 4000000 bytes",
    ),
    "a bomb of a byte order": (
        lambda: bomb("archive/byteorder", pickled({"w": tensor()})),
        "big-endian",
    ),
    "a bomb of code": (lambda: bomb("archive/code/x.py", pickled(Call("os", "system", RAN))), "asks for 'os.system'"),
    "2 million members, in the second of two directories": (two_directories, "is not where torch writes it"),
    "no pickle": (lambda: zipped({"archive/other": b""}), "no data.pkl"),
    "two pickles": (lambda: zipped({"a/data.pkl": b"", "b/data.pkl": b""}), "no data.pkl in one top folder"),
    "big-endian": (
        lambda: archive(pickled({"w": tensor()}), {"archive/data/0": DATA, "archive/byteorder": b"big"}),
        "big-endian",
    ),
    "not a zip": (lambda: pickle.dumps({"a": 1}), "neither safetensors nor a zip"),
    "an empty file": (lambda: b"", "neither safetensors nor a zip"),
    "a zip's beginning": (lambda: b"PK", "cut short"),
}  # fmt: skip


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def bomb(name: str, pickle: bytes) -> bytes:
    """An archive with a member of 3 GB that is a few megabytes compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/data/0", DATA)
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        with file.open(info, "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(10**7))
    return buffer.getvalue()


BOMBS = {
    "a bomb of a byte order",
    "a bomb of code",
    "2 million members, in the second of two directories",
}  # which take a while to make


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in BOMBS])
def test_hostile_file(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    refused(make(), message, tmp_path)
    assert not FOOLED.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bomb(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    refused(make(), message, tmp_path)


def test_an_unpickler_is_fooled(tmp_path: Path) -> None:
    """What the files above would do to one: so that `not FOOLED.exists()` means something."""
    marker = tmp_path / "fooled"
    pickle.loads(pickled(Call("os", "system", f"touch {marker}")))
    assert marker.exists()


def test_numbers_scattered_over_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive(pickled({"w": tensor(shape=(2,), strides=(5,))}))
    assert opened(content, tmp_path)["w"].tolist() == [0, 5]
    monkeypatch.setattr(torch_files, "MAX_GAPS", 3)
    with pytest.raises(WeightsError, match="its 2 numbers lie scattered among 6"):
        opened(content, tmp_path)


def refused(content: bytes, message: str, folder: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        opened(content, folder)
    assert message in str(caught.value) and str(folder) in str(caught.value), caught.value
    assert len(str(caught.value)) < 1000 and time.perf_counter() - started < 10


@pytest.mark.parametrize("name", ["vit.pt", "rn.bin"])
def test_cut_short_at_every_kilobyte(name: str, tmp_path: Path) -> None:
    content = (TORCH / name).read_bytes()
    for end in [*range(0, len(content), 1024), len(content) - 1]:
        with pytest.raises(WeightsError):
            opened(content[:end], tmp_path)


def reads_or_refuses(content: bytes, folder: Path) -> None:
    """What a reader may do with any bytes at all."""
    with suppress(WeightsError):
        opened(content, folder)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray((TORCH / data.draw(st.sampled_from(["vit.bin", "vit.pt"]))).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(len(content) - 3000, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    reads_or_refuses(bytes(content), tmp_path_factory.getbasetemp())


OPCODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


@settings(deadline=None, max_examples=1000)
@given(
    st.lists(
        st.sampled_from(OPCODES) | st.binary(max_size=4) | st.builds(dump, st.integers(-5, 5) | st.text(max_size=3)),
        max_size=30,
    )
)
def test_random_pickles(parts: list[bytes]) -> None:
    with suppress(WeightsError):
        unpickle(b"\x80\x02" + b"".join(parts) + b".")


def safetensors_file(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}


HOSTILE_SAFETENSORS = [
    safetensors_file({"a": one()["w"], "b": one()["w"]}),
    safetensors_file(one(data_offsets=[-24, 0])),
    safetensors_file(one(data_offsets=[0, 2**63])),
    safetensors_file(one(data_offsets=[24, 0])),
    safetensors_file(one(data_offsets=[0, 20])),
    safetensors_file(one(shape=[2**40, 2**40])),
    safetensors_file(one(shape=[-2, -3])),
    safetensors_file(one(dtype="F33")),
    safetensors_file(one(), length=2**62),
    safetensors_file(one(), length=3),
    safetensors_file(b"{" * 100_000),
    safetensors_file(b"[" * 100),
    safetensors_file(one(), data=bytes(23)),
    safetensors_file(one(), data=bytes(25)),
    b"",
    b"\0" * 9,
    safetensors_file({f"{i}": one(shape=[0], data_offsets=[0, 0])["w"] for i in range(200_000)}, data=b""),
]


@pytest.mark.parametrize("content", HOSTILE_SAFETENSORS, ids=range(len(HOSTILE_SAFETENSORS)))
def test_hostile_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(content)
    with pytest.raises(ClipError):
        safetensors_tensors(tmp_path / "file.safetensors")
