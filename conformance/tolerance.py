"""The tolerance "as torchvision", for engines that resize otherwise on purpose: whoever wants it asks for it.

torchvision, which OpenAI's code preprocesses with, has two resizes: Pillow's for images, which the profiles stand on,
and torch's for tensors, whose weights are rounded to 16 bits instead of 22 (restated/torch_resize.py). Twice what these
two differ by is tolerated of another resize, in whichever values it is: of pixels, two levels in 2 % of the values; of
embeddings, twice what torch's resize moves the right one by. What the answer is graded by is the rest.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from clipref.numerics import rms_error

from .grading.verdicts import MARGIN, Picture
from .protocol import Array, Case, Exact, Outputs, Units
from .questions.pipeline import right
from .restated.preprocessing import PROFILES, Steps

# Another resize rounds other values another way than torch's does.
_TWICE = 2.0
# Levels by which torch's resize may differ from Pillow's. Measured, of the suite's pictures in RGB: one level, in up to
# 0.98 % of the values; in one of a palette, made RGB first, two levels and 1.1 %.
_LEVELS = 2.01
_SHARE = _TWICE * 0.01


def tolerate(case: Case, exact: Exact, answer: Outputs, profile: str) -> tuple[Exact, Outputs, Picture | None]:
    """The values that an answer is to be compared with, and what of it, if the tolerance is asked for.

    Pixels that are tolerated are put right, and where there are any, they are the last that is returned. Embeddings and
    cosines stay as they are; of those that are off in float32, the units grow by what is tolerated.
    """
    if case.verb == "preprocess":
        found, wanted = answer.get("pixels"), exact.bits["pixels"]
        if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype or not np.isfinite(found).all():
            return exact, answer, None
        return _tolerate_levels(exact, answer, found, wanted)
    if case.verb in ("embed_image", "compare"):
        return dataclasses.replace(exact, units=_widen(case, exact, answer, profile)), answer, None
    return exact, answer, None


def _tolerate_levels(
    exact: Exact, answer: Outputs, found: Array, wanted: Array
) -> tuple[Exact, Outputs, Picture | None]:
    levels = np.abs(found - wanted) * np.array(Steps.std, np.float32)[:, None, None] * 255
    off = levels > 0.5  # what is less is a matter of precision
    if not off.any() or off.mean() > _SHARE or levels.max() > _LEVELS:
        return exact, answer, None
    channel, row, column = (int(i) for i in np.unravel_index(levels.argmax(), levels.shape))
    picture = Picture(found, exact.outputs["pixels"], (channel, row, column), float(levels.max()))
    return exact, {**answer, "pixels": np.where(off, wanted, found)}, picture


def _displacement(case: Case, profile: str, name: str) -> float:
    """By how much torch's resize moves an output, relative to its root mean square, of the picture in RGB."""
    steps = dataclasses.replace(PROFILES[profile], rgb="first", resampler="pillow")
    return rms_error(right(dataclasses.replace(steps, resampler="torch"), case)[name], right(steps, case)[name])


def _widen(case: Case, exact: Exact, answer: Outputs, profile: str) -> Units:
    (name,) = exact.outputs
    found, wanted, units = answer.get(name), exact.outputs[name], exact.units[name]
    if found is None or found.shape != wanted.shape or rms_error(found, wanted) <= MARGIN * units["float32"]:
        return exact.units
    moved = _displacement(case, profile, name)
    return {name: {precision: unit + _TWICE * moved / MARGIN for precision, unit in units.items()}}
