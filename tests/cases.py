"""The checkpoints and inputs that the towers are checked on, made from seeds, and what is kept of an activation."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipref.config import PUBLISHED, ClipConfig, ResNetConfig, TextConfig, ViTConfig
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

GOLDEN = Path(__file__).parent / "golden"
SEED = 2021

# Pairwise different dimensions in each, the batches of tiny_inputs among them; test_towers.py asserts it.
TINY = {
    "vit-a": ClipConfig(22, ViTConfig(30, 6, 36, 2, 3, 144), TextConfig(19, 521, 20, 3, 10, 80)),
    "vit-b": ClipConfig(17, ViTConfig(28, 14, 48, 1, 6, 192), TextConfig(13, 530, 21, 1, 7, 84)),
    "vit-c": ClipConfig(14, ViTConfig(44, 11, 40, 3, 8, 160), TextConfig(15, 541, 27, 2, 9, 108)),
    "vit-mlp": ClipConfig(23, ViTConfig(48, 8, 45, 2, 5, 75), TextConfig(18, 523, 26, 2, 13, 51)),
    "vit-gelu": ClipConfig(25, ViTConfig(36, 9, 33, 2, 3, 77, "gelu"), TextConfig(14, 547, 30, 2, 6, 53, "gelu")),
    "rn-a": ClipConfig(22, ResNetConfig(64, (1, 2, 1, 1), 10, 8), TextConfig(19, 521, 20, 2, 10, 80)),
    "rn-b": ClipConfig(11, ResNetConfig(160, (2, 1, 1, 2), 4, 16), TextConfig(12, 530, 18, 1, 6, 72)),
    "rn-c": ClipConfig(15, ResNetConfig(32, (1, 1, 3, 1), 18, 6), TextConfig(16, 541, 24, 1, 8, 96)),
}
FULL = dict(PUBLISHED)
# As small as a torch file in the repository may be.
MINI = {
    "vit": ClipConfig(7, ViTConfig(10, 5, 12, 1, 2, 48), TextConfig(6, 31, 8, 1, 4, 32)),
    "rn": ClipConfig(9, ResNetConfig(32, (1, 1, 1, 1), 2, 8), TextConfig(7, 33, 10, 1, 5, 40)),
}


def is_openai(config: ClipConfig) -> bool:
    """Whether OpenAI's classes can be built with this configuration; transformers' can where they can't."""
    parts = [part for part in (config.vision, config.text) if not isinstance(part, ResNetConfig)]
    return all(part.mlp_width == 4 * part.width and part.activation == "quick_gelu" for part in parts)


def checkpoint(folder: Path, config: ClipConfig, style: str) -> Checkpoint:
    """The synthetic checkpoint of a case, in `folder`."""
    assert style in synthetic.STYLES
    return Checkpoint(synthetic.write(folder / f"checkpoint-{style}", config, SEED, style))  # type: ignore[arg-type]


def pixels(config: ClipConfig, n: int) -> np.ndarray:
    """Pixels [n, 3, R, R] float32 in the range of preprocessed images, with structure from coarse to fine."""
    side = config.vision.resolution
    total = np.zeros((n, 3, side, side))
    for level, cells in enumerate((1, 2, 5, 11, side)):
        coarse = synthetic.uniform(f"pixels {SEED} {level}", n * 3 * cells * cells).reshape(n, 3, cells, cells)
        rows = np.arange(side) * cells // side
        total += (coarse * 4 - 2)[:, :, rows][:, :, :, rows] * (0.5, 0.5, 0.4, 0.2, 0.1)[level]
    return total.astype(np.float32)


def ids(config: ClipConfig, n: int) -> np.ndarray:
    """Token ids [n, T] int64: short, long to the brim, two end-of-text tokens, and in between; padded with 0."""
    text = config.text
    end, length = text.vocab_size - 1, text.context_length
    words = synthetic.raw(f"ids {SEED}", n * length).reshape(n, length) % np.uint64(text.vocab_size - 2)
    rows = words.astype(np.int64)
    rows[:, 0] = end - 1
    for row, stop in zip(rows, (2, length - 1, length // 2, length // 3), strict=False):
        row[stop:] = 0
        row[stop] = end
    if n > 2:
        rows[2, length // 2 + 2] = end
    return rows


def tiny_inputs(config: ClipConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and ids of a tiny case; 7 images, because 2 to 6 are sides, heads or colours of one or another."""
    return pixels(config, 7), ids(config, 4)


def full_inputs(config: ClipConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and ids of a full-size case."""
    return pixels(config, 2), ids(config, 3)


def sample(x: np.ndarray, values: int = 48) -> np.ndarray:
    """What is kept of an activation: values evenly spread over it, and last its root mean square."""
    flat = np.asarray(x).reshape(-1)
    chosen = flat[np.linspace(0, flat.size - 1, values).round().astype(int)]
    return np.append(chosen, np.sqrt(np.square(flat, dtype=np.float64).mean()).astype(flat.dtype))


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
    return logit_scale * a @ b.T


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


def with_activation(config: ClipConfig, activation: str) -> ClipConfig:
    """The same configuration with another activation in both towers."""
    assert isinstance(config.vision, ViTConfig)
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, activation=activation),
        text=dataclasses.replace(config.text, activation=activation),
    )
