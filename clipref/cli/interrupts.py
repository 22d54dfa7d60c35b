"""Ctrl-C and requests to end: a KeyboardInterrupt, so that commands tidy up, but not while a native module is loaded.

An exception in the middle of an extension module's import is more than some are written for: onnx ends the process with
a segmentation fault, which removes nothing that was half written.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from types import FrameType

LATER = 0.02  # seconds


@contextmanager
def interruptible() -> Iterator[None]:
    """While in here, SIGINT and SIGTERM raise KeyboardInterrupt, unless they are ignored."""
    if threading.current_thread() is not threading.main_thread():  # others can't say what signals do
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in handled:
            signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _imports_native_code(frame):
        again = threading.Timer(LATER, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    raise KeyboardInterrupt


def _imports_native_code(frame: FrameType | None) -> bool:
    while frame is not None:
        loading = frame.f_code.co_name in ("create_module", "exec_module")
        if loading and isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False
