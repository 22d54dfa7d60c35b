"""Chapters: Markdown whose cells are run, and whose figures are compared with what the cells give.

A chapter is Markdown that reads as it stands. In it

    ```python                   is a cell. Cells share their names from the top of the chapter to its end. The value of
    ...                         a last expression is printed, as at Python's prompt.
    ```
    ```text                     right after a cell is what the cell prints. A picture prints what it shows in words.
    ...
    ```
    ```python slow              is a cell that takes minutes: run only where `slow` is asked for.
    <!-- python                 is a hidden cell: it prepares, or asserts what the text around it claims.
    ...
    -->
    <!--= EXPRESSION -->1.5<!--.-->    is a figure within a sentence, and what it is computed from.

`run` gives the chapter with what its cells gave in the place of what was written; `differences` says where the two
disagree, and `unsupported_numbers` which numbers in sentences have neither a cell nor a source.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .pictures import Picture

FOLDER = Path(__file__).parent
_CELL = re.compile(
    r"^```python(?P<slow> slow)?\n(?P<code>.*?)^```\n(?:\n*```text\n(?P<output>.*?)^```\n)?|"
    r"^<!-- python\n(?P<hidden>.*?)^-->\n",
    re.MULTILINE | re.DOTALL,
)
_FIGURE = re.compile(r"<!--=(?P<expression>.*?)-->(?P<written>.*?)<!--\.-->", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Chapter:
    """One chapter, which is a file of Markdown."""

    path: Path

    @property
    def name(self) -> str:
        """As in 01-from-a-file-to-a-cosine."""
        return self.path.stem

    @property
    def key(self) -> str:
        """Its name for `clipref learn`: a number, or where it has none, the name of the page."""
        number, _, rest = self.name.partition("-")
        return str(int(number)) if number.isdigit() and rest else self.name

    @property
    def text(self) -> str:
        """The Markdown."""
        return self.path.read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """Its first heading, without the number."""
        heading = self.text.partition("\n")[0].lstrip("# ")
        return re.sub(r"^\d+\.\s*", "", heading)


@dataclass(frozen=True)
class Cell:
    """A cell that was run: its code, its `output` as it is printed, and the pictures among it."""

    code: str
    output: str
    pictures: list[Picture]
    hidden: bool = False


@dataclass
class Ran:
    """A chapter that was run: `parts` in order, Markdown or cells; `markdown` as it should be written."""

    chapter: Chapter
    parts: list[str | Cell] = field(default_factory=list)
    markdown: str = ""
    wrong: list[str] = field(default_factory=list)


def chapters() -> list[Chapter]:
    """All of them, in order; pages without a number last."""
    return [Chapter(path) for path in sorted(FOLDER.glob("*.md"))]


def chapter(key: str) -> Chapter:
    """The chapter of a number or a name. Raises InputError."""
    found = {one.key: one for one in chapters()}
    key = str(int(key)) if key.isdecimal() else key  # the second chapter's file begins with 02
    if key not in found:
        raise InputError(f"There is no chapter {key!r}; expected one of {', '.join(found)}.")
    return found[key]


def run(one: Chapter, slow: bool = False) -> Ran:
    """Run a chapter's cells in order, those that are slow only if asked for. What a cell raises ends it."""
    text, names = one.text, {"__name__": one.name}
    ran, position, markdown = Ran(one), 0, []

    def prose(part: str, line: int) -> None:
        def found(match: re.Match[str]) -> str:
            at = line + part.count("\n", 0, match.start())
            value, written = _value(match["expression"].strip(), names, one.path, at), match["written"]
            _compare(ran, at, written, value)
            return match[0] if written == value else f"<!--={match['expression']}-->{value}<!--.-->"

        filled = _FIGURE.sub(found, part)
        ran.parts.append(_FIGURE.sub(lambda match: match["written"], filled))
        markdown.append(filled)

    def line_at(offset: int) -> int:
        return text.count("\n", 0, offset) + 1

    for match in _CELL.finditer(text):
        prose(text[position : match.start()], line_at(position))
        position = match.end()
        hidden = match["hidden"] is not None
        kind = "hidden" if hidden else "code"
        if match["slow"] and not slow:
            ran.parts.append(Cell(match["code"], match["output"] or "", []))
            markdown.append(match[0])
            continue
        output, pictures = _run_cell(match[kind], names, one.path, line_at(match.start(kind)))
        ran.parts.append(Cell(match[kind], output, pictures, hidden))
        written = match["output"] or ""
        _compare(ran, line_at(match.start()), written, output)
        markdown.append(match[0] if written == output else _written_cell(match, output))
    prose(text[position:], line_at(position))
    ran.markdown = "".join(markdown)
    return ran


