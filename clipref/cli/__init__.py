"""The command line: `clipref COMMAND ...`, one module a command.

A command is found through the entry-point group `clipref.commands`, so that other rooms add theirs without this one
knowing them. An entry point names a module with a docstring, whose first line is the help, and with
`add_arguments(parser)` and `run(args)`. Only the module of the command that is given is imported, and for
the help all of them, which is why they import what is heavy inside their functions.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint
from typing import Any, NoReturn

from .. import __version__
from ..errors import ClipError
from ..installed import entry_points
from .interrupts import interruptible
from .streams import flush, say, standard_streams

GROUP = "clipref.commands"

EXIT_CODES = """exit codes:
  0    all that was asked for is done (`verify` and others that judge: and it is right)
  1    an error, said in one line on standard error; or what is judged is wrong
  2    wrong usage, said likewise
  3    done, but for what could not be read (--keep-going leaves it out, index remembers it)
  130  interrupted (Ctrl-C, SIGTERM)"""


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, as all errors are said, help that can't be written too."""

    def print_help(self, file: Any = None) -> None:
        """Print what --help shows. Raises OSError."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        raise SystemExit(fail(f"{message}; see {self.prog} --help", 2))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, as EXIT_CODES has them; an error becomes one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    with standard_streams(), interruptible():
        try:
            code = _run(arguments)
            flush()
            return code
        except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
            return 0
        except KeyboardInterrupt:
            return 130
        except OSError as error:
            if debug:
                raise
            return fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        except MemoryError as error:
            if debug:
                raise
            return fail(f"there is not enough memory for it. {error}")
        except ClipError as error:
            if debug:
                raise
            return fail(str(error))
        finally:
            with suppress(OSError):  # after an error, which has been told
                flush()


def _run(arguments: list[str]) -> int:
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
    parser = Parser(
        prog=f"clipref {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    try:
        args = parser.parse_args(arguments[1:])
    except SystemExit as stop:  # argparse has said what it had to say
        return stop.code if isinstance(stop.code, int) else 2
    code: int | None = module.run(args)
    return code or 0


def fail(message: str, code: int = 1) -> int:
    """Say on standard error what is wrong, in one line."""
    say(f"error: {message}")
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
            "",
            EXIT_CODES,
        ]
    )
