"""Models by their names: a published id, a repository or a path becomes a CLIP; so does one that was pickled.

`AutoModel.from_pretrained` takes the arguments of roboflow's inference_models where they mean something here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, cast, get_args

import numpy as np

from .arguments import brief, check_choice, is_true
from .clip import CLIP as CLIP  # most modules import it from here
from .config import Activation, ClipConfig
from .errors import InputError, WeightsError
from .hub import EMBEDDED, is_of_hub, locate
from .weights import Checkpoint, DType


class AutoModel:
    """Makes a CLIP from a model id, a folder or a file: `AutoModel.from_pretrained(...)`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Raises InputError: there is nothing to make."""
        raise InputError("AutoModel is not a model; AutoModel.from_pretrained('clip/ViT-B-32') opens one.")

    @staticmethod
    def from_pretrained(
        name: str | os.PathLike[str] | None = None,
        *,
        model_id_or_path: str | os.PathLike[str] | None = None,
        backend: str | Sequence[str] = "auto",
        dtype: DType = "float32",
        config: ClipConfig | None = None,
        activation: Activation | None = None,
        upright: bool | None = None,
        max_pixels: int | None = None,
        revision: str | None = None,
        digest: str | None = None,
        **options: Any,
    ) -> CLIP:
        """Open a checkpoint; its weights are read when a tower is first used.

        `name`, or by its other name `model_id_or_path`: a published id ("clip/ViT-B-32"), an embedded model
        ("clipref/shapes-vit"), a repository of Hugging Face ("hf:owner/name"), a folder or a file. `backend`: "auto"
        takes the fastest installed, a list of names the first that runs; see `clipref.backends`, which `options`
        (`precision=` among them) are passed to. `dtype`: "float32", or "float64" for the reference.

        `config` stands for what the checkpoint says of itself; `activation` ("quick_gelu" or "gelu") for that of its
        transformers alone, and has to be given where no file tells it. `upright` turns images as their EXIF data say
        before they are looked at; `max_pixels` is the largest image that is read. `revision`, a commit, tag or branch
        of a repository, and `digest`, as `Checkpoint.digest` has it, say which weights are expected. `precision`
        ("float32", "bfloat16", "int8", ...) is an option of every backend, and "auto" finds the fastest that has it.

        Raises ModelNotFound, ConfigError, WeightsError, BackendError or InputError.

        >>> from clipref import AutoModel
        >>> model = AutoModel.from_pretrained("clipref/shapes-vit", backend="reference", dtype="float64")
        >>> model
        CLIP(ViT at 48 px, backend='reference', dtype='float64')
        >>> AutoModel.from_pretrained("clip/ViT-B-23")
        Traceback (most recent call last):
        clipref.errors.ModelNotFound: ...
        """
        name = _model_name(name, model_id_or_path)
        if isinstance(dtype, str | np.dtype):
            dtype = str(dtype)  # type: ignore[assignment]
        check_choice("dtype", dtype, get_args(DType))
        if activation is not None:
            check_choice("activation", activation, get_args(Activation))
        if config is not None and not isinstance(config, ClipConfig):
            raise InputError(f"config is {brief(config)}; expected a ClipConfig, or None.")
        place = locate(name, config=config, activation=activation, revision=revision, digest=digest)
        checkpoint = Checkpoint(*place)
        if upright is not None:
            steps: dict[str, Any] = {"upright": is_true("upright", upright)}
            preprocess = dataclasses.replace(checkpoint.config.preprocess, **steps)
            checkpoint.config = dataclasses.replace(checkpoint.config, preprocess=preprocess)
        model = CLIP(checkpoint, backend, dtype, max_pixels=max_pixels, **options)
        if _is_id(name):
            model.source, model.revision = name, revision
        return model


def _model_name(name: Any, model_id_or_path: Any) -> str:
    """The name of a model, given by one of two arguments; `locate` refuses what is no name. Raises InputError."""
    if name is not None and model_id_or_path is not None:
        raise InputError(
            f"The model's name is {brief(name)} and {brief(model_id_or_path)}; expected one id, such as "
            f"'clip/ViT-B-32', or one path."
        )
    given: Any = model_id_or_path if name is None else name
    try:
        return cast(str, os.fspath(given) if isinstance(given, os.PathLike) else given)
    except Exception as error:  # raised by whoever wrote the object's __fspath__
        raise InputError(f"The model's name is a {type(given).__name__}, which gives no path: {error!r}.") from error


def _is_id(name: str) -> bool:
    """Whether a name stands for the same model on every machine, as a path doesn't."""
    return name in EMBEDDED or is_of_hub(name)


def reopen(
    source: str,
    revision: str | None,
    digest: str | None,
    config: ClipConfig,
    backend: str,
    dtype: DType,
    options: dict[str, Any],
) -> CLIP:
    """A model that was pickled. Raises WeightsError if other weights are there now."""
    path = locate(source, config=config, revision=revision, digest=digest)[0] if _is_id(source) else source
    model = CLIP(Checkpoint(path, config), backend, dtype, **options)
    if model.digest != digest:
        raise WeightsError(f"{source} has other weights than it had when the model was pickled; open it anew.")
    model.source, model.revision = source, revision
    return model
