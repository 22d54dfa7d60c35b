"""Arguments as callers give them: counts, lists of texts, what is one image and what are several.

Whatever a caller's object raises while it is looked at (in its `__iter__`, `__len__`, `__array__`) becomes an
InputError that says so, with the object's own error as its cause.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ClipError, InputError, TextError

Array = NDArray[Any]
BINARY = bytes | bytearray | memoryview
# Characters of a value that an error shows.
MAX_SHOWN = 200


def brief(value: Any) -> str:
    """A value as errors show it: shortened; by its type if it can't be shown, as an integer of 5,000 digits can't."""
    try:
        text = " ".join(repr(value).split())  # in one line
    except Exception:  # raised by whoever wrote the object's __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def is_count(value: Any) -> bool:
    """Whether this is a whole number, at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def check_count(name: str, value: Any) -> None:
    """Raise InputError unless the value is a whole number, at least 1."""
    if not is_count(value):
        raise InputError(f"{name} is {brief(value)}; expected a whole number, at least 1.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise InputError unless the value is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {brief(value)}; expected {' or '.join(map(repr, choices))}.")


def is_true(name: str, value: Any) -> bool:
    """The truth of a switch. Raises InputError for what has none, such as an array."""
    try:
        return bool(value)
    except Exception as error:  # raised by whoever wrote the object's __bool__
        raise InputError(f"{name} is a {type(value).__name__}; expected True or False.") from error


def as_array(value: Any, name: str, expected: str) -> Array:
    """A value as numpy's array. Raises InputError, which calls it `name`, for ragged lists and the like."""
    try:
        array: Array = np.asarray(value)
    except Exception as error:  # raised by whoever wrote the object's __array__
        raise InputError(f"{name} can't be viewed as an array ({error}); {expected}.") from error
    return array


def attribute(value: Any, name: str) -> Any:
    """An attribute, or None where there is none, or where getting it fails."""
    try:
        return getattr(value, name, None)
    except Exception:  # raised by whoever wrote the property
        return None


def axes(value: Any) -> int | None:
    """How many axes an array, a tensor or a series has; None for what has none of these."""
    found = attribute(value, "ndim")
    return found if isinstance(found, int) else None


def length(items: Any) -> int | None:
    """How many items there are, or None if that isn't known beforehand."""
    try:
        return len(items)
    except Exception:  # has no length, or raises something of its own
        return None


def is_one_image(images: Any) -> bool:
    """Whether this is one image, not several: a path, bytes, a file, a PIL image, an array of two or three axes.

    An array or a series with one axis is several (paths, for instance), unless it holds numbers.
    """
    if isinstance(images, str | BINARY | os.PathLike) or not isinstance(images, Iterable):
        return True
    found = axes(images)
    if found == 1:
        return attribute(attribute(images, "dtype"), "kind") in tuple("biufc")
    return attribute(images, "read") is not None if found is None else found < 4


def are_embeddings(items: Any, embed_dim: int) -> bool:
    """Whether these are embeddings, floats [E] or [N, E]: an image is uint8, and a text no array."""
    if axes(items) not in (1, 2):
        return False
    array = as_array(items, "embeddings", "expected floats")
    return array.dtype.kind == "f" and array.shape[-1] == embed_dim


def is_one(items: Any, kind: str, embed_dim: int) -> bool:
    """Whether this is one image or text, whichever `kind` says, or one embedding."""
    if are_embeddings(items, embed_dim):
        return axes(items) == 1
    return isinstance(items, str) if kind == "text" else is_one_image(items)


def check_ordered(items: Any, name: str, expected: str) -> None:
    """Raise InputError for a set or a dict, and for what can't be iterated at all."""
    if isinstance(items, Mapping | set | frozenset) or not isinstance(items, Iterable):
        raise InputError(f"The {name} are a {type(items).__name__}; {expected}.")


def elements(items: Iterable[Any], name: str, expected: str) -> Iterator[Any]:
    """The items one by one. Raises InputError for a collection that iterates over its keys, as a table does."""
    kind = type(items).__name__
    try:
        iterator = iter(items)
    except Exception as error:  # raised by whoever wrote the object's __iter__
        raise InputError(f"The {name} are a {kind} that can't be iterated: {error!r}; {expected}.") from error
    for i in count():
        try:
            item = next(iterator)
        except StopIteration:
            return
        except ClipError:
            raise
        except Exception as error:  # raised by whoever wrote the generator
            raise InputError(f"The {name} come from a {kind}, which failed after {i} of them: {error!r}.") from error
        if i == 0 and isinstance(item, str) and _iterates_over_keys(items, item):
            raise InputError(
                f"The {name} are a {kind}, which iterates over something else ({brief(item)}) than what it holds; "
                f"{expected}. Take what you mean out of it, for instance list(x.values())."
            )
        yield item


def listed_texts(texts: Any) -> list[str]:
    """One text, or several in their order, as plain strings.

    Raises InputError if there are none or they aren't in a list of some kind, and TextError for what isn't text.
    """
    expected = "expected a text, or a list of texts"
    if isinstance(texts, BINARY):
        raise TextError(f"The text is {type(texts).__name__}; {expected}. Decode it: x.decode('utf-8').", source=texts)
    if isinstance(texts, str):
        return [str.__str__(texts)]
    if axes(texts) not in (None, 1):
        raise InputError(f"The texts are a {type(texts).__name__} of {axes(texts)} axes; {expected}.")
    check_ordered(texts, "texts", expected)
    if type(texts) in (list, tuple) and set(map(type, texts)) == {str}:
        return list(texts)  # at once, because a thousand labels may come with every image
    listed = []
    for i, text in enumerate(elements(texts, "texts", expected)):
        if not isinstance(text, str):
            hint = " Decode it: x.decode('utf-8')." if isinstance(text, BINARY) else ""
            message = f"text {i}: expected a text, got {type(text).__name__}.{hint}"
            raise TextError(message, index=i, source=text)
        listed.append(str.__str__(text))  # plain, whatever a class derived from str overrides
    if not listed:
        raise InputError("No texts were given; expected at least one.")
    return listed


def listed_labels(name: str, labels: Any) -> list[str]:
    """The texts of an argument that takes a list only. Raises InputError, which calls it `name`."""
    expected = "expected a list of at least one text"
    if isinstance(labels, str | BINARY):
        raise InputError(f"{name} are {brief(labels)}; {expected}.")
    try:
        return listed_texts(labels)
    except TextError as error:
        raise InputError(f"{name} are not all texts ({str(error).rstrip('.')}); {expected}.") from error
    except InputError as error:
        raise InputError(f"{name} are {brief(labels)}; {expected}. {error}") from error


def _iterates_over_keys(items: Any, first: str) -> bool:
    """Whether a collection's item 0 is another than the first that it iterates. A series with one axis has none."""
    if axes(items) == 1 or not hasattr(type(items), "__getitem__"):
        return False
    try:
        return bool(items[0] != first)
    except Exception:  # it has no item 0: its keys are names
        return True
