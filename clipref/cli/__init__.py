"""The command line: `clipref COMMAND ...`, one module a command.

A command is found through the entry-point group `clipref.commands`, so that other rooms add theirs without this one
knowing them. An entry point names a module with a docstring, whose first line is the help, and with
`add_arguments(parser)` and `run(args)`. Only the module of the command that is given is imported, and for
the help all of them, which is why they import what is heavy inside their functions.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .. import __version__
from ..errors import ClipError

GROUP = "clipref.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for an error, 2 for wrong usage, 130 if interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        print(f"clipref {__version__}" if arguments[:1] == ["--version"] else overview(commands))
        return 0 if arguments else 2
    name = arguments[0]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are: {', '.join(sorted(commands))}."
        return fail(f"no command {name!r}; {hint}", 2)
    module = commands[name].load()
    parser = argparse.ArgumentParser(
        prog=f"clipref {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    try:
        args = parser.parse_args(arguments[1:])
    except SystemExit as stop:  # argparse has said what it had to say
        return stop.code if isinstance(stop.code, int) else 2
    return guarded(module, args)


def guarded(module: Any, args: argparse.Namespace) -> int:
    """Run a command; an error becomes one line and an exit code, unless its traceback is asked for."""
    # A command that is told to end tidies up as one that is interrupted at the keyboard does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int | None = module.run(args)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ClipError, OSError) as error:
        if args.debug:
            raise
        return fail(" ".join(str(error).split()))
    finally:
        signal.signal(signal.SIGTERM, before)


def fail(message: str, code: int = 1) -> int:
    """Say on standard error what is wrong, in one line."""
    print(f"clipref: error: {message}", file=sys.stderr)
    return code


def overview(commands: dict[str, EntryPoint]) -> str:
    """The help of the whole: the first line of each command's docstring."""
    lines = [f"  {name:12} {(commands[name].load().__doc__ or '').partition(chr(10))[0]}" for name in sorted(commands)]
    return "\n".join(
        [
            "usage: clipref COMMAND ... | --version",
            "",
            "CLIP in plain numpy, and as fast as ONNX Runtime runs it.",
            "",
            *lines,
            "",
            "`clipref COMMAND --help` says more. The models are named by id, folder or .safetensors file.",
        ]
    )
