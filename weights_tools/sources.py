"""Checkpoints as they are found: which file is what, told from its content, and the configuration that goes with it.

A source is a file or a folder: OpenAI's TorchScript `.pt`; a `torch.save` file; safetensors, single or sharded; with
transformers' config.json, open_clip's open_clip_config.json or this project's config.json beside it, or none.

What tensors can't tell (the activation, the number of heads) comes from that file, or from the code in a TorchScript
archive, or from who published the file, known by its sha256. If none of them tells, `Doubt` says which option does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipref.config import PUBLISHED, ClipConfig, ViTConfig, infer_config
from clipref.errors import ConfigError, ModelNotFound, WeightsError
from clipref.files import open_regular, parse_json, read_bytes
from clipref.weights import MERGES_NAMES, read_config

from .configs import from_open_clip, from_transformers
from .layouts import Recipe, recipes
from .stored import Stored, safetensors_tensors
from .torch_files import read_torch_file

# sha256 of OpenAI's files (https://github.com/openai/CLIP, clip/clip.py, where each is part of the address).
OPENAI_FILES = {
    "clip/RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "clip/RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "clip/RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "clip/RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "clip/RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "clip/ViT-B-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "clip/ViT-B-16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "clip/ViT-L-14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "clip/ViT-L-14-336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}

# In the order of preference: what needs no unpickling first.
_SAFETENSORS = ("model.safetensors.index.json", "open_clip_model.safetensors", "model.safetensors")
_TORCH = ("open_clip_pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.bin")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # before transformers 5, and since
_CONFIGS = ("open_clip_config.json", "config.json", *_PROCESSORS)
_TOKENIZERS = (*MERGES_NAMES, "vocab.json", "added_tokens.json")

# An index of ViT-bigG-14's shards has 150 KB.
MAX_JSON = 10_000_000


class Doubt(ConfigError):
    """Something that decides the result can't be known from the checkpoint."""


@dataclass(frozen=True)
class Options:
    """What the user knows better than the checkpoint, or has to say because it doesn't tell."""

    config: ClipConfig | None = None
    activation: str | None = None
    vision_heads: int | None = None
    text_heads: int | None = None
    model: str | None = None  # a published id, whose configuration this is

    def settle(self, config: ClipConfig) -> ClipConfig:
        """The configuration with what was given instead of what was found."""
        vision: dict[str, Any] = {"heads": self.vision_heads or config.vision.heads}
        text: dict[str, Any] = {"heads": self.text_heads or config.text.heads}
        if self.activation is not None:
            text["activation"] = self.activation
            if isinstance(config.vision, ViTConfig):
                vision["activation"] = self.activation
        return dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision, **vision),
            text=dataclasses.replace(config.text, **text),
        )


@dataclass(frozen=True)
class Source:
    """A checkpoint that is ready to be converted: our tensors, each with its recipe, and its configuration."""

    kind: str
    files: dict[str, str]  # the files that were used, and their sha256
    tensors: dict[str, Recipe]
    config: ClipConfig
    model: str | None  # the published model that it is
    merges: Path | None


def choose(names: Iterable[str]) -> list[str]:
    """Of a repository's files, those that a conversion needs. Raises ModelNotFound if none holds weights."""
    present = set(names)
    weights = next((name for name in (*_SAFETENSORS, *_TORCH) if name in present), None)
    if weights is None:
        raise ModelNotFound(
            f"No weights among {len(present)} files; expected one of {', '.join((*_SAFETENSORS, *_TORCH))}."
        )
    shards: list[str] = []
    if weights.endswith(".index.json"):
        pattern = weights.removesuffix(".index.json").replace(".", r"-\d+-of-\d+\.", 1)
        shards = sorted(name for name in present if re.fullmatch(pattern, name))
    return [weights, *shards, *(name for name in (*_CONFIGS, *_TOKENIZERS) if name in present)]


