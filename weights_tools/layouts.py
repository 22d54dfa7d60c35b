"""From each layout's tensor names to OpenAI's, which are this project's: which tensors make up which.

Layouts are told apart by the names themselves:

- OpenAI's, of its own archives and of open_clip, which may put the text tower under `text.`;
- transformers' (`CLIPModel`), which keeps q, k and v apart and its projections transposed;
- timm's, of image towers that are CLIP's ViT (`vit_*_clip_*`).

Each may hold one tower alone, then perhaps without what stands before its names in a whole model, such as `visual.`. A
tower alone may have no projection into the space that both towers share (transformers' CLIPTextModel, the text encoders
of Stable Diffusion): the identity is put there, so that its embedding is its pooled output [N, W]. What a training
script has wrapped around the tensors is taken off first (wrappers.py).

No number is changed on the way: tensors are renamed, stacked or transposed, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clipref.config import Shape
from clipref.errors import WeightsError

from .infer import has_image_tower, has_text_tower
from .stored import Array, Stored

OPENAI, TRANSFORMERS, TIMM = "openai", "transformers", "timm"
# Tensors by which a layout is known, one or two a tower; and what belongs before all names of a tower that is alone.
LANDMARKS = {
    "visual.conv1.weight": (OPENAI, ""),
    "visual.class_embedding": (OPENAI, ""),
    "visual.attnpool.positional_embedding": (OPENAI, ""),
    "visual.trunk.cls_token": (OPENAI, ""),
    "text.token_embedding.weight": (OPENAI, ""),
    "token_embedding.weight": (OPENAI, ""),
    "vision_model.embeddings.class_embedding": (TRANSFORMERS, ""),
    "text_model.embeddings.token_embedding.weight": (TRANSFORMERS, ""),
    "embeddings.class_embedding": (TRANSFORMERS, "vision_model."),  # transformers 5
    "embeddings.token_embedding.weight": (TRANSFORMERS, "text_model."),
    "class_embedding": (OPENAI, "visual."),
    "attnpool.positional_embedding": (OPENAI, "visual."),
    "cls_token": (TIMM, ""),
}


@dataclass(frozen=True)
class Assembly:
    """One of our tensors: the stored ones that are stacked to make it, each transposed first if need be."""

    parts: tuple[Stored, ...]
    transposed: bool = False
    dropped: int = 0  # axes of length 1, of the first

    @property
    def dtype(self) -> str:
        """As safetensors calls it; that of the first part."""
        return self.parts[0].dtype

    @property
    def shape(self) -> Shape:
        """The shape of the whole."""
        first = self.parts[0].shape
        if self.transposed:
            return first[::-1]
        whole = (sum(part.shape[0] for part in self.parts), *first[1:]) if first else first
        return whole[self.dropped :]

    def read(self) -> Array:
        """The whole, in the dtype of `clipref.weights.FLOATS`."""
        arrays = [part.read().T if self.transposed else part.read() for part in self.parts]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return whole.reshape(whole.shape[self.dropped :])


def layout_of(names: Mapping[str, object]) -> tuple[str, str]:
    """Which layout these tensor names are of, and what belongs before each. Raises WeightsError if it is no CLIP's."""
    if any(name.startswith("visual.trunk.") for name in names):
        raise WeightsError("Its image tower is one of timm's, which isn't CLIP's own ViT or ResNet.")
    found = next((layout for landmark, layout in LANDMARKS.items() if landmark in names), None)
    if found is None:
        some = ", ".join(repr(name[:60]) for name in list(names)[:4]) or "none"
        raise WeightsError(
            f"Its tensors ({some}, ...) have names of no layout of CLIP that is known: OpenAI's, open_clip's or "
            "transformers', with both towers or one, or those of timm's ViTs."
        )
    return found


def assemblies(tensors: Mapping[str, Stored]) -> dict[str, Assembly]:
    """Our name of every tensor, and how it is made. Names that aren't known are kept, to be refused by name later.

    Raises WeightsError if the layout isn't known, or parts of one tensor don't fit together.
    """
    layout, before = layout_of(tensors)
    make = {OPENAI: _from_openai, TRANSFORMERS: _from_transformers, TIMM: _from_timm}[layout]
    made = make({f"{before}{name}": stored for name, stored in tensors.items()})
    scale = made.get("logit_scale")
    if scale is not None and scale.shape == (1,):
        made["logit_scale"] = Assembly(scale.parts, dropped=1)
    return made if has_image_tower(made) and has_text_tower(made) else _alone(made)


