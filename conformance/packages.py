"""Which packages are installed: numpy and safetensors ask and grade, looking for causes takes some others."""

from __future__ import annotations

from importlib.util import find_spec

from clipref.errors import InputError

_MODULES = {"pillow": "PIL", "regex": "regex", "ftfy": "ftfy"}
# Packages that compute a wrong answer anew, or what it costs, by where in CLIP the fault is.
TO_EXPLAIN = {"preprocess": ("pillow",), "tokenize": ("regex", "ftfy")}
TO_MEASURE_COSTS = {**TO_EXPLAIN, "vit": ("pillow",), "resnet": ("pillow",), "text": ("regex", "ftfy")}


def missing(*packages: str) -> tuple[str, ...]:
    """Those that aren't installed here."""
    return tuple(package for package in packages if find_spec(_MODULES[package]) is None)


def require(
    what: str, *packages: str, otherwise: str = ", or ask --minute, which needs numpy and safetensors alone"
) -> None:
    """Raise InputError if not all are installed. `what`: a sentence that goes on with "with pillow"."""
    if lacking := missing(*packages):
        raise InputError(f"{what} with {' and '.join(lacking)}: pip install {' '.join(lacking)}{otherwise}.")
