"""The nine published models, a record each: what they are, and where they are to be had.

Shapes are those of open_clip's `model_configs/*-quickgelu.json` and `RN*.json`. OpenAI's files are known by the sha256
that is part of each one's address (https://github.com/openai/CLIP, clip/clip.py). Zero-shot ImageNet accuracy is
open_clip's measurement (https://github.com/mlfoundations/open_clip, docs/openclip_results.csv).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .architecture import ImageConfig
from .resnet import ResNetConfig
from .text_transformer import TextConfig
from .vision_transformer import ViTConfig


@dataclass(frozen=True)
class Model:
    """One of the nine: its towers, the sha256 of OpenAI's file, and the repositories of Hugging Face that have it."""

    embed_dim: int
    vision: ImageConfig
    text: TextConfig
    imagenet_top1: float
    sha256: str
    repository: str  # in OpenAI's tensor names, as open_clip_model.safetensors
    transformers: str | None = None  # OpenAI's own, in transformers' layout


def _text(width: int) -> TextConfig:
    return TextConfig(
        context_length=77, vocab_size=49408, width=width, layers=12, heads=width // 64, mlp_width=4 * width
    )


def _vit(resolution: int, patch_size: int, width: int, layers: int) -> ViTConfig:
    return ViTConfig(resolution, patch_size, width, layers, heads=width // 64, mlp_width=4 * width)


def _resnet(resolution: int, layers: tuple[int, int, int, int], width: int) -> ResNetConfig:
    return ResNetConfig(resolution, layers, width, heads=width * 32 // 64)


MODELS: Mapping[str, Model] = {
    "clip/RN50": Model(
        1024, _resnet(224, (3, 4, 6, 3), 64), _text(512), 0.5982,
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", "timm/resnet50_clip.openai",
    ),
    "clip/RN101": Model(
        512, _resnet(224, (3, 4, 23, 3), 64), _text(512), 0.6228,
        "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", "timm/resnet101_clip.openai",
    ),
    "clip/RN50x4": Model(
        640, _resnet(288, (4, 6, 10, 6), 80), _text(640), 0.6627,
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", "timm/resnet50x4_clip.openai",
    ),
    "clip/RN50x16": Model(
        768, _resnet(384, (6, 8, 18, 8), 96), _text(768), 0.7072,
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa", "timm/resnet50x16_clip.openai",
    ),
    "clip/RN50x64": Model(
        1024, _resnet(448, (3, 15, 36, 10), 128), _text(1024), 0.7391,
        "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c", "timm/resnet50x64_clip.openai",
    ),
    "clip/ViT-B-32": Model(
        512, _vit(224, 32, 768, 12), _text(512), 0.6332,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "timm/vit_base_patch32_clip_224.openai",
        "openai/clip-vit-base-patch32",
    ),
    "clip/ViT-B-16": Model(
        512, _vit(224, 16, 768, 12), _text(512), 0.6834,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", "timm/vit_base_patch16_clip_224.openai",
        "openai/clip-vit-base-patch16",
    ),
    "clip/ViT-L-14": Model(
        768, _vit(224, 14, 1024, 24), _text(768), 0.7554,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", "timm/vit_large_patch14_clip_224.openai",
        "openai/clip-vit-large-patch14",
    ),
    "clip/ViT-L-14-336px": Model(
        768, _vit(336, 14, 1024, 24), _text(768), 0.7656,
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", "timm/vit_large_patch14_clip_336.openai",
        "openai/clip-vit-large-patch14-336",
    ),
}  # fmt: skip
