"""Checkpoints of ours, written by numpy as others lay them out: the files of a repository, by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from clipref.config import ClipConfig, ResNetConfig, ViTConfig
from clipref.weights import Checkpoint

Files = dict[str, bytes]


def as_open_clip(folder: Path, config: ClipConfig, prefix: str = "") -> Files:
    """open_clip's layout; `prefix` is what its CustomTextCLIP puts before the text tower's names."""
    tensors = load_file(folder / "model.safetensors")
    text = {name for name in tensors if not name.startswith("visual.") and name != "logit_scale"}
    named = {f"{prefix}{name}" if name in text else name: value for name, value in tensors.items()}
    named[f"{prefix}attn_mask"] = np.zeros((3, 3), np.float32)
    return {
        "open_clip_config.json": json.dumps(open_clip_config(config)).encode(),
        "open_clip_model.safetensors": save(named),
    }


def open_clip_config(config: ClipConfig) -> dict[str, object]:
    """What open_clip_config.json says of it."""
    text, pixels = config.text, config.preprocess
    vision: Any = config.vision
    tower: dict[str, object] = {"image_size": vision.resolution, "width": vision.width}
    if isinstance(vision, ResNetConfig):
        tower |= {"layers": list(vision.layers), "head_width": vision.width * 32 // vision.heads}
    else:
        tower |= {"layers": vision.layers, "head_width": vision.width // vision.heads, "patch_size": vision.patch_size}
        tower["mlp_ratio"] = vision.mlp_width / vision.width
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": text.activation == "quick_gelu",
            "vision_cfg": tower,
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocab_size,
                "width": text.width,
                "heads": text.heads,
                "layers": text.layers,
                "mlp_ratio": text.mlp_width / text.width,
            },
        },
        "preprocess_cfg": {
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "interpolation": pixels.interpolation,
            "resize_mode": pixels.resize_mode,
        },
    }


def as_transformers(folder: Path, config: ClipConfig, shards: int = 1) -> Files:
    """transformers' layout, in one file or several; q, k and v apart, projections transposed."""
    named: dict[str, np.ndarray] = {}
    for name, value in load_file(folder / "model.safetensors").items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        bare = name.removeprefix("visual.")
        if bare.startswith("transformer.resblocks."):
            theirs = bare.replace("transformer.resblocks", f"{tower}.encoder.layers").replace("ln_", "layer_norm")
            theirs = theirs.replace("mlp.c_fc", "mlp.fc1").replace("mlp.c_proj", "mlp.fc2")
            block, attention, part = theirs.partition(".attn.in_proj_")
            if attention:
                for letter, rows in zip("qkv", np.split(value, 3), strict=True):
                    named[f"{block}.self_attn.{letter}_proj.{part}"] = rows
            else:
                named[theirs.replace(".attn.", ".self_attn.")] = value
        else:
            theirs, transposed = {
                "visual.class_embedding": ("vision_model.embeddings.class_embedding", False),
                "visual.conv1.weight": ("vision_model.embeddings.patch_embedding.weight", False),
                "visual.positional_embedding": ("vision_model.embeddings.position_embedding.weight", False),
                "visual.ln_pre.weight": ("vision_model.pre_layrnorm.weight", False),
                "visual.ln_pre.bias": ("vision_model.pre_layrnorm.bias", False),
                "visual.ln_post.weight": ("vision_model.post_layernorm.weight", False),
                "visual.ln_post.bias": ("vision_model.post_layernorm.bias", False),
                "visual.proj": ("visual_projection.weight", True),
                "token_embedding.weight": ("text_model.embeddings.token_embedding.weight", False),
                "positional_embedding": ("text_model.embeddings.position_embedding.weight", False),
                "ln_final.weight": ("text_model.final_layer_norm.weight", False),
                "ln_final.bias": ("text_model.final_layer_norm.bias", False),
                "text_projection": ("text_projection.weight", True),
                "logit_scale": ("logit_scale", False),
            }[name]
            named[theirs] = np.ascontiguousarray(value.T) if transposed else value
    named["text_model.embeddings.position_ids"] = np.arange(config.text.context_length)[None]
    files: Files = {
        "config.json": json.dumps(transformers_config(config)).encode(),
        "preprocessor_config.json": json.dumps(processor_config(config)).encode(),
    }
    if shards == 1:
        return files | {"model.safetensors": save(named)}
    where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(named)}
    for file in set(where.values()):
        files[file] = save({name: value for name, value in named.items() if where[name] == file})
    return files | {"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": where}).encode()}


def transformers_config(config: ClipConfig) -> dict[str, object]:
    """What config.json says of it, without what its classes have by default."""
    vision, text = config.vision, config.text
    assert isinstance(vision, ViTConfig)
    return {
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "vision_config": {
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.resolution,
            "patch_size": vision.patch_size,
            "hidden_act": vision.activation,
        },
        "text_config": {
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "eos_token_id": text.vocab_size - 1,
            "hidden_act": text.activation,
        },
    }


def processor_config(config: ClipConfig) -> dict[str, object]:
    """What preprocessor_config.json says of it."""
    side, pixels = config.vision.resolution, config.preprocess
    squash = pixels.resize_mode == "squash"
    return {
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "resample": {"bilinear": 2, "bicubic": 3}[pixels.interpolation],
        "size": {"height": side, "width": side} if squash else {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }


def put(folder: Path, files: Files) -> Path:
    """Write the files into a new folder."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def assert_same(one: Path, other: Path) -> None:
    """Raise AssertionError unless two folders hold one checkpoint: the same tensors to the bit, and configuration."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name
    assert Checkpoint(one).config == Checkpoint(other).config