def open_source(path: str | os.PathLike[str], options: Options | None = None) -> Source:
    """Open a file or folder of any layout that is known. Raises ModelNotFound, WeightsError, ConfigError or Doubt."""
    path, options = Path(path), options or Options()
    if path.is_dir():
        folder = path
        try:
            weights = path / choose(entry.name for entry in path.iterdir())[0]
        except ModelNotFound as error:
            raise ModelNotFound(f"{path}: {error}") from error
        beside = {name: folder / name for name in _CONFIGS if (folder / name).is_file()}
        merges = next((folder / name for name in MERGES_NAMES if (folder / name).is_file()), None)
    elif path.is_file():
        weights, beside, merges = path, {}, None
    else:
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise ModelNotFound(f"{path} {what}; expected a checkpoint's file or folder.")
    kind, stored, used, code = _read(weights)
    try:
        tensors = recipes(stored)
    except WeightsError as error:
        raise WeightsError(f"{weights}: {error}") from error
    files = {file.name: sha256(file) for file in used}
    model = options.model or next((id for id, digest in OPENAI_FILES.items() if digest in files.values()), None)
    if options.config is not None:
        config = options.config
    elif model is not None:
        config = PUBLISHED[model]
    else:
        config, read = _config(weights, beside, tensors, code, options)
        files |= {file.name: sha256(file) for file in read}
    return Source(kind, files, tensors, options.settle(config), model, merges)


def _read(weights: Path) -> tuple[str, dict[str, Stored], list[Path], str | None]:
    """What kind of file this is, its tensors, the files they are in, and a TorchScript archive's code."""
    if weights.name.endswith(".index.json"):
        shards = [weights.parent / name for name in _shards(weights)]
        parts = [_read(shard) for shard in shards]
        tensors = {name: stored for part in parts for name, stored in part[1].items()}
        if len(tensors) != sum(len(part[1]) for part in parts):
            raise WeightsError(f"{weights}: a tensor is in two of its shards.")
        return f"sharded {parts[0][0]}", tensors, [weights, *shards], None
    try:
        with open_regular(weights) as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"{weights} can't be read: {error}.") from error
    if start[:2] != b"PK" and start[8:9] == b"{":
        return "safetensors", safetensors_tensors(weights), [weights], None
    torch_file = read_torch_file(weights)
    kind = "torch.save" if torch_file.code is None else "TorchScript"
    return kind, torch_file.tensors, [weights], torch_file.code


def _shards(index: Path) -> list[str]:
    table = _json(index).get("weight_map")
    if not isinstance(table, Mapping) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{index} has no weight_map of tensor names to files.")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name or name.endswith(".json") or not (index.parent / name).is_file():
            raise WeightsError(
                f"{index} names the shard {name[:80]!r}, which is no file of tensors beside it. Fetch it."
            )
    return names


def _config(
    weights: Path, beside: Mapping[str, Path], tensors: Mapping[str, Recipe], code: str | None, options: Options
) -> tuple[ClipConfig, list[Path]]:
    """The configuration, and the files that it was read from."""
    ours, theirs = beside.get("config.json"), beside.get("open_clip_config.json")
    if ours is not None and "vision" in _json(ours):
        return read_config(ours), [ours]
    if theirs is not None and weights.name.startswith("open_clip"):
        return _named(theirs, from_open_clip, _json(theirs)), [theirs]
    if ours is not None and not weights.name.startswith("open_clip"):
        processor = next((beside[name] for name in _PROCESSORS if name in beside), None)
        pixels = None if processor is None else _json(processor)
        return _named(ours, from_transformers, _json(ours), pixels), [ours, *([processor] if processor else [])]
    activation = options.activation or _activation(code)
    if activation is None:
        raise Doubt(
            f"{weights} doesn't tell its activation. Say --activation quick_gelu if it was trained with QuickGELU (as "
            "OpenAI's and MetaCLIP's were) or --activation gelu if not (LAION's, DataComp's); or put its config file "
            "beside it and give the folder."
        )
    shapes = {name: recipe.shape for name, recipe in tensors.items()}
    vision_heads, text_heads = options.vision_heads, options.text_heads
    try:
        return infer_config(shapes, activation, vision_heads, text_heads), []  # type: ignore[arg-type]
    except ConfigError as error:
        if "heads can't be inferred" in str(error):
            raise Doubt(f"{weights}: {error} Or say --vision-heads and --text-heads.") from error
        raise ConfigError(f"{weights}: {error}") from error


def _activation(code: str | None) -> str | None:
    """QuickGELU is the only thing in CLIP that takes a sigmoid."""
    if code is None or ("sigmoid(" in code) == ("gelu(" in code.replace("sigmoid(", "")):
        return None
    return "quick_gelu" if "sigmoid(" in code else "gelu"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_bytes(path, MAX_JSON))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object. Fetch it again.")
    return value


def _named(path: Path, read: Any, *arguments: Any) -> ClipConfig:
    """A configuration, or an error that says in which file."""
    try:
        config: ClipConfig = read(*arguments)
    except ConfigError as error:
        raise ConfigError(f"{path.parent}: {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{path}: a value is of the wrong kind: {error}.") from error
    return config


def sha256(path: Path) -> str:
    """A file's digest, read in blocks."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()
