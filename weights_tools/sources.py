"""Checkpoints as they are found: which file is what, told from its content, and the configuration that goes with it.

A source is a file or a folder: OpenAI's TorchScript `.pt`; a `torch.save` file; safetensors, single or sharded; with
transformers' config.json, open_clip's open_clip_config.json or this project's config.json beside it, or none. A file
and the folder that it is in are the same source.

What tensors can't tell (the activation, the number of heads) comes from that config, or from the code in a TorchScript
archive, or from who published the file, known by its sha256. If none of them tells, `Doubt` says which option does.
Whoever opens, converts, inspects, verifies or exports a path asks `open_source`, so all know it for the same thing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clipref.config import NO_IMAGE_TOWER, NO_TEXT_TOWER, PUBLISHED, ClipConfig, NoTower, PreprocessConfig
from clipref.errors import ConfigError, InputError, ModelNotFound, WeightsError
from clipref.files import no_weights, open_regular, parse_json, read_bytes, stand_in
from clipref.published import MODELS
from clipref.tokenizer import Tokenizer
from clipref.weights import MERGES_NAMES

from .configs import MAX_ADDED, from_open_clip, from_timm, from_transformers
from .infer import has_image_tower, has_text_tower, infer_config
from .layouts import LANDMARKS, TIMM, TRANSFORMERS, Assembly, assemblies, layout_of
from .stored import Stored, safetensors_tensors
from .torch_files import read_torch_file
from .wrappers import Doubt as Doubt
from .wrappers import unwrap

# sha256 of OpenAI's files.
OPENAI_FILES = {name: model.sha256 for name, model in MODELS.items()}

# Files of weights in the order of preference: what needs no unpickling first.
_SAFETENSORS = ("model.safetensors.index.json", "open_clip_model.safetensors", "model.safetensors")
_TORCH = ("open_clip_pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.bin")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # before transformers 5, and since
_CONFIGS = ("open_clip_config.json", "config.json", *_PROCESSORS)
_TOKENIZERS = (*MERGES_NAMES, "vocab.json", "added_tokens.json")
OPENAI_VOCABULARY = 49408
# What a config.json has in which project.
_OURS, _TRANSFORMERS = "embed_dim", "model_type"

# An index of ViT-bigG-14's shards has 150 KB.
MAX_JSON = 10_000_000


@dataclass(frozen=True)
class Options:
    """What the user knows better than the checkpoint, or has to say because it doesn't tell."""

    config: ClipConfig | None = None
    activation: str | None = None
    vision_heads: int | None = None
    text_heads: int | None = None
    model: str | None = None  # a published id, whose configuration this is
    prefix: str | None = None  # what stands before the names of the model that is meant

    def __post_init__(self) -> None:
        if self.activation not in (None, "quick_gelu", "gelu"):
            raise InputError(f"activation is {self.activation!r}; expected 'quick_gelu' or 'gelu'.")

    def settle(self, config: ClipConfig) -> ClipConfig:
        """The configuration with what was given instead of what was found."""
        given = {"activation": self.activation}

        def with_known(tower: Any, **given: Any) -> Any:
            known = {} if isinstance(tower, NoTower) else dataclasses.asdict(tower)
            return dataclasses.replace(tower, **{k: v for k, v in given.items() if k in known and v is not None})

        return dataclasses.replace(
            config,
            vision=with_known(config.vision, heads=self.vision_heads, **given),
            text=with_known(config.text, heads=self.text_heads, **given),
        )


@dataclass(frozen=True)
class Files:
    """Which files a checkpoint consists of."""

    weights: Path  # or the index of several
    configs: Mapping[str, Path]  # by name, those that are beside the weights
    tokenizers: tuple[Path, ...]  # which have to agree

    @property
    def merges(self) -> Path | None:
        """The one to read; the others are read with it (clipref.vocabulary)."""
        return next((file for file in self.tokenizers if file.name in MERGES_NAMES), None)

    def __iter__(self) -> Iterator[Path]:
        yield from (self.weights, *_shards(self.weights), *self.configs.values(), *self.tokenizers)


@dataclass(frozen=True)
class Source:
    """A checkpoint that is ready to be converted: our tensors, each with its assembly, and its configuration."""

    kind: str
    weights: Path
    used: tuple[Path, ...]  # the files that were read
    tensors: dict[str, Assembly]
    config: ClipConfig
    model: str | None  # the published model that it is
    merges: Path | None
    layout: str  # whose tensor names they are: openai, transformers or timm (layouts.py)
    as_it_is: bool  # whether `clipref.weights.Checkpoint` can open the weights file: safetensors, in our names
    digests: dict[Path, str] = field(default_factory=dict)  # sha256 of those of the files whose it was needed so far

    @property
    def files(self) -> dict[str, str]:
        """The names of the files that were read, and their sha256."""
        for path in self.used:
            if path not in self.digests:
                self.digests[path] = sha256(path)
        return {path.name: self.digests[path] for path in self.used}


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