def _run_cell(code: str, names: dict[str, Any], path: Path, line: int) -> tuple[str, list[Picture]]:
    """Run a cell, and give what it prints, with the pictures in it. Tracebacks have the lines of the chapter's file."""
    tree = ast.increment_lineno(ast.parse(code, str(path)), line - 1)
    pictures: list[Picture] = []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, str(path), "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
            if isinstance(value, Picture):
                pictures.append(value)
            if value is not None:
                print(repr(value))
    return printed.getvalue(), pictures


def _value(expression: str, names: dict[str, Any], path: Path, line: int) -> str:
    tree = ast.increment_lineno(ast.parse(expression, str(path), "eval"), line - 1)
    return str(eval(compile(tree, str(path), "eval"), names))


def _written_cell(match: re.Match[str], output: str) -> str:
    if match["hidden"] is not None:
        return match[0]
    fence = f"```python{match['slow'] or ''}\n{match['code']}```\n"
    return f"{fence}\n```text\n{output}```\n" if output else fence


def _compare(ran: Ran, line: int, written: str, found: str) -> None:
    if not _same(written, found):
        ran.wrong.append(f"{ran.chapter.path.name}:{line}: written {written!r}, found {found!r}")


def _same(written: str, found: str) -> bool:
    """Whether two texts are the same but for numbers with decimals, which may differ by one in their last digit.

    Another processor adds in another order, and what lies between two figures is then rounded to either.
    """
    if _NUMBER.sub("#", written) != _NUMBER.sub("#", found):
        return False
    pairs = zip(_NUMBER.findall(written), _NUMBER.findall(found), strict=True)
    return all(_near(a, b) for a, b in pairs)


def _near(written: str, found: str) -> bool:
    decimals = len(re.sub(r"e.*", "", written).partition(".")[2])
    if "e" in written or decimals != len(re.sub(r"e.*", "", found).partition(".")[2]) or not decimals:
        return written == found
    return abs(float(written) - float(found)) < 1.5 * 0.1**decimals


def differences(one: Chapter, slow: bool = False) -> list[str]:
    """Where what is written isn't what the cells give, and which numbers nothing supports."""
    return [*run(one, slow).wrong, *unsupported_numbers(one)]


def unsupported_numbers(one: Chapter) -> Iterator[str]:
    """Numbers in sentences that no cell computes, in a paragraph that names no source. Names may have digits."""
    text = _CELL.sub(lambda match: "\n" * match[0].count("\n"), one.text)
    text = re.sub(r"^```.*?^```\n", lambda match: "\n" * match[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    line = 1
    for paragraph in text.split("\n\n"):
        said = _FIGURE.sub("", paragraph)
        if "](https://" not in said and not said.lstrip().startswith("#"):
            said = re.sub(r"\[[^\]]*\]\([^)]*\)", "", said)
            said = re.sub(r"`([^`]*)`", lambda m: m[1] if re.fullmatch(r"[\d\s,.\[\]()x*+-]+", m[1]) else "", said)
            said = re.sub(r"\b[Cc]hapters? \d( (and|to) \d)?|^\d+\. ", "", said, flags=re.MULTILINE)
            for number in re.findall(r"\d[\d.,]*", said):
                yield f"{one.path.name}:{line}: {number!r} has neither a cell nor a source"
        line += paragraph.count("\n") + 2
