"""A query: terms with weights, what it is restricted to, and the hits.

The query's vector is the sum of its terms' unit vectors, each times its weight, made a unit vector again; a hit's score
is its cosine with that. So a term that is taken away (a negative weight) pulls the query away from what looks like it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arguments import brief
from ..errors import InputError
from ..similarity import have_direction, unit_vectors

Array: TypeAlias = NDArray[Any]

_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([ T]\d\d:\d\d(:\d\d)?)?)?)?")


@dataclass(frozen=True)
class Term:
    """A part of a query: a text, an image (anything that `embed_image` takes) or a vector [E] of any length, and its
    weight, which isn't zero.
    """

    text: str | None = None
    weight: float = 1.0
    image: Any = None
    vector: Any = None

    def __post_init__(self) -> None:
        """Raises InputError."""
        if sum(part is not None for part in (self.text, self.image, self.vector)) != 1:
            raise InputError("A term is a text, an image or a vector; expected one of them.")
        if not isinstance(self.weight, int | float) or not isfinite(self.weight) or not self.weight:
            raise InputError(f"The weight of {self.name} is {brief(self.weight)}; expected a number that isn't zero.")

    @property
    def name(self) -> str:
        """The text, the image's path, or what kind of thing it is."""
        if self.text is not None:
            return self.text
        if self.image is None:
            return "the vector given"
        is_path = isinstance(self.image, str | os.PathLike)
        return os.fspath(self.image) if is_path else f"the {type(self.image).__name__} given"

    def direction(self, embed_dim: int) -> Array:
        """The unit vector [E] float32 of a term that is a vector. Raises InputError for one that can't be."""
        try:
            given = np.asarray(self.vector, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"The vector of a term is no array of numbers ({error}).") from error
        if given.shape != (embed_dim,) or not have_direction(given):
            raise InputError(
                f"The vector of a term has the shape {given.shape}; expected {embed_dim} finite numbers, not all zero."
            )
        return unit_vectors(given).astype(np.float32)


@dataclass(frozen=True)
class Hit:
    """A picture that answers: its path relative to the folder, its score, its cosine with each term, its facts, and the
    number `id` that the store knows it by until it is removed.
    """

    path: str
    score: float
    cosines: tuple[float, ...]
    width: int | None = None
    height: int | None = None
    taken: str | None = None
    id: int | None = None


class Known(NamedTuple):
    """A picture of the index: its path, size in pixels, the date taken, and its unit vector [E] float16."""

    path: str
    width: int | None
    height: int | None
    taken: str | None
    vector: Array


@dataclass(frozen=True)
class Restriction:
    """What hits have to be: taken from `after` on and before `before`, with a path that fits the glob and is listed.

    Dates are "2024", "2024-05" or "2024-05-01 12:30"; a picture without a date fits neither. In a glob, * stands for
    slashes too.
    """

    after: str | None = None
    before: str | None = None
    glob: str | None = None
    paths: Collection[bytes] | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what is no date."""
        for name in ("after", "before"):
            value = getattr(self, name)
            if value is not None and not _DATE.fullmatch(value):
                raise InputError(f"{name} is {brief(value)}; expected a date such as 2024, 2024-05 or 2024-05-31.")
            if value is not None:
                object.__setattr__(self, name, value.replace("T", " "))

    @property
    def is_none(self) -> bool:
        """Whether it restricts nothing."""
        return self.after is None and self.before is None and self.glob is None and self.paths is None

    def allows(self, path: bytes, taken: str | None) -> bool:
        """Whether a picture may be a hit."""
        if self.paths is not None and path not in self.paths:
            return False
        if self.glob is not None and not fnmatchcase(os.fsdecode(path), self.glob):
            return False
        if self.after is None and self.before is None:
            return True
        if taken is None:
            return False
        return (self.after is None or taken >= self.after) and (self.before is None or taken < self.before)


def combination(terms: Sequence[Term], units: Array) -> Array:
    """The unit vector [E] of a query, from its terms' [T, E]. Raises InputError if they cancel each other out."""
    weights = np.array([term.weight for term in terms])
    total: Array = weights @ units.astype(np.float64)
    if not have_direction(total) or np.linalg.norm(total) < 1e-6 * np.abs(weights).sum():
        raise InputError("The terms of the query cancel each other out; change a weight.")
    return unit_vectors(total).astype(np.float32)


def terms_of(query: str | Term | Iterable[str | Term]) -> list[Term]:
    """A text, a term, or several of them, as terms. Raises InputError if there are none."""
    given = list(query) if isinstance(query, Iterable) and not isinstance(query, str) else [query]
    terms: list[Any] = [Term(term) if isinstance(term, str) else term for term in given]
    if not terms or not all(isinstance(term, Term) for term in terms):
        raise InputError(f"The query is {brief(query)}; expected a text, a Term, or a list of them.")
    return terms
