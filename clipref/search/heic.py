"""HEIC, which telephones write: opened where pi-heif is installed (the extra `heic`)."""

from __future__ import annotations

from collections.abc import Mapping

from ..lazy import no_fork, once

SUFFIXES = (".heic", ".heif", ".hif")


def _register() -> bool:
    with no_fork:
        try:
            import pi_heif
        except ImportError:
            return False
        pi_heif.register_heif_opener()
    return True


register = once(_register)


def hint(others: Mapping[str, int]) -> str:
    """What to do about HEIC files that were left out."""
    return "; for HEIC: pip install 'clipref[heic]'" if any(others.get(suffix) for suffix in SUFFIXES) else ""
