"""The file of vectors: rows [S, E] of float16, one after the other, that are appended and never written again.

Row i is at byte 2 * E * i; there is no header. Which rows count is the database's to say (store.py): a row is written
and reaches the disk before the transaction that names it is committed. What lies behind the last row that counts is
left by a process that was ended, and is overwritten by the next one; the file is never cut, since a reader that has it
mapped would be killed by SIGBUS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

DTYPE = np.dtype("<f2")
# Bytes that are copied at a time when the file is written anew.
COPY_BYTES = 2**22


def write(file: BinaryIO, offset: int, data: memoryview) -> None:
    """All of the bytes at an offset of a file without a buffer. Raises OSError."""
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


def sync(descriptor: int) -> None:
    """Return when what was written has reached the disk. Raises OSError."""
    os.fsync(descriptor)


def create(path: Path) -> None:
    """An empty file for its owner alone, whatever was there, and its name on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """As `sync`, of the names in a folder; systems that open no folders don't need it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def append(path: Path, slot: int, rows: Array) -> None:
    """Write rows [n, E] float16 from row `slot` on, and wait until they are on the disk. Raises OSError."""
    rows = np.ascontiguousarray(rows, DTYPE)
    with open(path, "r+b", buffering=0) as file:
        write(file, slot * rows.shape[1] * DTYPE.itemsize, rows.data.cast("B"))
        sync(file.fileno())


def memory_map(path: Path, count: int, embed_dim: int) -> Array:
    """The first `count` rows as a read-only memory map [count, E]. Raises OSError, ValueError if there are fewer."""
    if not count:
        return np.empty((0, embed_dim), DTYPE)
    rows: Array = np.memmap(path, DTYPE, mode="r", shape=(count, embed_dim))
    return rows


def copy_rows(source: Path, target: Path, slots: Array, embed_dim: int) -> None:
    """A new file of the rows `slots` [n] of another, ascending, and wait until it is on the disk. Raises OSError."""
    create(target)
    if not len(slots):
        return
    rows = memory_map(source, int(slots[-1]) + 1, embed_dim)
    height = max(1, COPY_BYTES // (embed_dim * DTYPE.itemsize))
    with open(target, "r+b", buffering=0) as file:
        for start in range(0, len(slots), height):
            block = np.ascontiguousarray(rows[slots[start : start + height]])
            write(file, start * embed_dim * DTYPE.itemsize, block.data.cast("B"))
        sync(file.fileno())