def find_files(path: str | os.PathLike[str]) -> Files:
    """The files of the checkpoint at a path: of a folder, those of which the weights are preferred; of a file, those
    beside it. Raises ModelNotFound.
    """
    path = Path(path)
    if path.is_dir():
        folder = path
        try:
            weights = path / choose(entry.name for entry in path.iterdir())[0]
        except ModelNotFound as error:
            raise ModelNotFound(f"{path}: {error}") from None
        except OSError as error:
            raise ModelNotFound(f"{path} can't be read: {error.strerror}.") from None
    elif path.is_file():
        weights, folder = path, path.parent
    else:
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise ModelNotFound(f"{path} {what}; expected a checkpoint's file or folder.")
    configs = {name: folder / name for name in _CONFIGS if (folder / name).is_file()}
    return Files(weights, configs, tuple(folder / name for name in _TOKENIZERS if (folder / name).is_file()))


def open_source(path: str | os.PathLike[str], options: Options | None = None) -> Source:
    """Open a file or folder of any layout that is known. Raises ModelNotFound, WeightsError, ConfigError or Doubt."""
    files, options = find_files(path), options or Options()
    kind, held, used, code = _read(files.weights)
    try:
        stored = unwrap(held, LANDMARKS, options.prefix)
        tensors = assemblies(stored)
    except (WeightsError, Doubt) as error:
        raise type(error)(f"{files.weights}: {error}") from error
    layout, _ = layout_of(stored)
    # OpenAI's own are known by their digest, and none of them is a safetensors file.
    digests = {} if kind.endswith("safetensors") else {file: sha256(file) for file in used}
    model = options.model or next((id for id, digest in OPENAI_FILES.items() if digest in digests.values()), None)
    if options.config is not None:
        config = options.config
    elif model is not None:
        config = PUBLISHED[model]
    else:
        found = _config_beside(files, layout)
        if found is None:
            told, preprocess = _activation(code), PreprocessConfig()
            if layout == TIMM and (timms := files.configs.get("config.json")):
                (told, preprocess), used = from_timm(_json(timms)), [*used, timms]
            config = _config_of_tensors(files.weights, tensors, options.activation or told, options)
            config = dataclasses.replace(config, preprocess=preprocess)
            if not isinstance(config.text, NoTower):
                end = _end_behind_which_it_grew(config.text.vocab_size, files.merges)
                config = dataclasses.replace(config, text=dataclasses.replace(config.text, eos_token_id=end))
        else:
            config, read = found
            used += read
    config = options.settle(_with_towers_of(tensors, config))
    as_it_is = kind == "safetensors" and tensors == {name: Assembly((tensor,)) for name, tensor in held.items()}
    return Source(kind, files.weights, tuple(used), tensors, config, model, files.merges, layout, as_it_is, digests)


def _read(weights: Path) -> tuple[str, dict[str, Stored], list[Path], str | None]:
    """What kind of file this is, its tensors, the files they are in, and a TorchScript archive's code."""
    if shards := _shards(weights):
        parts = [_read(shard) for shard in shards]
        tensors = {name: stored for part in parts for name, stored in part[1].items()}
        if len(tensors) != sum(len(part[1]) for part in parts):
            raise WeightsError(f"{weights}: a tensor is in two of its shards.")
        return f"sharded {parts[0][0]}", tensors, [weights, *shards], None
    try:
        with open_regular(weights) as file:
            start = file.read(64)
    except OSError as error:
        raise ModelNotFound(f"{weights} can't be read: {error.strerror or error}.") from None
    if other := no_weights(start):
        raise WeightsError(f"{weights} has no weights: {other}. Fetch it again, or give the file that has them.")
    if start[:2] != b"PK" and start[8:9] == b"{":
        return "safetensors", safetensors_tensors(weights), [weights], None
    torch_file = read_torch_file(weights)
    kind = "torch.save" if torch_file.code is None else "TorchScript"
    return kind, torch_file.tensors, [weights], torch_file.code


