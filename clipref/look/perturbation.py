"""Maps that ask the model: what becomes of a cosine when a part of the image is hidden.

Both know nothing of the model's inside and run on any backend, and both are true of the altered image, which may be
unlike any that the model was trained on. Hidden is what is given the image's mean colour (occlusion) or the colour that
preprocessing makes 0, the mean of CLIP's training images (RISE).

Sources: "Visualizing and Understanding Convolutional Networks" (https://arxiv.org/abs/1311.2901, section 4.2);
"RISE: Randomized Input Sampling for Explanation of Black-box Models" (https://arxiv.org/abs/1806.07421, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_count, is_true
from ..clip import CLIP
from ..errors import InputError
from ..loading import in_batches, progress_bar
from ..similarity import unit_vectors
from .items import one_image, toward_directions

Array: TypeAlias = NDArray[Any]

RISE_MASKS = 256


@dataclass(frozen=True)
class Maps:
    """`maps` [T, rows, columns] of one image for T texts, its `cosines` [T] as it is, and how many forward `passes` of
    an image they took. The cells of a map lie side by side over the whole preprocessed image.
    """

    maps: Array
    cosines: Array
    passes: int


def occlusion(
    model: CLIP,
    toward: Any,
    *,
    image: Any = None,
    pixels: Any = None,
    stride: int | None = None,
    window: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
    input_color_format: str | None = None,
) -> Maps:
    """What each cosine loses when a square of the image gets its mean colour: [T, R / stride, R / stride].

    `stride` is a cell's side in pixels: the patch of a ViT, of a ResNet an eighth of the image. `window` is that of the
    square around it which is hidden, as many cells as fit into three eighths of the image: models look past small ones.
    One pass a cell. Raises InputError or ImageError.
    """
    original = one_image(model, image, pixels, input_color_format)
    side = original.shape[-1]
    patch = getattr(model.config.vision, "patch_size", None)
    stride = (patch or max(1, side // 8)) if stride is None else stride
    check_count("stride", stride)
    cells = side // stride
    window = stride * max(1, 3 * cells // 8) if window is None else window
    check_count("window", window)
    if not cells or window > side:
        raise InputError(f"stride is {stride}, window {window}; expected at most the image's {side} pixels.")
    starts = [i * stride + (stride - window) // 2 for i in range(cells)]
    mean = original.mean(axis=(1, 2), keepdims=True)

    def occlusions() -> Iterator[Array]:
        for top in starts:
            for left in starts:
                altered = original.copy()
                altered[:, max(0, top) : top + window, max(0, left) : left + window] = mean
                yield altered

    directions = toward_directions(model, toward)
    cosines = image_cosines(model, iter([original]), 1, directions, 1, False)[0]
    found = image_cosines(model, occlusions(), cells**2, directions, batch_size, progress)  # [cells**2, T]
    return Maps((cosines - found).T.reshape(-1, cells, cells), cosines, 1 + cells**2)


def rise(
    model: CLIP,
    toward: Any,
    *,
    image: Any = None,
    pixels: Any = None,
    masks: int = RISE_MASKS,
    cells: int = 7,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
    input_color_format: str | None = None,
) -> Maps:
    """The mean of random soft masks, each weighted by the cosine of the image seen through it, less all masks' mean:
    [T, R, R].

    A mask is a grid of `cells` x `cells` coins, stretched over the image at a random offset. An estimate:
    another `seed` gives another, nearer to it the more `masks`, each of them a pass. Raises InputError, ImageError.
    """
    original = one_image(model, image, pixels, input_color_format)
    for name, value in (("masks", masks), ("cells", cells)):
        check_count(name, value)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is {seed!r}; expected a whole number, at least 0.")
    side, dtype = original.shape[-1], original.dtype
    directions = toward_directions(model, toward)
    cosines = image_cosines(model, iter([original]), 1, directions, 1, False)[0]
    seen = (original * mask for mask in soft_masks(masks, cells, side, seed, dtype))
    found = image_cosines(model, seen, masks, directions, batch_size, progress)  # [masks, T]
    # The mean is taken off, or a part of the image that was seen often by chance would count as much as one that
    # matters.
    found -= found.mean(axis=0)
    total, shown = np.zeros((len(directions), side, side)), np.zeros((side, side))
    for weights, mask in zip(found, soft_masks(masks, cells, side, seed, dtype), strict=True):
        total += weights[:, None, None] * mask
        shown += mask
    return Maps(total / np.maximum(shown, np.finfo(dtype).tiny), cosines, 1 + masks)


def soft_masks(count: int, cells: int, side: int, seed: int, dtype: Any) -> Iterator[Array]:
    """Masks [side, side] between 0 and 1, the same for the same seed."""
    generator = np.random.Generator(np.random.PCG64(seed))
    step = -(-side // cells)
    places = (np.arange(side + step) + 0.5) / step  # of pixels, in cells
    low = np.floor(places).astype(int)
    share = (places - low).astype(dtype)
    for _ in range(count):
        coins = generator.integers(0, 2, (cells + 3, cells + 3)).astype(dtype)
        rows = coins[low] * (1 - share)[:, None] + coins[low + 1] * share[:, None]
        whole = rows[:, low] * (1 - share) + rows[:, low + 1] * share
        top, left = generator.integers(0, step, 2)
        yield whole[top : top + side, left : left + side]


def image_cosines(
    model: CLIP, pixels: Iterator[Array], count: int, directions: Array, batch_size: int, progress: bool
) -> Array:
    """Cosines [N, T] of `count` images' pixels with unit vectors [T, E], some images at a time."""
    check_count("batch_size", batch_size)
    rows = []
    with progress_bar(count, is_true("progress", progress)) as bar:
        for batch in in_batches(pixels, batch_size):
            rows.append(unit_vectors(model.encode_image(np.stack(batch))) @ directions.T)
            bar.update(len(batch))
    return np.concatenate(rows)
