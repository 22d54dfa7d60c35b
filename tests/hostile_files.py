"""Files that are made to harm whoever reads them, and what a refusal says."""

import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipref.weights_tools.torch_files import MAX_USES
from clipref.weights_tools.torch_pickle import MAX_OPERATIONS

from .torch_archives import (
    DATA,
    EMPTY,
    MODULE,
    Call,
    Storage,
    archive,
    chain,
    doubling,
    doubling_dicts,
    dump,
    glob,
    honest,
    nested_tuples,
    pickled,
    shared,
    tensor,
    twice,
    zipped,
)


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
        "have a name of over 1000 characters",
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
        "have a name of over 1000 characters",
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
        "have a name of over 1000 characters",
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


def safetensors_file(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}


# A header of 200,000 tensors without a number.
EMPTY_TENSORS = safetensors_file(
    b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(200_000)) + b"}", b""
)
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
    EMPTY_TENSORS,
]
