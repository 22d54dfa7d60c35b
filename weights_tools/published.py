"""Values that others have published of the real weights, so that a machine that has them can tell whether they are.

Each has its source. Tolerances are those of the source where it states one, or the last digits that it gives, widened
to what another float32 implementation may differ by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipref.model import CLIP

Compute = Callable[[CLIP, Any], Any]


@dataclass(frozen=True)
class Published:
    """One published value: of which model, from where, of which image file (None if none is needed)."""

    model: str
    source: str
    what: str
    expected: tuple[float, ...]
    tolerance: float
    compute: Compute
    image: str | None = None
    sha256: str | None = None  # of the image file, where it is known


def _constant(value: float) -> Callable[[CLIP], np.ndarray[Any, Any]]:
    def pixels(model: CLIP) -> np.ndarray[Any, Any]:
        side = model.config.vision.resolution
        return np.full((1, 3, side, side), value, np.float32)

    return pixels


def _logits(*texts: str) -> Compute:
    return lambda model, image: model.logit_scale * np.array(model.compare(image, list(texts)))


def _probabilities(*texts: str) -> Compute:
    def compute(model: CLIP, image: Path) -> Any:
        found = dict(model.classify(image, texts, templates=("{}",), top_k=len(texts)))
        return [found[text] for text in texts]

    return compute


def _embedding(count: int) -> Compute:
    return lambda model, image: model.embed_image(image)[0, :count]


def _image_sum(model: CLIP, image: Path) -> Any:
    return [model.embed_image(image).sum()]


def _image_norm(model: CLIP, image: Path) -> Any:
    return [np.linalg.norm(model.embed_image(image))]


def _text(text: str, count: int) -> Compute:
    return lambda model, _: model.embed_text(text)[0, :count]


def _grey_embedding(model: CLIP, _: Any) -> Any:
    return model.encode_image(_constant(0.5)(model))[0, 1:4]


def _grey_pooled_output(model: CLIP, _: Any) -> Any:
    encode: Any = model.engine.encode_image  # of an engine that has taps
    seen: dict[str, Any] = {}
    encode(_constant(0.5)(model), seen.setdefault)
    return seen["visual.ln_post"][0, 1:4]


_B32, _B16, _RN50 = "clip/ViT-B-32", "clip/ViT-B-16", "clip/RN50"
_DIAGRAM = ("CLIP.png", "308a3ca4503f1c7a07803916c369d78c4ef501e5ab7fc727da9b5e1d2f9ec85b")
_README = "https://github.com/openai/CLIP, README"
_NUMPY_CLIP = "NumPyCLIP's test data"
_ONNX_CLIP = "https://github.com/lakeraai/onnx_clip, tests"
_TRANSFORMERS = "https://github.com/huggingface/transformers, tests/models/clip"
_BUMBLEBEE = "https://github.com/elixir-nx/bumblebee, test/bumblebee/vision/clip_vision_test.exs"
_ROBOFLOW = "https://github.com/roboflow/inference, tests"
_THREE = ("a diagram", "a dog", "a cat")
_MAN, _CATS = ("a photo of a man", "a photo of a woman"), ("a photo of a cat", "a photo of a dog")
_FOX = "The quick brown fox jumps over the lazy dog."

PUBLISHED_VALUES = (
    Published(
        _B32, _BUMBLEBEE, "visual.ln_post[1:4] of pixels all 0.5", (0.3602, 0.3658, -0.2337), 2e-4, _grey_pooled_output
    ),
    Published(_B32, _BUMBLEBEE, "embedding[1:4] of pixels all 0.5", (-0.3381, -0.0196, -0.4053), 2e-4, _grey_embedding),
    Published(
        _B16,
        _ROBOFLOW,
        f"embedding[:4] of {_FOX!r}",
        (0.10163964, -0.3078731, 0.00553077, 0.03682198),
        2e-3,
        _text(_FOX, 4),
    ),
    Published(
        _B32,
        _README,
        f"probabilities of {_THREE}",
        (0.9927937, 0.00421068, 0.00299572),
        2e-4,
        _probabilities(*_THREE),
        *_DIAGRAM,
    ),
    Published(_B32, _NUMPY_CLIP, "norm of the embedding", (10.413092,), 2e-3, _image_norm, *_DIAGRAM),
    Published(
        _B32,
        _NUMPY_CLIP,
        "embedding[:6]",
        (0.3139732, -0.14600709, 0.30358776, -0.19985807, 0.01424213, -0.10352714),
        1e-3,
        _embedding(6),
        *_DIAGRAM,
    ),
    Published(
        _B32, _NUMPY_CLIP, f"logits of {_THREE}", (25.552784, 20.089891, 19.749454), 5e-3, _logits(*_THREE), *_DIAGRAM
    ),
    Published(_B32, _ONNX_CLIP, f"logits of {_MAN}", (27.878918, 23.396446), 1e-2, _logits(*_MAN), "franz-kafka.jpg"),
    Published(_B32, _ONNX_CLIP, "sum of the embedding", (7.557152,), 2e-2, _image_sum, "franz-kafka.jpg"),
    Published(_RN50, _ONNX_CLIP, f"logits of {_MAN}", (20.816772, 17.331161), 1e-2, _logits(*_MAN), "franz-kafka.jpg"),
    Published(_RN50, _ONNX_CLIP, "sum of the embedding", (-1.434261,), 2e-2, _image_sum, "franz-kafka.jpg"),
    # transformers floors the crop offset, which moves the image by a pixel at some sizes.
    Published(_B32, _TRANSFORMERS, f"logits of {_CATS}", (24.5701, 19.3049), 2e-2, _logits(*_CATS), "000000039769.jpg"),
)
