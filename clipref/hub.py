"""Where models are: a name becomes a path on this machine, by download or conversion if need be.

Four kinds of names: the embedded models, which are part of the package; the published ones; any repository of Hugging
Face, `hf:owner/name`; and paths. What isn't yet in this project's layout is fetched and converted once, into `home()`,
by what the entry point `fetch` of the group `clipref.sources` names (weights_tools does it). Nothing that is
downloaded is executed.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from .config import PUBLISHED, Activation, ClipConfig
from .errors import ModelNotFound
from .files import parse_json, read_bytes
from .weights import MAX_CONFIG

EMBEDDED = {
    "clipref/shapes-vit": "a small ViT, trained on drawn scenes; part of the package",
    "clipref/shapes-rn": "a small ModifiedResNet, trained on drawn scenes; part of the package",
}

# Repositories that hold OpenAI's weights in OpenAI's tensor names, as WEIGHTS_NAME.
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
WEIGHTS_NAME = "open_clip_model.safetensors"
FOREIGN_WEIGHTS = (
    WEIGHTS_NAME,
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)

HUB_PREFIX = "hf:"
GROUP = "clipref.sources"


def models() -> list[str]:
    """Every model id that `locate` knows, the embedded ones first."""
    return [*EMBEDDED, *PUBLISHED]


def locate(
    name: str | os.PathLike[str],
    *,
    activation: Activation | None = None,
    revision: str | None = None,
    digest: str | None = None,
) -> tuple[Path, ClipConfig | None]:
    """The path of a model's checkpoint on this machine, and its configuration where that is known beforehand.

    Downloads and converts what isn't there yet, or isn't in this project's layout. Raises ModelNotFound, or what the
    conversion raises.
    """
    text = os.fspath(name)
    path = find(text)
    if path is not None and not is_foreign(path):
        return path, PUBLISHED.get(text)
    if path is not None or text in PUBLISHED or text.startswith(HUB_PREFIX):
        return _fetch()(text), None
    raise unknown(text)


def unknown(name: str) -> ModelNotFound:
    """The error for what is no model id and no path, with the ids that are like it."""
    near = difflib.get_close_matches(name, models(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the models are: {', '.join(models())}."
    return ModelNotFound(f"{name!r} is neither a model id nor a path that exists; {hint}")


def present(name: str) -> Path:
    """Where a model's checkpoint is on this machine. Raises ModelNotFound that says how it gets here."""
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
    path = Path(name).expanduser()
    return path if path.exists() else None


def folder_of(name: str) -> Path:
    """Where a published model, or a repository `hf:owner/name[@revision]`, is kept once it is converted."""
    return home().joinpath(*name.replace(HUB_PREFIX, "hf/", 1).split("/"))


def is_foreign(path: Path) -> bool:
    """Whether a path holds a checkpoint of another layout, which has to be converted: told without reading weights."""
    if path.is_file():
        with open(path, "rb") as file:
            return file.read(2) == b"PK"  # what torch saves is a zip
    config = path / "config.json"
    if (path / "model.safetensors").is_file() and not config.is_file():
        return False
    try:
        return "model_type" in parse_json(read_bytes(config, MAX_CONFIG))
    except (OSError, ValueError, TypeError):
        # No sound config.json. With weights under another project's name it is that project's, otherwise the error
        # is for the one who opens it.
        return not config.is_file() and any((path / name).is_file() for name in FOREIGN_WEIGHTS)


def _fetch() -> Callable[[str], Path]:
    for entry in entry_points(group=GROUP, name="fetch"):
        fetch: Callable[[str], Path] = entry.load()
        return fetch
    raise ModelNotFound("This installation can't convert checkpoints; install the package anew, whole.")


def home() -> Path:
    """Where converted checkpoints are, `<home>/clip/ViT-B-32`: `$CLIPREF_HOME`, or the user's cache."""
    if chosen := os.environ.get("CLIPREF_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipref"
