"""Which step of preprocessing went wrong, where no known fault gives the pixels: resize, crop, or numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..protocol import Array
from ..restated import preprocessing
from .evidence import Answered

_EXACT = 0.02  # levels
_SEEN = 0.5  # of the difference is left where the crop is another, although the resize is, too
_SIDES = (0, -1, 1)  # by which the long side may be another


@dataclass(frozen=True)
class _Wrong:
    """What went wrong in one picture, in words; and where numbers differ, which percent of them, by how many levels."""

    says: str
    percent: float = 0.0
    levels: float = 0.0


def find_steps(failed: Sequence[Answered], profile: str) -> Iterator[str]:
    """A sentence for each step that went wrong, and in how many pictures, the most frequent first."""
    told: dict[str, list[_Wrong]] = {}
    for answer in failed:
        wrong = _wrong_step(answer, profile)
        told.setdefault(wrong.says, []).append(wrong)
    for what, found in sorted(told.items(), key=lambda pair: -len(pair[1])):
        percent, levels = (max(getattr(wrong, name) for wrong in found) for name in ("percent", "levels"))
        off = f", in {_bound_in_words(percent)} % of values, by up to {math.ceil(levels)} levels" if percent else ""
        yield f"Pixels that no known fault gives, in {len(found)} of {len(failed)} pictures: {what}{off}."


def _wrong_step(answer: Answered, profile: str) -> _Wrong:
    """The step that went wrong in one picture."""
    steps = preprocessing.PROFILES[profile]
    image = preprocessing.open_png(answer.case.inputs["image"])
    side = int(answer.case.attributes["resolution"])
    found = np.asarray(answer.outputs["pixels"], np.float64)
    right = answer.exact.outputs["pixels"]
    if (scaled := _other_numbers(found, right)) is not None:
        return _Wrong(scaled)
    levels = (found.transpose(1, 2, 0) * steps.std + steps.mean) * steps.scale  # [R, R, 3]
    for longer in _SIDES:
        whole, (left, top) = preprocessing.resize_whole(image, side, steps, longer)
        window = _find_window(levels, whole.astype(np.float64), side)
        if window is not None:
            return _Wrong(_describe(longer, window[0] - left, window[1] - top))
    for what, other in _rearrangements(found).items():
        if np.abs(other - right).max() * 255 < _EXACT:
            return _Wrong(f"the right ones, {what}")
    off = np.abs(found - right).transpose(1, 2, 0) * steps.std * steps.scale
    share = 100 * float((off > _EXACT).mean())
    crop = _crop(levels, *preprocessing.resize_whole(image, side, steps))
    return _Wrong(f"{crop}the resize gives others", share, float(off.max()))


def _bound_in_words(percent: float) -> str:
    """In words, so many that nobody takes it for exact."""
    return next((f"up to {bound}" for bound in (0.1, 1, 3, 10, 30) if percent <= bound), "more than 30")


def _other_numbers(found: Array, right: Array) -> str | None:
    """In words, the mean and the standard deviation by which right levels became other numbers; None if none do."""
    scales, offsets = [], []
    for x, y in zip(right, found, strict=True):
        if np.ptp(x) < 1e-3:
            return None
        scale, offset = np.polyfit(x.ravel(), y.ravel(), 1)
        if abs(scale) < 1e-3 or np.abs(scale * x + offset - y).max() > 1e-4 * max(1.0, abs(scale)):
            return None
        scales.append(float(scale))
        offsets.append(float(offset))
    std = [s / k for s, k in zip(preprocessing.Steps.std, scales, strict=True)]
    mean = [m - o * s for m, o, s in zip(preprocessing.Steps.mean, offsets, std, strict=True)]
    numbers = (", ".join(f"{x:.4g}" for x in several) for several in (mean, std))
    return "resize and crop are right; levels / 255 have the mean ({}) subtracted and are divided by ({})".format(
        *numbers
    )


def _windows(whole: Array, side: int) -> Iterator[tuple[int, int]]:
    for top in range(whole.shape[0] - side + 1):
        for left in range(whole.shape[1] - side + 1):
            yield left, top


def _find_window(levels: Array, whole: Array, side: int) -> tuple[int, int] | None:
    """Where in the whole picture the window is that was found, left and top; None if it isn't there."""
    for left, top in _windows(whole, side):
        if (
            np.abs(whole[top, left : left + side] - levels[0]).max() < _EXACT
            and np.abs(whole[top : top + side, left : left + side] - levels).max() < _EXACT
        ):
            return left, top
    return None


def _crop(levels: Array, whole: Array, right: tuple[int, int]) -> str:
    """In words that go on, where the crop was, as far as the wrong resize lets it be seen."""

    def off(at: tuple[int, int]) -> float:
        left, top = at
        return float(np.abs(whole[top : top + len(levels), left : left + len(levels)] - levels).mean())

    nearest = min(_windows(whole, len(levels)), key=off)
    if nearest == right:
        return "the crop is right, and "
    moved = off(nearest) <= _SEEN * off(right)
    where = _describe(0, nearest[0] - right[0], nearest[1] - right[1]).partition(", ")[2]
    return f"{where}, and " if moved else ""


def _describe(longer: int, right: int, down: int) -> str:
    resize = (
        "the resize is right" if not longer else f"the long side is a pixel {'longer' if longer > 0 else 'shorter'}"
    )
    moves = [
        f"{'one pixel' if abs(by) == 1 else f'{abs(by)} pixels'} too far {ahead if by > 0 else back}"
        for by, ahead, back in ((right, "to the right", "to the left"), (down, "down", "up"))
        if by
    ]
    return f"{resize}, the crop is {' and '.join(moves) or 'right'}"


def _rearrangements(found: Array) -> dict[str, Array]:
    """The same numbers, if they were taken in another order."""
    return {
        "mirrored": found[:, :, ::-1],
        "upside down": found[:, ::-1],
        "turned by half": found[:, ::-1, ::-1],
        "rows and columns exchanged": found.swapaxes(1, 2) if found.shape[1] == found.shape[2] else found,
        "channels in the order blue, green, red": found[::-1],
        "channels last, read as if they came first": found.reshape(*found.shape[1:], 3).transpose(2, 0, 1),
    }
