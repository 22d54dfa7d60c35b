"""The errors of the project: one family, so that `except ClipError` catches what we raise and nothing else.

Every message says what was given, what was expected and what to do next.
"""

from __future__ import annotations

from typing import Any, TypeVar


class ClipError(Exception):
    """Base of every error that this package raises on purpose."""


class ModelNotFound(ClipError):
    """No such model id, folder or file, or its files are not on this machine."""


class ConfigError(ClipError):
    """A configuration is incomplete or contradicts itself, or none can be inferred."""


class WeightsError(ClipError):
    """A checkpoint file is damaged, or a tensor is missing, unexpected, misshapen or not finite."""


class ItemError(ClipError):
    """Base of the errors about one item of several.

    `index` counts the items of the whole call from 0, and `source` is the item as it was given; both are None where an
    item is looked at by itself.
    """

    def __init__(self, message: str = "", *, index: int | None = None, source: Any = None) -> None:
        super().__init__(message)
        self.index = index
        self.source = source


AnItemError = TypeVar("AnItemError", bound=ItemError)


def with_index(error: AnItemError, kind: str, index: int, source: Any) -> AnItemError:
    """The error of an item looked at by itself, as one of the item `index` of several: "image 3: ..."."""
    return type(error)(f"{kind} {index}: {error}", index=index, source=source)


class ImageError(ItemError):
    """An image can't be read, is too large, or is an array of the wrong shape or dtype.

    `index` and `source` say which, where it is one of several: see ItemError.
    """


class TextError(ItemError):
    """A text is empty, too long, or not text; `index` and `source` say which, where it is one of several."""


class InputError(ClipError):
    """An argument other than an image or a text is wrong: an empty list, an unknown type, a bad shape."""


class BackendError(ClipError):
    """An unknown backend, one that can't run here, or one that failed."""