def _alone(made: dict[str, Assembly]) -> dict[str, Assembly]:
    """One tower's tensors: without the scale of what both would give, and with a projection if it has none."""
    alone = {name: assembly for name, assembly in made.items() if name != "logit_scale"}
    projection, norm = ("visual.proj", "visual.ln_post.weight") if has_image_tower(made) else _TEXT_END
    if projection not in made and norm in made:  # a ResNet has neither
        (width,) = made[norm].shape
        alone[projection] = Assembly((Stored("F32", (width, width), lambda: np.eye(width, dtype=np.float32)),))
    return alone


_TEXT_END = ("text_projection", "ln_final.weight")


def _from_openai(tensors: Mapping[str, Stored]) -> dict[str, Assembly]:
    made = {name.removeprefix("text."): Assembly((stored,)) for name, stored in tensors.items()}
    if len(made) != len(tensors):
        twice = next(name for name in tensors if f"text.{name}" in tensors)
        raise WeightsError(f"It has both {twice!r} and {'text.' + twice!r}; expected the text tower once.")
    return made


# transformers' CLIPModel (src/transformers/models/clip/modeling_clip.py); "pre_layrnorm" is so spelt. Both tables are
# taken backwards by targets.py.
TRANSFORMERS_NAMES = [
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(weight|bias)", r"visual.ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(weight|bias)", r"visual.ln_post.\1"),
    (r"vision_model\.encoder\.layers\.(.+)", r"visual.transformer.resblocks.\1"),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(weight|bias)", r"ln_final.\1"),
    (r"text_model\.encoder\.layers\.(.+)", r"transformer.resblocks.\1"),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_projection\.weight", "text_projection"),
]
TRANSFORMERS_BLOCK = [
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]


def _from_transformers(tensors: Mapping[str, Stored]) -> dict[str, Assembly]:
    made: dict[str, Assembly] = {}
    for name, stored in tensors.items():
        if name.endswith(".position_ids"):
            continue
        ours = name
        for pattern, replacement in TRANSFORMERS_NAMES:
            if re.fullmatch(pattern, name):
                ours = re.sub(pattern, replacement, name)
        for pattern, replacement in TRANSFORMERS_BLOCK:
            ours = re.sub(pattern, replacement, ours)
        if part := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", ours):
            if part[2] == "q":
                stacked = [tensors.get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
                made[f"{part[1]}.attn.in_proj_{part[3]}"] = _stack(name, [x for x in stacked if x is not None])
            continue
        made[ours] = Assembly((stored,), transposed=ours in ("visual.proj", "text_projection"))
    return made


def _stack(name: str, parts: list[Stored]) -> Assembly:
    if len(parts) != 3 or any((x.dtype, x.shape) != (parts[0].dtype, parts[0].shape) for x in parts):
        raise WeightsError(f"{name!r}, and its k_proj and v_proj, are not three tensors of one dtype and shape.")
    return Assembly(tuple(parts))


# timm's VisionTransformer (timm/models/vision_transformer.py), where a CLIP's has norm_pre and a class token.
_TIMM = [
    (r"patch_embed\.proj\.weight", "visual.conv1.weight"),
    (r"norm_pre\.(weight|bias)", r"visual.ln_pre.\1"),
    (r"norm\.(weight|bias)", r"visual.ln_post.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(weight|bias)", r"visual.transformer.resblocks.\1.ln_\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"visual.transformer.resblocks.\1.attn.in_proj_\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"visual.transformer.resblocks.\1.attn.out_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"visual.transformer.resblocks.\1.mlp.c_fc.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"visual.transformer.resblocks.\1.mlp.c_proj.\2"),
]


def _from_timm(tensors: Mapping[str, Stored]) -> dict[str, Assembly]:
    bias = tensors.get("head.bias")
    if bias is not None and np.any(bias.read()):
        raise WeightsError(
            "Its head has a bias, so it is a classifier that was trained on CLIP's image tower, and no projection. "
            "Take the head's weight and bias out of the file, to embed with what is below them."
        )
    made: dict[str, Assembly] = {}
    for name, stored in tensors.items():
        if name == "head.bias":
            continue
        for given, ours, axes in (("cls_token", "class_embedding", 2), ("pos_embed", "positional_embedding", 1)):
            if name == given and stored.shape[:axes] == (1,) * axes:
                made[f"visual.{ours}"] = Assembly((stored,), dropped=axes)
                break
        else:
            ours = "visual.proj" if name == "head.weight" else name
            for pattern, replacement in _TIMM:
                if re.fullmatch(pattern, name):
                    ours = re.sub(pattern, replacement, name)
            made[ours if ours.startswith("visual.") else f"visual.{name}"] = Assembly(
                (stored,), transposed=name == "head.weight"
            )
    return made
