"""Where models are: a name becomes a path on this machine, by download or conversion if need be.

Four kinds of names: the embedded models, which are part of the package; the published ones; any repository of Hugging
Face, `hf:owner/name`; and paths. What a path is, and which configuration belongs to it, is decided in one place, which
the entry point `fetch` of the group `clipref.sources` names (weights_tools has it): what can be opened where it is,
stays there; the rest is downloaded or converted once, into `home()`. Nothing that is downloaded is executed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from .config import PUBLISHED, Activation, ClipConfig
from .errors import ModelNotFound

EMBEDDED = {
    "clipref/shapes-vit": "a small ViT, trained on drawn scenes; part of the package",
    "clipref/shapes-rn": "a small ModifiedResNet, trained on drawn scenes; part of the package",
}

# Repositories that hold OpenAI's weights in OpenAI's tensor names, as open_clip_model.safetensors.
REPOSITORIES = {
    "clip/RN50": "timm/resnet50_clip.openai",
    "clip/RN101": "timm/resnet101_clip.openai",
    "clip/RN50x4": "timm/resnet50x4_clip.openai",
    "clip/RN50x16": "timm/resnet50x16_clip.openai",
    "clip/RN50x64": "timm/resnet50x64_clip.openai",
    "clip/ViT-B-32": "timm/vit_base_patch32_clip_224.openai",
    "clip/ViT-B-16": "timm/vit_base_patch16_clip_224.openai",
    "clip/ViT-L-14": "timm/vit_large_patch14_clip_224.openai",
    "clip/ViT-L-14-336px": "timm/vit_large_patch14_clip_336.openai",
}

HUB_PREFIX = "hf:"
GROUP = "clipref.sources"


def models() -> list[str]:
    """Every model id that `locate` knows, the embedded ones first."""
    return [*EMBEDDED, *PUBLISHED]


def locate(
    name: str | os.PathLike[str],
    *,
    config: ClipConfig | None = None,
    activation: Activation | None = None,
    revision: str | None = None,
    digest: str | None = None,
) -> tuple[Path, ClipConfig]:
    """The path of a model's checkpoint on this machine, and its configuration.

    `config` stands for what the checkpoint says of itself, `activation` for that of its transformers. Downloads and
    converts what isn't there yet, or isn't in OpenAI's tensor names. Raises ModelNotFound, ConfigError if the
    configuration can't be known, or what the conversion raises.
    """
    text = _text(name)
    if find(text) is None and text not in PUBLISHED and not text.startswith(HUB_PREFIX):
        raise unknown(text)
    return _fetch()(text, config=config, activation=activation)


def _text(name: str | os.PathLike[str]) -> str:
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise ModelNotFound(f"The model is {name!r}; expected a model id, hf:owner/name, or a path.")
    return text


def unknown(name: str) -> ModelNotFound:
    """The error for what is no model id and no path, with what may have been meant."""
    shown = repr(name if len(name) < 200 else f"{name[:200]}...")
    address = re.fullmatch(r"(https?://(?P<host>[^/]*)/|[a-z0-9]+://)(?P<rest>.*)", name)
    if address:
        at_hub = re.match(r"[\w.-]+/[\w.-]+", address["rest"]) if address["host"] == "huggingface.co" else None
        hint = f"say {HUB_PREFIX}{at_hub[0]}." if at_hub else "fetch the file, and give its path."
        return ModelNotFound(f"{shown} is an address, and models are opened from this machine or by id; {hint}")
    near = difflib.get_close_matches(name[:200], models(), n=3, cutoff=0.4)
    if re.fullmatch(r"(?!clip/|clipref/)\w[\w.-]*/\w[\w.-]*(@\S+)?", name):
        hint = f"if it is a repository of Hugging Face, say {HUB_PREFIX}{name}."
    else:
        hint = f"did you mean {' or '.join(near)}?" if near else f"the models are: {', '.join(models())}."
    return ModelNotFound(f"{shown} is neither a model id nor a path that exists; {hint}")


def present(name: str | os.PathLike[str]) -> Path:
    """Where a model's checkpoint is on this machine. Raises ModelNotFound that says how it gets here."""
    name = _text(name)
    path = find(name)
    if path is not None:
        return path
    if name in PUBLISHED or name.startswith(HUB_PREFIX):
        raise ModelNotFound(f"{name} is not on this machine; fetch it with: clipref download {name}")
    raise unknown(name)


def find(name: str) -> Path | None:
    """Where a model's checkpoint is on this machine, or None. Never downloads, never converts."""
    if name in EMBEDDED:
        return Path(__file__).parent / "data" / name.split("/")[1]
    if name in PUBLISHED or name.startswith(HUB_PREFIX):
        folder = folder_of(name)
        return folder if (folder / "model.safetensors").is_file() else None
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # a name too long, a null character, an unknown user's home
        return None


def folder_of(name: str) -> Path:
    """Where a published model, or a repository `hf:owner/name[@revision]`, is kept once it is converted."""
    return home().joinpath(*name.replace(HUB_PREFIX, "hf/", 1).split("/"))


def _fetch() -> Callable[..., tuple[Path, ClipConfig]]:
    for entry in entry_points(group=GROUP, name="fetch"):
        fetch: Callable[..., tuple[Path, ClipConfig]] = entry.load()
        return fetch
    raise ModelNotFound("This installation can't open checkpoints; install the package anew, whole.")


def home() -> Path:
    """Where converted checkpoints are, `<home>/clip/ViT-B-32`: `$CLIPREF_HOME`, or the user's cache."""
    if chosen := os.environ.get("CLIPREF_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipref"
