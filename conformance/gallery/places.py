"""The environments that outsiders are installed in. Several share one where their packages agree."""

from __future__ import annotations

from .table import Environment

# This version of torch is at hand as a build for CPUs only, on a machine without a GPU.
_TORCH = (("torch==2.13.0",), ("--no-deps", "torchvision==0.28.0", "clip-anytorch==2.6.0"))
_COMMON = (
    "setuptools==80.9.0",
    "numpy==2.4.6",
    "ftfy==6.3.1",
    "regex==2026.11.19",
    "tqdm==4.70.1",
    "safetensors==0.8.0",
)
# OpenAI's code imports pkg_resources, which newer versions of setuptools no longer have.
# Pillow 13 may take the vertical pass of a resize first, and gives other levels then: both are asked.
_PILLOW = ("pillow==12.3.0",)

TORCH = Environment(
    "torch",
    (
        *_TORCH,
        (*_COMMON, *_PILLOW),
        ("transformers==5.24.0", "sentence-transformers==6.2.0"),
        ("--no-deps", "open_clip_torch==3.3.0", "timm==1.0.31", "inference-models==0.39.6"),
    ),
)
PILLOW_13 = Environment("pillow-13", (*_TORCH, (*_COMMON, "pillow==13.0.0")))
TRANSFORMERS_4 = Environment(
    "transformers-4",
    (
        *_TORCH,
        ("numpy==2.2.6", "safetensors==0.7.0", *_PILLOW),
        ("transformers==4.57.6", "jax==0.4.38", "flax==0.10.2"),
    ),
)
FASTEMBED = Environment("fastembed", ((*_PILLOW, "fastembed==0.9.1"),))
ONNX_CLIP = Environment("onnx-clip", (("pillow==10.4.0", "numpy==1.26.4", "onnx-clip==4.0.1"),))  # no newer Pillow
MODERN_ONNX_CLIP = Environment(
    "modern-onnx-clip", (("--no-deps", "clip-anytorch==2.6.0"), (*_PILLOW, "modern-onnx-clip==0.2.0"))
)
RUST = Environment(
    "rust",
    (("numpy==2.4.6", "instant-clip-tokenizer==0.1.1", "hf-processors-rs==0.1.0"),),
)
EXTENSIONS = Environment(
    "onnxruntime-extensions",
    (
        ("--no-deps", "clip-anytorch==2.6.0"),
        ("numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0", "onnxruntime-extensions==0.15.2"),
    ),
)
# The table of clippie is opened by a call that Python has from 3.13 on.
CLIPPIE = Environment(
    "clippie", (("numpy==2.4.6", "safetensors==0.8.0", *_PILLOW, "mossblaser-clippie==0.0.3"),), "python3.13"
)
