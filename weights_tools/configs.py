"""Configurations as other projects write them, put into ours: transformers' config.json, open_clip's
open_clip_config.json.

What changes the forward pass and is that of no kind of tower (clipref/towers.py) is refused by name: another pooling,
another mask, a layer scale. A key that this file doesn't know may be there if it is switched off (false, null, 0 or
empty).

Defaults are those of the classes that read the files: transformers' CLIPTextConfig, CLIPVisionConfig and
CLIPImageProcessor; open_clip's CLIPVisionCfg and CLIPTextCfg (src/open_clip/model.py) and PreprocessCfg (transform.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clipref.architecture import TowerConfig
from clipref.arguments import brief
from clipref.config import ClipConfig, PreprocessConfig, TextConfig, ViTConfig
from clipref.errors import ConfigError
from clipref.towers import IMAGE_KINDS, TEXT_KINDS

Json = Mapping[str, Any]
Unsaid = Callable[[int], int | None]


def nothing(vocab_size: int) -> int | None:
    """The end-of-text id where nothing is known of the vocabulary: None, the largest."""
    return None


def from_transformers(config: Json, processor: Json | None, unsaid: Unsaid = nothing) -> ClipConfig:
    """`config.json`, and `preprocessor_config.json` or `processor_config.json`, of a CLIPModel. Raises ConfigError.

    `unsaid` knows the end-of-text id where the file doesn't say it. That of a tower alone is taken for a whole model's,
    with the other tower as it is by default.
    """
    kind = config.get("model_type")
    if kind in ("clip_text_model", "clip_vision_model"):
        config = {f"{kind.split('_')[1]}_config": config, "projection_dim": config.get("projection_dim", 512)}
        processor = processor if kind == "clip_vision_model" else None
    elif kind != "clip":
        raise ConfigError(f"config.json: model_type is {brief(kind)}; expected 'clip'.")
    # Old files have the towers' settings twice, and the second counts (CLIPConfig.__init__).
    text, vision = (
        {**_object(config.get(f"{tower}_config")), **_object(config.get(f"{tower}_config_dict"))}
        for tower in ("text", "vision")
    )
    for tower, settings in (("text", text), ("vision", vision)):
        if settings.get("layer_norm_eps", 1e-5) != 1e-5:
            raise ConfigError(
                f"config.json: {tower} layer_norm_eps is {brief(settings['layer_norm_eps'])}; CLIP's is 1e-5."
            )
    vocab_size = text.get("vocab_size", 49408)
    # 2 is what OpenAI's models were first published with, and stands for the largest id of a text (modeling_clip.py).
    end = text.get("eos_token_id", 49407)
    embed_dim = config.get("projection_dim", 512)
    return _config(
        embed_dim=embed_dim,
        vision={
            "kind": "vit",
            "resolution": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 32),
            "width": vision.get("hidden_size", 768),
            "layers": vision.get("num_hidden_layers", 12),
            "heads": vision.get("num_attention_heads", 12),
            "mlp_width": vision.get("intermediate_size", 3072),
            "activation": vision.get("hidden_act", "quick_gelu"),
        },
        text={
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": vocab_size,
            "width": text.get("hidden_size", 512),
            "layers": text.get("num_hidden_layers", 12),
            "heads": text.get("num_attention_heads", 8),
            "mlp_width": text.get("intermediate_size", 2048),
            "activation": text.get("hidden_act", "quick_gelu"),
            "eos_token_id": unsaid(vocab_size) if end == 2 else _eos_token_id("config.json", end, vocab_size),
        },
        preprocess=_transformers_preprocess(processor or {}, vision.get("image_size", 224)),
    )


# Tokens that may have been added to a vocabulary, at most.
MAX_ADDED = 1000


def _eos_token_id(where: str, end: Any, vocab_size: Any, own_tokenizer: bool = True) -> int | None:
    """The end-of-text id where it isn't the largest.

    Raises ConfigError if so many tokens can't have been added, in the vocabulary of a tokenizer like CLIP's own.
    """
    if end == vocab_size - 1:
        return None
    most = MAX_ADDED if own_tokenizer else vocab_size
    if not isinstance(end, int) or not 0 < vocab_size - 1 - end <= most:
        raise ConfigError(
            f"{where}: the end-of-text id is {brief(end)} of {brief(vocab_size)} tokens; expected the largest, at "
            f"which CLIP pools, or one with no more than {MAX_ADDED} behind it, which were added."
        )
    return end


def _transformers_preprocess(processor: Json, resolution: int) -> dict[str, Any]:
    processor = _object(processor.get("image_processor", processor))  # which transformers 5 nests
    off = [key for key in ("do_resize", "do_rescale", "do_normalize") if not processor.get(key, True)]
    if off or abs(processor.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        key = off[0] if off else "rescale_factor"
        raise ConfigError(
            f"preprocessor_config.json: {key} is {brief(processor[key])}; CLIP resizes, divides by 255, "
            "subtracts the mean and divides by the standard deviation."
        )
    size, crop = (processor.get(key, resolution) for key in ("size", "crop_size"))
    size = {"shortest_edge": size} if isinstance(size, int) else _object(size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else _object(crop)
    squash = size == {"height": resolution, "width": resolution}
    if not squash and not processor.get("do_center_crop", True):
        raise ConfigError("preprocessor_config.json: do_center_crop is False; CLIP crops, or resizes to a square.")
    if not squash and (size != {"shortest_edge": resolution} or crop != {"height": resolution, "width": resolution}):
        raise ConfigError(
            f"preprocessor_config.json: size {brief(size)} and crop_size {brief(crop)} for {brief(resolution)} pixels."
        )
    kernels = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    kernel = processor.get("resample", 3)
    if kernel not in kernels:
        raise ConfigError(
            f"preprocessor_config.json: resample is {brief(kernel)}; expected 2 (bilinear) or 3 (bicubic)."
        )
    return {
        **_mean_and_std(processor, "image_mean", "image_std"),
        "interpolation": kernels[kernel],
        "resize_mode": "squash" if squash else "shortest",
    }


def from_timm(config: Json) -> tuple[str | None, PreprocessConfig]:
    """What `config.json` of one of timm's ViTs tells beyond the shapes: the activation, and how images are normalised.

    The activation is in the architecture's name, if it is QuickGELU; a name without it is also that of OpenAI's weights
    in repositories from before timm had both. Of `crop_pct` nothing is taken: CLIP resizes the short side to what it
    crops.
    """
    architecture = str(config.get("architecture", ""))
    settings = _object(config.get("pretrained_cfg"))
    preprocess = {**_mean_and_std(settings, "mean", "std"), "interpolation": settings.get("interpolation", "bicubic")}
    activation = "quick_gelu" if "quickgelu" in architecture else None
    return activation, PreprocessConfig.from_dict(preprocess)


# What may be said of a tower beside its size: keys with the value that is CLIP's, and keys without effect.
_VISION_AS_CLIP = {"pool_type": "tok", "pos_embed_type": "learnable"}
_TEXT_AS_CLIP = {"pool_type": "argmax", "proj_type": "linear"}
_NO_EFFECT = {"patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool"}
_NO_EFFECT |= {"timm_proj", "timm_drop", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "eos_id"}


def from_open_clip(config: Json, unsaid: Unsaid = nothing) -> ClipConfig:
    """`open_clip_config.json`; `unsaid` as above. Raises ConfigError."""
    model, pixels = _object(config.get("model_cfg")), _object(config.get("preprocess_cfg"))
    if not model:
        raise ConfigError("open_clip_config.json has no model_cfg.")
    vision, text = _object(model.get("vision_cfg")), _object(model.get("text_cfg"))
    top = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "output_dict"}
    _nothing_else("model_cfg", model, top, {})
    image_kind, text_kind = _kind(vision, IMAGE_KINDS, ViTConfig), _kind(text, TEXT_KINDS, TextConfig)
    tokenizer = text.get("hf_tokenizer_name") or None
    sizes = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"} | _NO_EFFECT
    _nothing_else("vision_cfg", vision, sizes | image_kind.open_clip.keys(), _VISION_AS_CLIP)
    sizes = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"} | _NO_EFFECT
    pools_at_eos, vocab_size = text.get("pool_type") == "eos", text.get("vocab_size", 49408)
    sizes |= text_kind.open_clip.keys() | ({"pool_type"} if pools_at_eos else set())
    sizes |= {"hf_tokenizer_name", "tokenizer_kwargs"} if tokenizer else set()
    _nothing_else("text_cfg", text, sizes, _TEXT_AS_CLIP)
    end = None
    if pools_at_eos:
        end = _eos_token_id("open_clip_config.json", text.get("eos_id"), vocab_size, tokenizer is None)
    elif tokenizer is None:
        end = unsaid(vocab_size)
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    width, layers, head_width = vision.get("width", 768), vision.get("layers", 12), vision.get("head_width", 64)
    resolution = vision.get("image_size", 224)
    tower: dict[str, Any]
    if isinstance(layers, list):
        tower = {"kind": "resnet", "resolution": resolution, "layers": layers, "width": width}
        tower["heads"] = width * 32 // head_width
    else:
        tower = {"kind": image_kind.kind, "resolution": resolution, "patch_size": vision.get("patch_size", 16)}
        tower |= {"width": width, "layers": layers, "heads": width // head_width, "activation": activation}
        tower["mlp_width"] = int(width * vision.get("mlp_ratio", 4.0))
    width = text.get("width", 512)
    if pixels.get("size", resolution) not in (resolution, [resolution, resolution]):
        raise ConfigError(
            f"open_clip_config.json: preprocess_cfg.size is {brief(pixels['size'])}, image_size {brief(resolution)}."
        )
    resize_mode, interpolation = pixels.get("resize_mode", "shortest"), pixels.get("interpolation", "bicubic")
    return _config(
        embed_dim=model.get("embed_dim"),
        vision=tower,
        text={
            "context_length": text.get("context_length", 77),
            "vocab_size": vocab_size,
            "width": width,
            "layers": text.get("layers", 12),
            "heads": text.get("heads", 8),
            "mlp_width": int(width * text.get("mlp_ratio", 4.0)),
            "activation": activation,
            "eos_token_id": end,
            "kind": text_kind.kind,
            "tokenizer": tokenizer,
        },
        preprocess={
            **_mean_and_std(pixels, "mean", "std"),
            "interpolation": "bicubic" if interpolation == "random" else interpolation,  # for training alone
            "resize_mode": resize_mode,
        },
    )


def _kind(given: Json, kinds: Mapping[str, type[TowerConfig]], plain: type[TowerConfig]) -> type[TowerConfig]:
    """The kind of tower that settings are of: the one that says all and only what they say; else `plain`."""
    telling = {key for kind in kinds.values() for key in kind.open_clip}
    said = {key: given[key] for key in telling if given.get(key)}
    return next((kind for kind in kinds.values() if kind.open_clip and kind.open_clip == said), plain)


# What a model is that has such a key (src/open_clip/factory.py, model.py).
_OTHERS = {
    "init_logit_bias": "it is a SigLIP",
    "multimodal_cfg": "it is a CoCa",
    "audio_cfg": "it is a CLAP, which embeds sound",
    "genlip_cfg": "it is a GenLIP, which generates texts",
    "genlap_cfg": "it is a GenLAP, which generates texts",
    "timm_model_name": "its image tower is one of timm's",
    "hf_model_name": "its text tower is one of transformers'",
}


def _nothing_else(where: str, given: Json, known: set[str], as_clip: Json) -> None:
    for key, value in given.items():
        if key not in known and value and as_clip.get(key) != value:
            what = _OTHERS.get(key, "a tower without it would give another result")
            raise ConfigError(
                f"open_clip_config.json: {where}.{key[:80]} is {brief(value)}: {what}. clipref has no such tower; open "
                f"it with open_clip."
            )


def _mean_and_std(given: Json, mean: str, std: str) -> dict[str, Any]:
    default = PreprocessConfig()
    found = {"mean": given.get(mean) or default.mean, "std": given.get(std) or default.std}
    return {key: [value] * 3 if isinstance(value, int | float) else value for key, value in found.items()}


def _config(embed_dim: Any, vision: Json, text: Json, preprocess: Json) -> ClipConfig:
    data = {"embed_dim": embed_dim, "vision": vision, "text": text, "preprocess": preprocess}
    return ClipConfig.from_dict(data)


def _object(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"A configuration has {brief(value)} where it should have an object.")
    return dict(value or {})
