"""Arguments as callers give them: counts, lists of texts, what is one image and what are several.

Whatever a caller's object raises while it is looked at (in its `__iter__`, `__len__`, `__array__`) becomes an
InputError that says so, with the object's own error as its cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

from .errors import ClipError, InputError, TextError

BINARY = bytes | bytearray | memoryview
# Characters of a value that an error shows.
MAX_SHOWN = 200


def shown(value: Any) -> str:
    """A value as errors show it: shortened; by its type if it can't be shown, as an integer of 5,000 digits can't."""
    try:
        text = repr(value)
    except Exception:  # raised by whoever wrote the object's __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def is_true(name: str, value: Any) -> bool:
    """The truth of a switch. Raises InputError for what has none, such as an array."""
    try:
        return bool(value)
    except Exception as error:  # raised by whoever wrote the object's __bool__
        raise InputError(f"{name} is a {type(value).__name__}; expected True or False.") from error


def axes(value: Any) -> int | None:
    """How many axes an array, a tensor or a series has; None for what has none of these."""
    found = _attribute(value, "ndim")
    return found if isinstance(found, int) else None


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
                f"The {name} are a {kind}, which iterates over something else ({shown(item)}) than what it holds; "
                f"{expected}. Take what you mean out of it, for instance list(x.values())."
            )
        yield item


def listed_texts(texts: Any) -> list[str]:
    """One text, or several in their order, as plain strings.

    Raises InputError if there are none or they aren't in a list of some kind, and TextError for what isn't text.
    """
    expected = "expected a text, or a list of texts"
    if isinstance(texts, BINARY):
        raise TextError(f"The text is {type(texts).__name__}; {expected}. Decode it: x.decode('utf-8').")
    if isinstance(texts, str):
        return [str.__str__(texts)]
    if axes(texts) not in (None, 1):
        raise InputError(f"The texts are a {type(texts).__name__} of {axes(texts)} axes; {expected}.")
    check_ordered(texts, "texts", expected)
    listed = []
    for i, text in enumerate(elements(texts, "texts", expected)):
        if not isinstance(text, str):
            hint = " Decode it: x.decode('utf-8')." if isinstance(text, BINARY) else ""
            message = f"text {i}: expected a text, got {type(text).__name__}.{hint}"
            raise TextError(message)
        listed.append(str.__str__(text))  # a plain str, whatever a class derived from it overrides
    if not listed:
        raise InputError("No texts were given; expected at least one.")
    return listed


def _attribute(value: Any, name: str) -> Any:
    """An attribute, or None where there is none, or where getting it fails."""
    try:
        return getattr(value, name, None)
    except Exception:  # raised by whoever wrote the property
        return None


def _iterates_over_keys(items: Any, first: str) -> bool:
    """Whether a collection's item 0 is another than the first that it iterates. A series with one axis has none."""
    if axes(items) == 1 or not hasattr(type(items), "__getitem__"):
        return False
    try:
        return bool(items[0] != first)
    except Exception:  # it has no item 0: its keys are names
        return True
