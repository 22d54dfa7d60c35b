"""Layouts that a checkpoint can be written in: this project's own, transformers', and open_clip's.

The two others are what their libraries' `from_pretrained` and `create_model_and_transforms` read. The tensors are ours,
renamed, cut or transposed, bit for bit, by the tables of layouts.py taken backwards; configurations are the inverse of
configs.py. What a layout has no words for is refused, and nothing is written then.

Names and keys are those of transformers' CLIPConfig, CLIPImageProcessor and CLIPTokenizer, and of open_clip's
CLIPVisionCfg, CLIPTextCfg (src/open_clip/model.py) and PreprocessCfg (src/open_clip/transform.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipref.architecture import TowerConfig
from clipref.config import ClipConfig, NoTower, Shape, tensor_shapes
from clipref.errors import ConfigError
from clipref.text_transformer import TextConfig
from clipref.vision_transformer import ViTConfig
from clipref.vocabulary import DEFAULT_MERGES, END, START, Vocabulary, read_vocabulary, symbols_of, write_vocabulary

from .folder import write_config, write_json
from .layouts import TRANSFORMERS_BLOCK, TRANSFORMERS_NAMES
from .stored import Array


@dataclass(frozen=True)
class Piece:
    """A tensor of a layout: one of ours, or a third of one, or one transposed."""

    source: str
    third: int | None = None  # of three that are stacked: q, k and v
    transposed: bool = False

    def shape(self, whole: Shape) -> Shape:
        """Its shape, of our tensor's."""
        rows = whole if self.third is None else (whole[0] // 3, *whole[1:])
        return rows[::-1] if self.transposed else rows

    def of(self, whole: Array) -> Array:
        """The tensor, of ours; a view."""
        rows = len(whole) // 3 if self.third is not None else 0
        part = whole if self.third is None else whole[self.third * rows : (self.third + 1) * rows]
        return part.T if self.transposed else part


@dataclass(frozen=True)
class Target:
    """A layout to be written.

    `pieces` has every tensor by its name there, those of one of ours together; it raises ConfigError for a model that
    the layout doesn't have. `write_rest` writes what lies beside the tensors into a folder: of a configuration, the
    vocabulary if there is one, and the dtypes of the tensors.
    """

    weights: str  # the file's name
    pieces: Callable[[ClipConfig], dict[str, Piece]]
    write_rest: Callable[[Path, ClipConfig, Vocabulary | None, Collection[str]], None]


# --- ours -------------------------------------------------------------------------------------------------------------


def _as_it_is(config: ClipConfig) -> dict[str, Piece]:
    return {name: Piece(name) for name in tensor_shapes(config)}


def _write_ours(folder: Path, config: ClipConfig, vocabulary: Vocabulary | None, dtypes: Collection[str]) -> None:
    write_config(folder, config)
    if vocabulary is not None:
        write_vocabulary(folder, vocabulary)


# --- transformers -----------------------------------------------------------------------------------------------------


def _backwards(table: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Patterns of our names with what they become, of patterns of theirs with what these become."""
    return [
        (re.escape(ours).replace(r"\\1", "(.+)"), re.sub(r"\(.+?\)", r"\\1", theirs).replace(r"\.", "."))
        for theirs, ours in table
    ]


def _transformers_pieces(config: ClipConfig) -> dict[str, Piece]:
    _refuse("transformers' CLIPModel", config, {ViTConfig.kind}, {TextConfig.kind})
    if config.text.tokenizer is not None:
        raise ConfigError(f"transformers' CLIPModel goes with CLIP's tokenizer, not with {config.text.tokenizer!r}.")
    pieces: dict[str, Piece] = {}
    for ours in tensor_shapes(config):
        name = next((re.sub(p, to, ours) for p, to in _backwards(TRANSFORMERS_NAMES) if re.fullmatch(p, ours)), ours)
        for pattern, replacement in _backwards(TRANSFORMERS_BLOCK):
            name = re.sub(pattern, replacement, name)
        block, stacked, kind = name.partition(".attn.in_proj_")
        if stacked:
            pieces |= {f"{block}.self_attn.{part}_proj.{kind}": Piece(ours, i) for i, part in enumerate("qkv")}
        else:
            pieces[name] = Piece(ours, transposed=ours in ("visual.proj", "text_projection"))
    return pieces


_TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PILLOW_FILTERS = {"bilinear": 2, "bicubic": 3}


def _write_transformers(
    folder: Path, config: ClipConfig, vocabulary: Vocabulary | None, dtypes: Collection[str]
) -> None:
    vision: Any = config.vision
    text = config.text
    end = text.end_of_text
    assert end is not None  # which texts of the only kind that it has have
    # One for the whole model: where weights are of several, as OpenAI's are, it opens in float32.
    dtype = _TORCH_DTYPES[next(iter(dtypes))] if len(set(dtypes)) == 1 else "float32"
    write_json(
        folder / "config.json",
        {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": config.embed_dim,
            "torch_dtype": dtype,
            "text_config": {
                "model_type": "clip_text_model", **_transformers_tower(text), "projection_dim": config.embed_dim,
                "vocab_size": text.vocab_size, "max_position_embeddings": text.context_length,
                "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end,
            },
            "vision_config": {
                "model_type": "clip_vision_model", **_transformers_tower(vision), "projection_dim": config.embed_dim,
                "image_size": vision.resolution, "patch_size": vision.patch_size,
            },
        },
    )  # fmt: skip
    side, pixels = {"height": vision.resolution, "width": vision.resolution}, config.preprocess
    squash = pixels.resize_mode == "squash"
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True, "size": side if squash else {"shortest_edge": vision.resolution},
            "resample": _PILLOW_FILTERS[pixels.interpolation],
            "do_center_crop": not squash, "crop_size": side,
            "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(pixels.mean), "image_std": list(pixels.std),
        },
    )  # fmt: skip
    if vocabulary is not None:
        _write_transformers_tokenizer(folder, vocabulary, text.context_length)


def _transformers_tower(tower: Any) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "layer_norm_eps": 1e-5,
    }


def _write_transformers_tokenizer(folder: Path, vocabulary: Vocabulary, context_length: int) -> None:
    """The files that CLIPTokenizer reads. It pads with the end of text, and not with 0, which changes no embedding."""
    write_vocabulary(folder, vocabulary)
    ids = {symbol: i for i, symbol in enumerate(symbols_of(vocabulary.merges))}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", settings | special)


# --- open_clip --------------------------------------------------------------------------------------------------------


def _open_clip_pieces(config: ClipConfig) -> dict[str, Piece]:
    _refuse("open_clip's CLIP", config)
    if len(set(_activations(config))) > 1:
        raise ConfigError("open_clip has one activation for both towers; this model has 'quick_gelu' in one of them.")
    return _as_it_is(config)


def _activations(config: ClipConfig) -> list[str]:
    return [part.activation for part in (config.vision, config.text) if hasattr(part, "activation")]


def _write_open_clip(folder: Path, config: ClipConfig, vocabulary: Vocabulary | None, dtypes: Collection[str]) -> None:
    if vocabulary is not None and vocabulary != read_vocabulary(DEFAULT_MERGES):
        raise ConfigError(
            "open_clip has OpenAI's vocabulary built in, and this model has another. Take its tokenizer from "
            "--to transformers, or leave the merges out of what is converted."
        )
    vision: Any = config.vision
    text, pixels = config.text, config.preprocess
    tower: dict[str, Any] = {"image_size": vision.resolution, "width": vision.width}
    if vision.family == "resnet":
        tower |= {"layers": list(vision.layers), "head_width": vision.width * 32 // vision.heads}
    else:
        tower |= {"layers": vision.layers, "head_width": vision.width // vision.heads, "patch_size": vision.patch_size}
        tower |= _mlp_ratio(vision)
    texts: dict[str, Any] = {
        "context_length": text.context_length, "vocab_size": text.vocab_size, "width": text.width,
        "heads": text.heads, "layers": text.layers, **_mlp_ratio(text),
    }  # fmt: skip
    if text.tokenizer is not None:
        texts["hf_tokenizer_name"] = text.tokenizer
        if text.end_of_text is None:  # as in all of its model_configs/ViT-*-CLIPA*.json
            texts["tokenizer_kwargs"] = {"strip_sep_token": True}
    elif text.eos_token_id is not None:  # of a vocabulary that grew behind it
        texts |= {"pool_type": "eos", "eos_id": text.eos_token_id}
    write_json(
        folder / "open_clip_config.json",
        {
            "model_cfg": {
                "embed_dim": config.embed_dim,
                "quick_gelu": _activations(config)[0] == "quick_gelu",
                "vision_cfg": tower | dict(vision.open_clip),
                "text_cfg": texts | dict(text.open_clip),
            },
            "preprocess_cfg": {
                "mean": list(pixels.mean), "std": list(pixels.std),
                "interpolation": pixels.interpolation, "resize_mode": pixels.resize_mode,
            },
        },
    )  # fmt: skip


def _mlp_ratio(tower: Any) -> dict[str, float]:
    """The ratio of which open_clip makes the MLP's width: the product with the tower's, without its fraction."""
    ratio = tower.mlp_width / tower.width
    exact = int(tower.width * ratio) == tower.mlp_width
    return {"mlp_ratio": ratio if exact else (tower.mlp_width + 0.5) / tower.width}


def _refuse(
    what: str, config: ClipConfig, image: Collection[str] | None = None, text: Collection[str] | None = None
) -> None:
    """Raise ConfigError for towers that a layout doesn't have, and for what neither of the others has."""
    for tower, kinds, name in ((config.vision, image, "image"), (config.text, text, "text")):
        if isinstance(tower, NoTower):
            raise ConfigError(f"There is no {name} tower; {what} has both. Convert it without --to.")
        assert isinstance(tower, TowerConfig)
        if kinds is not None and tower.kind not in kinds:
            raise ConfigError(f"{what} has no {name} tower of the kind {tower.kind!r}. Convert it without --to.")
    if config.preprocess.upright:
        raise ConfigError(f"{what} doesn't turn images upright, and this model does. Set preprocess.upright to false.")


TARGETS = {
    "clipref": Target("model.safetensors", _as_it_is, _write_ours),
    "transformers": Target("model.safetensors", _transformers_pieces, _write_transformers),
    "open_clip": Target("open_clip_model.safetensors", _open_clip_pieces, _write_open_clip),
}
