"""Where models are: a name becomes a path on this machine, by download if need be.

Three kinds of names: the embedded models, which are part of the package; the published ones, from Hugging Face; and
paths. Nothing that is downloaded is executed: the files are safetensors.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from .config import PUBLISHED, ClipConfig
from .errors import ModelNotFound

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


def models() -> list[str]:
    """Every model id that `locate` knows, the embedded ones first."""
    return [*EMBEDDED, *PUBLISHED]


def locate(name: str | os.PathLike[str]) -> tuple[Path, ClipConfig | None]:
    """The path of a model's checkpoint on this machine, and its configuration where that is known beforehand.

    Downloads a published model that isn't there yet. Raises ModelNotFound.
    """
    text = os.fspath(name)
    if (path := find(text)) is not None:
        return path, PUBLISHED.get(text)
    if text in PUBLISHED:
        return download(text), PUBLISHED[text]
    near = difflib.get_close_matches(text, models(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the models are: {', '.join(models())}."
    raise ModelNotFound(f"{text!r} is neither a model id nor a path that exists; {hint}")


def find(name: str) -> Path | None:
    """Where a model's checkpoint is on this machine, or None. Never downloads."""
    if name in EMBEDDED:
        return Path(__file__).parent / "data" / name.split("/")[1]
    if name in PUBLISHED:
        folder = home() / name
        return folder if (folder / "model.safetensors").is_file() else _cached(name)
    path = Path(name).expanduser()
    return path if path.exists() else None


def home() -> Path:
    """Where checkpoints can be put by hand, `<home>/clip/ViT-B-32/model.safetensors`: `$CLIPREF_HOME`, or the cache."""
    if chosen := os.environ.get("CLIPREF_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipref"


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(REPOSITORIES[name], WEIGHTS_NAME)
    return Path(cached) if isinstance(cached, str) else None


def download(name: str) -> Path:
    """Fetch a published model through huggingface_hub: its cache, its resumption, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

    Raises ModelNotFound that says what to put where, if the hub can't be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(REPOSITORIES[name], WEIGHTS_NAME))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelNotFound(
            f"{name} is not on this machine, and {REPOSITORIES[name]} could not be downloaded ({reason}). Put that "
            f"repository's {WEIGHTS_NAME} at {home() / name / 'model.safetensors'}, or give a path instead of the id."
        ) from error
