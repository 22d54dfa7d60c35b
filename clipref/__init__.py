"""CLIP from scratch in plain numpy: a readable reference, with pluggable accelerated kernels.

    from clipref import AutoModel
    model = AutoModel.from_pretrained("clipref/shapes-vit")
    model.compare(subject="scene.png", prompt=["a red circle", "a blue star"])

Importing this package imports numpy and nothing else; every name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from .lazy import no_fork as _no_fork

# kernels and weights_tools lie beside this folder in a checkout and inside it once installed: when Python is started
# in a checkout, this path finds those that an ordinary (not editable) installation has put into site-packages.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .clip import CLIP as CLIP
    from .config import ClipConfig as ClipConfig
    from .errors import BackendError as BackendError
    from .errors import ClipError as ClipError
    from .errors import ConfigError as ConfigError
    from .errors import ImageError as ImageError
    from .errors import InputError as InputError
    from .errors import ModelNotFound as ModelNotFound
    from .errors import TextError as TextError
    from .errors import WeightsError as WeightsError
    from .model import AutoModel as AutoModel
    from .preprocessing import preprocess as preprocess
    from .tokenizer import tokenize as tokenize

_HOME = {
    "AutoModel": "model",
    "CLIP": "clip",
    "ClipConfig": "config",
    "preprocess": "preprocessing",
    "tokenize": "tokenizer",
    **dict.fromkeys(
        (
            "BackendError", "ClipError", "ConfigError", "ImageError", "InputError", "ModelNotFound", "TextError",
            "WeightsError",
        ),
        "errors",
    ),
}  # fmt: skip

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _no_fork:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
