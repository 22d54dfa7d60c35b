"""From each layout's tensor names to OpenAI's, which are this project's: which tensors make up which.

Layouts are told apart by the names themselves:

- OpenAI's, of its own archives and of open_clip, which may put the text tower under `text.`;
- transformers' (`CLIPModel`), which keeps q, k and v apart and its projections transposed.

What a training script has wrapped around them is taken off first (wrappers.py).

No number is changed on the way: tensors are renamed, stacked or transposed, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clipref.config import Shape
from clipref.errors import WeightsError

from .stored import Array, Stored

OPENAI, TRANSFORMERS = "openai", "transformers"
# Tensors by which a layout is known, one or two a tower.
LANDMARKS = {
    "visual.conv1.weight": OPENAI,
    "visual.class_embedding": OPENAI,
    "visual.attnpool.positional_embedding": OPENAI,
    "text.token_embedding.weight": OPENAI,
    "token_embedding.weight": OPENAI,
    "vision_model.embeddings.class_embedding": TRANSFORMERS,
    "text_model.embeddings.token_embedding.weight": TRANSFORMERS,
}


@dataclass(frozen=True)
class Recipe:
    """One of our tensors: the stored ones that are stacked to make it, each transposed first if need be."""

    parts: tuple[Stored, ...]
    transposed: bool = False
    scalar: bool = False  # [1] becomes []

    @property
    def dtype(self) -> str:
        """As safetensors calls it; that of the first part."""
        return self.parts[0].dtype

    @property
    def shape(self) -> Shape:
        """The shape of the whole."""
        first = self.parts[0].shape
        if self.scalar:
            return ()
        if self.transposed:
            return first[::-1]
        return (sum(part.shape[0] for part in self.parts), *first[1:]) if first else first

    def read(self) -> Array:
        """The whole, in the dtype of `clipref.weights.FLOATS`."""
        arrays = [part.read().T if self.transposed else part.read() for part in self.parts]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return whole.reshape(()) if self.scalar else whole


def layout_of(names: Mapping[str, object]) -> str:
    """Which layout these tensor names are of. Raises WeightsError if it is none that holds a CLIP."""
    if any(name.startswith("visual.trunk.") for name in names):
        raise WeightsError("Its image tower is one of timm's, which isn't CLIP's own ViT or ResNet.")
    found = next((layout for landmark, layout in LANDMARKS.items() if landmark in names), None)
    if found is None:
        some = ", ".join(repr(name[:60]) for name in list(names)[:4]) or "none"
        raise WeightsError(
            f"Its tensors ({some}, ...) have names of no layout of CLIP that is known: OpenAI's, open_clip's or "
            "transformers', with both towers."
        )
    return found


def recipes(tensors: Mapping[str, Stored]) -> dict[str, Recipe]:
    """Our name of every tensor, and how it is made. Names that aren't known are kept, to be refused by name later.

    Raises WeightsError if the layout isn't known, or parts of one tensor don't fit together.
    """
    made = _from_transformers(tensors) if layout_of(tensors) == TRANSFORMERS else _from_openai(tensors)
    scale = made.get("logit_scale")
    if scale is not None and scale.shape == (1,):
        made["logit_scale"] = Recipe(scale.parts, scalar=True)
    return made


def _from_openai(tensors: Mapping[str, Stored]) -> dict[str, Recipe]:
    made = {name.removeprefix("text."): Recipe((stored,)) for name, stored in tensors.items()}
    if len(made) != len(tensors):
        twice = next(name for name in tensors if f"text.{name}" in tensors)
        raise WeightsError(f"It has both {twice!r} and {'text.' + twice!r}; expected the text tower once.")
    return made


# transformers' CLIPModel (src/transformers/models/clip/modeling_clip.py); "pre_layrnorm" is so spelt.
_TRANSFORMERS = [
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
_TRANSFORMERS_BLOCK = [
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]


def _from_transformers(tensors: Mapping[str, Stored]) -> dict[str, Recipe]:
    made: dict[str, Recipe] = {}
    for name, stored in tensors.items():
        if name.endswith(".position_ids"):
            continue
        ours = name
        for pattern, replacement in _TRANSFORMERS:
            if re.fullmatch(pattern, name):
                ours = re.sub(pattern, replacement, name)
        for pattern, replacement in _TRANSFORMERS_BLOCK:
            ours = re.sub(pattern, replacement, ours)
        if part := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", ours):
            if part[2] == "q":
                stacked = [tensors.get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
                made[f"{part[1]}.attn.in_proj_{part[3]}"] = _stack(name, [x for x in stacked if x is not None])
            continue
        made[ours] = Recipe((stored,), transposed=ours in ("visual.proj", "text_projection"))
    return made


def _stack(name: str, parts: list[Stored]) -> Recipe:
    if len(parts) != 3 or any((x.dtype, x.shape) != (parts[0].dtype, parts[0].shape) for x in parts):
        raise WeightsError(f"{name!r}, and its k_proj and v_proj, are not three tensors of one dtype and shape.")
    return Recipe(tuple(parts))
