"""Exercises that grade themselves: a function is run beside the right one, and beside wrong ones that have names.

If it gives what the right one gives, it is right. If it gives what a known mistake gives, that is what is wrong with
it. Otherwise it is told how far off it is, and on which arguments.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError

Array: TypeAlias = Any  # whatever an answer takes and gives: arrays, mostly

# The largest difference that is right, relative to the root mean square of the right answer. Another order of sums
# makes less than 1e-12 in float64, and an answer that computes in float32 on the way about 1e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Exercise:
    """A task, the function `right` that does it, and `cases`: arguments to try answers on.

    `mistakes` are functions that do something else, each by the words that say what is wrong with it.
    """

    task: str
    right: Callable[..., Any]
    cases: Sequence[tuple[Any, ...]]
    mistakes: Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Grade:
    """Whether an answer is right, and `words` that say so, or what is wrong; `mistake` is the known one."""

    right: bool
    words: str
    mistake: str | None = None

    def __repr__(self) -> str:
        return self.words


def exercises() -> dict[str, Exercise]:
    """All of them, by their names."""
    from .exercises import EXERCISES

    return EXERCISES


def grade(name: str, mine: Any) -> Grade:
    """Run `mine`, a function, on the cases of an exercise. Raises InputError for an unknown name, or no function.

    >>> from clipref.learn import grade
    >>> grade("cosine", lambda x, y: x @ y)
    not yet: the vectors keep their lengths; divide by both, or make unit vectors first
    """
    known = exercises()
    if name not in known:
        near = difflib.get_close_matches(str(name).lower(), known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"There is no exercise {name!r}.{meant} Expected one of {', '.join(known)}.")
    if not callable(mine):
        raise InputError(f"An answer to {name!r} is a function, not {type(mine).__name__}; give its name without ().")
    exercise = known[name]
    suspects = dict(exercise.mistakes)  # the mistakes that explain every answer so far
    wrong: str | None = None
    for arguments in exercise.cases:
        expected = np.asarray(exercise.right(*_copies(arguments)))
        given = _copies(arguments)
        try:
            found = np.asarray(mine(*given))
        except Exception as error:  # whatever an answer raises
            return Grade(False, f"not yet: with {_in_words(arguments)} it raises {type(error).__name__}: {error}")
        if any(not np.array_equal(a, b) for a, b in zip(given, arguments, strict=True)):
            return Grade(
                False, "not yet: it changes its arguments; work on copies, such as `x = x + y` and not `x += y`"
            )
        if found.dtype.kind not in ("U" if expected.dtype.kind == "U" else "fiub"):
            what = "nothing; does it `return` what it made?" if found.dtype.kind == "O" else f"{found.dtype}"
            return Grade(False, f"not yet: it gives {what}")
        problem = _problem(found, expected)
        if problem is not None and wrong is None:
            wrong = f"with {_in_words(arguments)} it gives {problem}"
        suspects = {what: other for what, other in suspects.items() if _explains(other, arguments, found)}
    if wrong is None:
        return Grade(True, "right")
    for what in suspects:
        return Grade(False, f"not yet: {what}", what)
    return Grade(False, f"not yet: {wrong}")


def _explains(mistake: Callable[..., Any], arguments: tuple[Any, ...], found: Array) -> bool:
    """Whether a mistake gives what was found."""
    with np.errstate(all="ignore"):
        other = np.asarray(mistake(*_copies(arguments)))
    return _problem(found, other) is None


def _problem(found: Array, expected: Array) -> str | None:
    """What is wrong with an answer, in words."""
    words = found.dtype.kind == expected.dtype.kind == "U" and found.ndim == expected.ndim
    if words and found.shape != expected.shape:
        return f"{_short(found)}, where {_short(expected)} is expected"
    if found.shape != expected.shape:
        return f"the shape {list(found.shape)}, where {list(expected.shape)} is expected"
    if expected.dtype.kind in "iubU":
        same = np.array_equal(found, expected)
        return None if same else f"{_short(found)}, where {_short(expected)} is expected"
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return "what isn't finite"
    if not finite.any():
        return None
    scale = float(np.sqrt(np.square(expected[finite]).mean())) or 1.0
    largest = float(np.abs(found[finite] - expected[finite]).max()) / scale
    if largest <= TOLERANCE:
        return None
    return f"something else: off by {largest:.1g} times the usual size of the right numbers"


def _copies(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)


def _short(x: Array) -> str:
    return str(x.tolist()) if x.size < 10 else f"{x.ravel()[:8].tolist()} and so on"


def _in_words(arguments: tuple[Any, ...]) -> str:
    """Arguments in words: shapes of arrays, and other values as they are."""
    said = [f"[{', '.join(map(str, a.shape))}]" if isinstance(a, np.ndarray) else repr(a) for a in arguments]
    return f"arguments {', '.join(said)}"
