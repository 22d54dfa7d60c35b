"""Texts and names, as commands read and write them: UTF-8 in every locale.

A text on the command line or in a file is UTF-8, or it is refused. The name of a file may be any bytes: it is written
as those bytes read as UTF-8, and a byte that is none becomes JSON's escape \\udc80 to \\udcff, of which Python's
json.loads and os.fsencode make that byte again (PEP 383).
"""

from __future__ import annotations

import argparse
import codecs
import json
import math
import os
import sys
from typing import Any

from ..errors import InputError
from ..files import read_bytes, text_lines

MAX_BYTES = 2**30


def text_argument(text: str) -> str:
    """A text given on the command line, for argparse's `type`: bytes that the locale has no character for are UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from None


def lines_of(path: str, option: str) -> list[str]:
    r"""The lines of a text file, or of standard input where `path` is "-".

    A line ends with "\n" or "\r\n" and nowhere else; a byte-order mark is no part of the first one. Raises InputError,
    which names `option`, if it can't be read or isn't UTF-8.
    """
    name = "standard input" if path == "-" else f"{option} {path}"
    try:
        data = (_standard_input() if path == "-" else read_bytes(path, MAX_BYTES)).removeprefix(codecs.BOM_UTF8)
    except (OSError, ValueError) as error:
        hint = "" if path == "-" or os.path.isfile(path) else "; - stands for standard input"
        raise InputError(f"{name} can't be read: {reason(error)}{hint}.") from error
    try:
        return text_lines(data)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name}, line {number}, is not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8, for instance: "
            "iconv -f latin1 -t utf-8."
        ) from error


def _standard_input() -> bytes:
    data: str | bytes = getattr(sys.stdin, "buffer", sys.stdin).read()
    return data.encode("utf-8") if isinstance(data, str) else data


def reason(error: Exception) -> str:
    """Why a file can't be read or written, in words, without its name and number."""
    return getattr(error, "strerror", None) or str(error)


def name_of(path: str | os.PathLike[str]) -> str:
    """A file's name as it is written."""
    return os.fsencode(path).decode("utf-8", sys.getfilesystemencodeerrors())


def json_text(value: Any, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8. Numbers that aren't finite, which JSON doesn't have, are null."""
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, indent=indent)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=ascii_only, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
