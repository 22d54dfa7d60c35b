"""The standard streams of a command: there, able to take any text, and their failure an error like others."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Characters that would move a terminal's cursor or end a line, and bytes of a name that are no UTF-8.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """The text on one line; characters that a terminal would obey, and bytes that are no text, as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(message: str) -> None:
    """Tell the user one line, on standard error."""
    with suppress(OSError):  # where nobody listens, there is nothing left to say it to
        print(f"clipref: {printable(' '.join(message.split()))}", file=sys.stderr)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Streams that are open, while in here, and that escape what their encoding has no character for."""
    _open_closed()
    stdout = sys.stdout
    before = getattr(stdout, "errors", None)
    if hasattr(stdout, "reconfigure"):
        stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if hasattr(stdout, "reconfigure"):
            with suppress(OSError):
                stdout.reconfigure(errors=before)


def _open_closed() -> None:
    """Open the streams that the process was started without, so that using them is an OSError.

    Python has None for those, to which `print` prints nothing without a word; and the next file that is opened would
    get the number 1, where libraries print to.
    """
    for name, flags in (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)  # the lowest number that is free: its own
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))


def flush() -> None:
    """Hand on what standard output holds back. Raises OSError; then what it couldn't take is dropped.

    Otherwise the interpreter would try it again at its end, and complain in its own words.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.stdout.flush()
        raise
