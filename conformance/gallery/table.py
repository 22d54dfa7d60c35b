"""The rows of the gallery: an outsider, what it is asked, and what people found in its code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

HERE = Path(__file__).parent

# What a difference is: a choice, which is stated or follows from what the implementation is for; a mistake, which
# nobody would want who knew of it; a limit, which is something that it doesn't do.
Kind: TypeAlias = Literal["choice", "mistake", "limit"]


@dataclass(frozen=True)
class Environment:
    """Packages in a virtual environment of their own. The requirements are pinned, and installed in their order."""

    name: str
    requirements: Sequence[Sequence[str]]  # arguments of one call of pip each
    python: str = sys.executable  # or another interpreter, by its name on the PATH

    @property
    def pinned(self) -> dict[str, str]:
        """The versions of the packages that are named, by name."""
        words = (word for call in self.requirements for word in call if "==" in word)
        return dict(word.split("==", 1) for word in words)


@dataclass(frozen=True)
class Line:
    """A line of the installed code of an outsider, and a name that stands on it, by which the run looks it up.

    `source`: of what is installed compiled, where its source lies; such a line is looked up by people.
    """

    file: str  # relative to site-packages, or in its source
    number: int
    names: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Difference:
    """One way in which an outsider differs from the original, as people found it in its code.

    `named`: the faults, or the profile, by which the suite's diagnosis names it; empty where it names none.
    """

    level: str
    what: str
    kind: Kind
    line: Line
    checked: str  # how the suite's verdict was checked by hand
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """One run of the suite: the levels that are claimed, in a profile of preprocessing."""

    levels: tuple[str, ...]
    profile: str = "openai"
    full: tuple[str, ...] = ()
    only: str = ""


@dataclass(frozen=True)
class Outsider:
    """One implementation, or one way in which people use it."""

    name: str  # of its results
    title: str
    package: str  # the one whose version the gallery shows
    environment: Environment
    adapter: str  # FILE:NAME in adapters/
    claims: str
    asked: tuple[Asked, ...]
    differences: tuple[Difference, ...] = ()

    @property
    def version(self) -> str:
        """The version that is pinned."""
        return self.environment.pinned[self.package]


@dataclass(frozen=True)
class Absent:
    """One that was tried and can't be asked, and why."""

    title: str
    package: str
    version: str
    why: str
