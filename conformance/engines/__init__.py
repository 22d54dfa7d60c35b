"""How the name of an engine under test becomes one that answers cases."""

from __future__ import annotations

from clipref.errors import InputError

from ..case import EngineUnderTest


def open_engine(spec: str) -> EngineUnderTest:
    """`backend:NAME` for one of clipref's own, `module:name` for a function from a checkpoint's folder to an object.

    Raises InputError.
    """
    from . import python

    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise InputError(f"The engine is {spec!r}; expected backend:NAME or module:name.")
    if kind == "backend":
        return python.backend(rest)
    return python.imported(kind, rest)
