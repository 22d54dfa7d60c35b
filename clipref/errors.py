"""The errors of the project: one family, so that `except ClipError` catches what we raise and nothing else.

Every message says what was given, what was expected and what to do next.
"""


class ClipError(Exception):
    """Base of every error that this package raises on purpose."""


class ModelNotFound(ClipError):
    """No such model id, folder or file, or its files are not on this machine."""


class ConfigError(ClipError):
    """A configuration is incomplete or contradicts itself, or none can be inferred."""


class WeightsError(ClipError):
    """A checkpoint file is damaged, or a tensor is missing, unexpected, misshapen or not finite."""


class ImageError(ClipError):
    """An image can't be read, is too large, or is an array of the wrong shape or dtype."""


class TextError(ClipError):
    """A text is too long, or is not text."""


class InputError(ClipError):
    """An argument other than an image or a text is wrong: an empty list, an unknown type, a bad shape."""


class BackendError(ClipError):
    """An unknown backend, one that can't run here, or one that failed."""
