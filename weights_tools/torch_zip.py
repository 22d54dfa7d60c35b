"""The zip files that torch writes: which members there are and where their bytes lie.

Read here and not by Python's zipfile, so that what is checked is what is used: a zip can be made to have two
directories, and two readers to see one each. torch writes the members first, then one directory, then its records
(that of zip64 directly before the old one), and nothing behind them; every other file is refused. What the directory
claims is checked against the file's size before anything of that size is read. Formats: APPNOTE.TXT of PKWARE, 4.3.7
to 4.3.16.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from clipref.errors import WeightsError
from clipref.files import open_regular

# A bound that honest checkpoints stay far below: ViT-bigG-14 has 1,800 tensors, each a member with a name of 20 bytes.
MAX_MEMBERS = 50_000
MAX_DIRECTORY = 200 * MAX_MEMBERS

_STORED, _DEFLATED = 0, 8
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_ZIP64_RECORD = struct.Struct("<4sQHHIIQQQQ")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")


@dataclass(frozen=True)
class Member:
    """One file of the zip: `stored` bytes from `offset` on, which are its own `size` bytes unless it is compressed."""

    header: int
    offset: int
    stored: int
    size: int
    crc: int
    compressed: bool


def read_members(path: Path) -> dict[str, Member]:
    """Every member of a zip, none of which is encrypted, repeated, outside of the file or on top of another.

    Raises WeightsError, or OSError if the file can't be read.
    """
    members: dict[str, Member] = {}
    spans: list[tuple[int, int, str]] = []
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(2) != b"PK":
            raise WeightsError(
                "it is neither safetensors nor a zip as torch has written since version 1.6. If it is an older torch "
                "file, open it with torch once and save it anew, or take the safetensors file of the same model."
            )
        begin, directory = _directory(file, size)
        at = 0
        while at < len(directory):
            if directory[at : at + 4] != b"PK\x01\x02" or at + _ENTRY.size > len(directory):
                raise WeightsError("its zip's directory is damaged. Fetch it again.")
            name, member, at = _member(directory, at, file, begin)
            if name in members:
                raise WeightsError(f"its zip has the member {name[:80]!r} twice.")
            if len(members) == MAX_MEMBERS:
                raise WeightsError(f"its zip has more than {MAX_MEMBERS} members.")
            members[name] = member
            spans.append((member.header, member.offset + member.stored, name))
        if at > len(directory):
            raise WeightsError("its zip's directory is damaged. Fetch it again.")
    spans.sort()
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise WeightsError(f"its zip's members {name[:80]!r} and {other[:80]!r} overlap.")
    return members


def content(path: Path, member: Member, limit: int) -> bytes:
    """A member's bytes, the first `limit` of them; compressed ones may be of any number. Raises OSError, WeightsError.

    A whole member is checked against its sum.
    """
    with open_regular(path) as file:
        file.seek(member.offset)
        data = file.read(min(member.stored, limit + limit // 1000 + 1000))  # deflate never adds more
    if member.compressed:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
        except zlib.error as error:
            raise WeightsError(f"a member of its zip is damaged ({error}). Fetch it again.") from error
    data = data[:limit]
    if len(data) == member.size and zlib.crc32(data) != member.crc:
        raise WeightsError("a member of its zip is damaged: its bytes don't have their sum. Fetch it again.")
    return data


def _directory(file: BinaryIO, size: int) -> tuple[int, bytes]:
    """Where the directory begins, and its bytes, which end where the records of the end begin."""
    old, zip64 = size - _END.size, size - _END.size - _ZIP64_LOCATOR.size - _ZIP64_RECORD.size
    file.seek(max(0, old))
    end = file.read()
    if old < 0 or end[:4] != b"PK\x05\x06":
        raise WeightsError("it was cut short: the zip's directory at the end is missing. Fetch it again.")
    *_, length, begin, _ = _END.unpack(end)
    records = old
    if zip64 >= 0:
        file.seek(zip64)
        tail = file.read(_ZIP64_RECORD.size + _ZIP64_LOCATOR.size)
        signature, _, where, _ = _ZIP64_LOCATOR.unpack(tail[_ZIP64_RECORD.size :])
        if signature == b"PK\x06\x07":
            signature, *_, length, begin = _ZIP64_RECORD.unpack(tail[: _ZIP64_RECORD.size])
            records = zip64
            if signature != b"PK\x06\x06" or where != zip64:
                raise WeightsError("its zip's directory is not where torch writes it.")
    if length > MAX_DIRECTORY:
        raise WeightsError(f"its zip directory is of a size for more than {MAX_MEMBERS} members.")
    if begin + length != records:
        raise WeightsError("its zip's directory is not where torch writes it.")
    file.seek(begin)
    return begin, file.read(length)


def _member(directory: bytes, at: int, file: BinaryIO, limit: int) -> tuple[str, Member, int]:
    """The entry at `at`: its name, its member, which has to end before `limit`, and where the next entry is."""
    _, _, _, flags, method, _, _, crc, stored, size, *lengths, _, _, _, header = _ENTRY.unpack_from(directory, at)
    name_end = at + _ENTRY.size + lengths[0]
    extra_end = name_end + lengths[1]
    encoded, extra = directory[at + _ENTRY.size : name_end], directory[name_end:extra_end]
    name = encoded.decode("utf-8", "replace")
    shown = name[:80]
    size, stored, header = _wide_values(extra, size, stored, header)
    if flags & 1:
        raise WeightsError(f"its zip's member {shown!r} is encrypted.")
    if ".." in name.split("/") or name.startswith("/") or "\\" in name:
        raise WeightsError(f"its zip's member {shown!r} points out of the archive.")
    if method not in (_STORED, _DEFLATED):
        raise WeightsError(f"its zip's member {shown!r} is compressed as torch never does.")
    if method == _STORED and stored != size:
        raise WeightsError(f"its zip's member {shown!r} contradicts itself about its size.")
    file.seek(min(header, limit))
    local = file.read(30)
    if len(local) != 30 or local[:4] != b"PK\x03\x04":
        raise WeightsError(f"its zip's member {shown!r} is not where the directory says.")
    begin = header + 30 + sum(struct.unpack_from("<HH", local, 26))
    if begin + stored > limit:
        raise WeightsError(f"its zip's member {shown!r} ends after the members do. Fetch it again.")
    return name, Member(header, begin, stored, size, crc, method == _DEFLATED), extra_end + lengths[2]


def _wide_values(extra: bytes, *values: int) -> list[int]:
    """Sizes and offset of an entry, those that didn't fit in it taken from its zip64 field (4.5.3)."""
    field, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
        at += 4 + length
    found = []
    for value in values:
        if value == 0xFFFFFFFF and len(field) >= 8:
            value, field = int.from_bytes(field[:8], "little"), field[8:]
        found.append(value)
    return found
