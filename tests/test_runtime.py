"""Runtimes without their telemetry: run where the kernel ends a process that opens a socket, or a file to write."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .imports import imported, mentions

ROOT = Path(__file__).parent.parent

# A filter of system calls (seccomp) needs no privileges, no tool and no network, and sees what native code does too.
# https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
FORBIDDEN = """
import ctypes, os, struct, sys

def forbid(socket, openat, mkdir):
    def step(code, then, otherwise, value):
        return struct.pack("HBBI", code, then, otherwise, value)
    load, equal, any_bit, leave = 0x20, 0x15, 0x45, 0x06
    kill, allow = 0x80000000, 0x7FFF0000
    program = b"".join([
        step(load, 0, 0, 0),  # the number of the call
        step(equal, 0, 1, socket), step(leave, 0, 0, kill),
        step(equal, 0, 1, mkdir), step(leave, 0, 0, kill),
        step(equal, 0, 3, openat), step(load, 0, 0, 32),  # its third argument, the flags
        step(any_bit, 0, 1, os.O_WRONLY | os.O_RDWR | os.O_CREAT), step(leave, 0, 0, kill),
        step(leave, 0, 0, allow),
    ])
    kept = ctypes.create_string_buffer(program)
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]
    given = Filter(len(program) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp = 38, 22
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, 2, ctypes.byref(given), 0, 0) == 0, os.strerror(ctypes.get_errno())

"""
CALLS = {"x86_64": (41, 257, 83), "aarch64": (198, 56, 34)}  # socket, openat, mkdir (mkdirat)

ENCODE = """
import numpy as np
from clipref import AutoModel
model = AutoModel.from_pretrained("clipref/shapes-vit", backend={backend!r})
side = model.config.vision.resolution
model.encode_image(np.zeros((2, 3, side, side), np.float32))
model.embed_text("a red circle")
import time
time.sleep(0.3)  # for threads that do it behind our back
"""

watched = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in CALLS, reason="the numbers of system calls are Linux's"
)


def end_of(code: str, home: Path) -> int:
    """The exit status of code that runs under the filter, with an empty home folder."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = f"{FORBIDDEN}forbid{CALLS[platform.machine()]}\n{code}"
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=home, timeout=60).returncode


@pytest.mark.fast_cases("[onnx]", "openvino")
@watched
@pytest.mark.parametrize("backend", ["onnx", "onnx-int8", pytest.param("openvino", marks=pytest.mark.extra)])
def test_nothing_is_looked_up_or_written(backend: str, tmp_path: Path) -> None:
    assert end_of(ENCODE.format(backend=backend), tmp_path) == 0
    assert not list(tmp_path.iterdir())


@watched
@pytest.mark.parametrize("code", ["import socket; socket.socket()", "open('x', 'w')", "import os; os.mkdir('x')"])
def test_the_filter_sees_what_is_forbidden(code: str, tmp_path: Path) -> None:
    assert end_of(code, tmp_path) == -signal.SIGSYS


def test_one_place_imports_the_runtimes() -> None:
    importing, runtimes = set(), ("onnxruntime", "openvino")
    packages = ("clipref", "kernels", "weights_tools", "conformance", "benchmarks", "tests")
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        if mentions(path, runtimes) and any(name.partition(".")[0] in runtimes for name in imported(path)):
            importing.add(path.relative_to(ROOT).as_posix())
    # A test that measures ONNX Runtime's own tool for 8 bits imports it behind the door.
    assert importing == {"kernels/runtime.py", "tests/test_conformance.py"}