def _shards(index: Path) -> list[Path]:
    """The files that an index names; none of what is no index."""
    if not index.name.endswith(".index.json"):
        return []
    table = _json(index).get("weight_map")
    if not isinstance(table, Mapping) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{index} has no weight_map of tensor names to files.")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name or name.endswith(".json") or not (index.parent / name).is_file():
            raise WeightsError(
                f"{index} names the shard {name[:80]!r}, which is no file of tensors beside it. Fetch it."
            )
    return [index.parent / name for name in names]


def _config_beside(files: Files, layout: str) -> tuple[ClipConfig, list[Path]] | None:
    """The configuration that is written beside the weights, and the files that it was read from; None without any.

    A repository may have both open_clip's and transformers', each for the weights in its own names.
    """
    configs, unsaid = files.configs, partial(_end_behind_which_it_grew, merges=files.merges)
    plain, theirs = configs.get("config.json"), configs.get("open_clip_config.json")
    settings = _json(plain) if plain is not None else {}
    if plain is not None and _OURS in settings:
        return _read_config(plain, ClipConfig.from_dict, settings), [plain]
    for_transformers = plain is not None and (_TRANSFORMERS in settings or layout == TRANSFORMERS)
    if theirs is not None and not (for_transformers and layout == TRANSFORMERS):
        return _read_config(theirs, from_open_clip, _json(theirs), unsaid), [theirs]
    if plain is not None and for_transformers:
        processor = next((configs[name] for name in _PROCESSORS if name in configs), None)
        pixels = None if processor is None else _json(processor)
        config = _read_config(plain, from_transformers, settings, pixels, unsaid)
        return config, [plain, *([processor] if processor else [])]
    return None


def _with_towers_of(tensors: Mapping[str, Assembly], config: ClipConfig) -> ClipConfig:
    """The configuration without a tower that isn't there; of a tower alone, its projection says where it leads."""
    image, text = has_image_tower(tensors), has_text_tower(tensors)
    if image and text:
        return config
    projection = tensors.get("visual.proj" if image else "text_projection")
    return dataclasses.replace(
        config,
        embed_dim=projection.shape[-1] if projection is not None and projection.shape else config.embed_dim,
        vision=config.vision if image else NO_IMAGE_TOWER,
        text=config.text if text else NO_TEXT_TOWER,
    )


def _end_behind_which_it_grew(vocab_size: int, merges: Path | None) -> int | None:
    """The end-of-text id, where nothing says it, of a vocabulary that has a few tokens behind it; None if it has none.

    It is that of the checkpoint's own merges, or of OpenAI's. OpenAI's code, open_clip's and older configurations of
    transformers' pool at the largest id of a text, which is the same unless a text has a token that was added.
    """
    if vocab_size == OPENAI_VOCABULARY:
        return None
    end = OPENAI_VOCABULARY - 1 if merges is None else Tokenizer.from_file(merges).end_id
    return end if 0 < vocab_size - 1 - end <= MAX_ADDED else None


def _config_of_tensors(
    weights: Path, tensors: Mapping[str, Assembly], activation: str | None, options: Options
) -> ClipConfig:
    """The configuration that shapes tell, with what is told of the activation. Raises Doubt where nothing is."""
    shapes = {name: assembly.shape for name, assembly in tensors.items()}
    if activation is None:
        raise Doubt(
            f"{weights} doesn't tell its activation, and no config file beside it does. It is 'quick_gelu' if it was "
            "trained with QuickGELU (as OpenAI's and MetaCLIP's were), 'gelu' if not (LAION's, DataComp's): say "
            "activation=... to from_pretrained, or --activation ... to a command; or put its config file beside it. "
            "Without a config file, images are normalised as OpenAI's models want them."
        )
    try:
        return infer_config(shapes, activation, options.vision_heads, options.text_heads)  # type: ignore[arg-type]
    except ConfigError as error:
        if "heads can't be inferred" in str(error):
            raise Doubt(
                f"{weights}: {error} Or say --vision-heads and --text-heads: clipref convert {weights} FOLDER, with "
                "these; then open FOLDER."
            ) from error
        raise ConfigError(f"{weights}: {error}") from error


def _activation(code: str | None) -> str | None:
    """QuickGELU is the only thing in CLIP that takes a sigmoid."""
    if code is None or ("sigmoid(" in code) == ("gelu(" in code.replace("sigmoid(", "")):
        return None
    return "quick_gelu" if "sigmoid(" in code else "gelu"


def _json(path: Path) -> dict[str, Any]:
    try:
        data = read_bytes(path, MAX_JSON)
        if other := stand_in(data):
            raise ValueError(other)
        value = parse_json(data)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object. Fetch it again.")
    return value


def _read_config(path: Path, read: Any, *arguments: Any) -> ClipConfig:
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
