"""The checkpoints and inputs that the towers are checked on, made from seeds, and what is kept of an activation."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipref.config import ClipConfig, ResNetConfig, TextConfig, ViTConfig
from clipref.conformance.goldens import sample as sample
from clipref.conformance.questions.models import FULL as FULL
from clipref.conformance.questions.models import SEED as SEED
from clipref.conformance.questions.models import TINY as TINY
from clipref.conformance.questions.models import full_inputs as full_inputs
from clipref.conformance.questions.models import ids as ids
from clipref.conformance.questions.models import pixels as pixels
from clipref.conformance.questions.models import tiny_inputs as tiny_inputs
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

GOLDEN = Path(__file__).parent / "golden"
# As small as a torch file in the repository may be.
MINI = {
    "vit": ClipConfig(7, ViTConfig(10, 5, 12, 1, 2, 48), TextConfig(6, 31, 8, 1, 4, 32)),
    "rn": ClipConfig(9, ResNetConfig(32, (1, 1, 1, 1), 2, 8), TextConfig(7, 33, 10, 1, 5, 40)),
}


def heads_of(config: ClipConfig) -> dict[str, Any]:
    """What `Options` wants to be told of a width that OpenAI's models haven't got."""
    vision = config.vision
    assert isinstance(vision, ViTConfig | ResNetConfig)
    return {"vision_heads": vision.heads, "text_heads": config.text.heads}


def is_openai(config: ClipConfig) -> bool:
    """Whether OpenAI's classes can be built with this configuration; transformers' can where they can't."""
    parts: list[Any] = [part for part in (config.vision, config.text) if not isinstance(part, ResNetConfig)]
    return all(part.mlp_width == 4 * part.width and part.activation == "quick_gelu" for part in parts)


def checkpoint(folder: Path, config: ClipConfig, style: str) -> Checkpoint:
    """The synthetic checkpoint of a case, in `folder`."""
    assert style in synthetic.STYLES
    return Checkpoint(synthetic.write(folder / f"checkpoint-{style}", config, SEED, style))  # type: ignore[arg-type]


def traced(engine: NumpyEngine, images: np.ndarray, tokens: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
    """Embeddings and taps of the whole batch by the numpy towers."""
    taps: dict[str, np.ndarray] = {}

    def tap(name: str, x: np.ndarray) -> np.ndarray:
        taps[name] = x
        return x

    embeddings = {"image": engine.encode_image(images, tap), "text": engine.encode_text(tokens, tap)}
    return embeddings, taps


def as_ours(name: str, theirs: np.ndarray, ours_shape: tuple[int, ...], tokens: np.ndarray) -> np.ndarray:
    """A module's whole output, cut to the positions that we compute: no padding, one position after the last block."""
    if theirs.shape == ours_shape:
        return theirs
    text = not name.startswith("visual")
    end = tokens.argmax(1)
    pooled = theirs[np.arange(len(theirs)), end] if text else theirs[:, 0]
    if len(ours_shape) == 2:
        return pooled
    return pooled[:, None] if ours_shape[1] == 1 else theirs[:, : ours_shape[1]]


def logits(image: np.ndarray, text: np.ndarray, logit_scale: float) -> np.ndarray:
    """Logits [images, texts]: exp(logit_scale) times the cosines."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return np.asarray(logit_scale * a @ b.T)


def digest(path: Path) -> str:
    """sha256 of a file."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()


def cases(which: dict[str, ClipConfig]) -> Iterator[tuple[str, ClipConfig, str]]:
    """Name, configuration and style of every case."""
    for name, config in which.items():
        for style in synthetic.STYLES:
            yield name, config, style


def with_activation(config: ClipConfig, activation: Literal["quick_gelu", "gelu"]) -> ClipConfig:
    """The same configuration with another activation in both towers."""
    assert isinstance(config.vision, ViTConfig)
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, activation=activation),
        text=dataclasses.replace(config.text, activation=activation),
    )
