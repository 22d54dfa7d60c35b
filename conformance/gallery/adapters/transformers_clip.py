"""transformers' CLIPModel and its tokenizer. Needs merges_table.py beside it."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from merges_table import write_files
from safetensors.torch import load_file


class Engine:
    """The model and the tokenizer, which pads with the end of text: its attention mask tells what is padding here."""

    def __init__(self, folder):
        if folder is None:
            self.tokenizer = tokenizer()
            return
        self.model = model_of(folder)

    def encode_image(self, pixels):
        with torch.inference_mode():
            found = self.model.get_image_features(pixel_values=torch.from_numpy(pixels))
            return getattr(found, "pooler_output", found).numpy()

    def encode_text(self, ids):
        with torch.inference_mode():
            found = self.model.get_text_features(input_ids=torch.from_numpy(ids))
            return getattr(found, "pooler_output", found).numpy()

    def tokenize(self, texts, context_length, truncate):
        found = self.tokenizer(texts, padding="max_length", truncation=truncate, max_length=context_length)
        rows = np.zeros((len(texts), max(map(len, found["input_ids"]))), np.int64)
        for row, ids, real in zip(rows, found["input_ids"], found["attention_mask"], strict=True):
            row[: sum(real)] = ids[: sum(real)]
        return rows


def model_of(folder):
    """CLIPModel of a checkpoint in OpenAI's names."""
    config = json.loads((folder / "config.json").read_text())
    vision, text = config["vision"], config["text"]
    if vision["kind"] != "vit":
        raise NotImplementedError("ViTs only")
    settings = {
        "projection_dim": config["embed_dim"],
        "vision_config": {**_part(vision), "image_size": vision["resolution"], "patch_size": vision["patch_size"]},
        "text_config": {
            **_part(text), "vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"],
            "eos_token_id": text["vocab_size"] - 1, "bos_token_id": text["vocab_size"] - 2, "pad_token_id": 0,
        },
    }  # fmt: skip
    model = transformers.CLIPModel(transformers.CLIPConfig(**settings)).eval()
    missing = model.load_state_dict(transformers_names(load_file(folder / "model.safetensors")), strict=False)
    assert not missing.unexpected_keys and all("position_ids" in key for key in missing.missing_keys), missing
    return model


def _part(part):
    return {
        "hidden_size": part["width"], "intermediate_size": part["mlp_width"], "num_hidden_layers": part["layers"],
        "num_attention_heads": part["heads"], "hidden_act": part["activation"],
    }  # fmt: skip


def transformers_names(ours):
    """OpenAI's names and layouts as transformers has them."""
    named = {}
    for name, tensor in ours.items():
        tensor, tower = tensor.float(), "vision_model" if name.startswith("visual.") else "text_model"
        bare = name.removeprefix("visual.")
        if name in ("visual.proj", "text_projection"):
            named[f"{'visual' if bare == 'proj' else 'text'}_projection.weight"] = tensor.T.contiguous()
            continue
        for old, new in _NAMES:
            bare = bare.replace(old, new)
        bare = {"positional_embedding": "embeddings.position_embedding.weight"}.get(bare, bare)
        if ".attn.in_proj_" in bare:
            block, _, kind = bare.partition(".attn.in_proj_")
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                named[f"{tower}.{block}.self_attn.{part}_proj.{kind}"] = rows.contiguous()
        else:
            named[name if name == "logit_scale" else f"{tower}.{bare}"] = tensor
    return named


_NAMES = (
    ("transformer.resblocks", "encoder.layers"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("attn.out_proj", "self_attn.out_proj"),
    ("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"), ("ln_final", "final_layer_norm"),
    ("class_embedding", "embeddings.class_embedding"), ("conv1", "embeddings.patch_embedding"),
    ("token_embedding", "embeddings.token_embedding"),
)  # fmt: skip


def tokenizer():
    """Of the files that openai/clip-vit-base-patch32 has, made anew."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        return transformers.CLIPTokenizer.from_pretrained(folder)
