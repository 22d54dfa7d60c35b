"""Paths that a command is given in a file or on standard input: names of any bytes."""

from __future__ import annotations

import os
import sys

from ...cli.texts import MAX_BYTES, reason
from ...errors import InputError
from ...files import read_bytes


def read_paths(source: str) -> list[str]:
    """Paths, separated by NUL if there is one, else a line each. Raises InputError."""
    name = "standard input" if source == "-" else f"--paths-from {source}"
    try:
        data: bytes = sys.stdin.buffer.read() if source == "-" else read_bytes(source, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} can't be read: {reason(error)}.") from error
    parts = data.split(b"\0") if b"\0" in data else data.split(b"\n")
    return [os.fsdecode(part) for part in parts if part]
