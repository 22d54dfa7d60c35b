"""Questions of preprocessing: images to pixels, in one profile or another; the right ones are Pillow's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache, partial

import numpy as np

from clipref.errors import InputError

from .. import pictures
from ..goldens import golden_file
from ..grading import rounding
from ..grading.units import frozen_units
from ..packages import missing, require
from ..protocol import Array, Case, Exact, Question, Units
from ..restated import preprocessing
from ..restated.preprocessing import PROFILES
from .make import question

# The only size of many engines: its pictures are of every kind, with margins that are odd, by 1 and by 3 modulo 4.
_SIDE = 224
PICTURES_AT_224 = (
    ("RGB", 308, 230, _SIDE), ("RGB", 230, 305, _SIDE), ("RGB", 97, 64, _SIDE), ("RGB", 225, 224, _SIDE),
    ("RGBA", 308, 230, _SIDE), ("LA", 230, 305, _SIDE), ("P", 308, 230, _SIDE), ("L", 230, 305, _SIDE),
    ("1", 308, 230, _SIDE), ("I;16", 230, 305, _SIDE), ("RGB with EXIF", 308, 230, _SIDE),
    ("RGB with tRNS", 230, 305, _SIDE), ("P with tRNS", 308, 230, _SIDE), ("RGB", 1400, 1090, _SIDE),
)  # fmt: skip
# Mode, width, height, side: halves that are rounded to either side, images that grow, stay and shrink, long and thin,
# long sides whose fraction depends on the order of arithmetic, metadata that the original ignores, a large one.
PICTURES = (
    ("RGB", 50, 40, 24), ("RGB", 40, 53, 24), ("RGB", 53, 40, 24), ("RGB", 49, 40, 24), ("RGB", 67, 67, 24),
    ("RGB", 24, 24, 24), ("RGB", 37, 24, 24), ("RGB", 9, 7, 24), ("RGB", 5, 23, 24), ("RGB", 1, 1, 24),
    ("RGB", 90, 19, 24), ("RGB", 321, 227, 48), ("RGB", 500, 400, 224), ("RGBA", 50, 40, 24), ("RGBA", 41, 53, 24),
    ("RGBA", 9, 7, 24), ("LA", 50, 40, 24), ("LA", 41, 53, 24), ("P", 50, 40, 24), ("P", 41, 53, 24), ("P", 9, 7, 24),
    ("L", 50, 40, 24), ("L", 41, 53, 24), ("1", 50, 40, 24), ("I;16", 50, 40, 24), ("RGB", 44, 55, 24),
    ("RGB", 35, 28, 24), ("RGB", 56, 61, 56), ("RGB", 200, 13, 24), ("RGB with EXIF", 50, 40, 24),
    ("RGB with tRNS", 50, 40, 24), ("P with tRNS", 50, 40, 24), ("RGB", 1400, 1100, 32), *PICTURES_AT_224,
)  # fmt: skip
_MODES = {
    "RGB": (),
    "RGBA": ("IMG-4",),
    "LA": ("IMG-4",),
    "P": ("IMG-4",),
    "L": (),
    "1": ("IMG-4",),
    "I;16": ("IMG-8",),
    "RGB with EXIF": ("IMG-9",),
    "RGB with tRNS": ("IMG-10",),
    "P with tRNS": ("IMG-4", "IMG-10"),
}
# Pictures not asked about in other profiles: what they make of 16 bits differs from one version of Pillow to the next,
# and transformers turns images as EXIF says if it loads them itself, and not if it is given them.
_OPENAI_ONLY = ("I;16", "RGB with EXIF")


def preprocess(profile: str) -> Iterator[Question]:
    """One question for each picture; some are asked in the original's profile only."""
    for mode, width, height, side in PICTURES:
        if mode in _OPENAI_ONLY and profile != "openai":
            continue
        claims = ("IMG-1", "IMG-2", "IMG-3", *_MODES.get(mode, ()), "IMG-5", "IMG-6", "IMG-7")
        yield question(
            f"preprocess/{mode} {width}x{height} to {side}", claims, "preprocess", None,
            lambda m=mode, w=width, h=height: {"image": pictures.png(m, w, h)},
            {"resolution": side}, partial(_pixels, profile), partial(_measure_pixels, profile),
        )  # fmt: skip


def _pixels(profile: str, case: Case) -> Exact:
    return pixels_of(case.id.partition("/")[2], profile)


@cache
def pixels_of(name: str, profile: str) -> Exact:
    """The golden pixels of a picture; of a large one their digest alone, where there is no Pillow to make them with."""
    if missing("pillow") and f"{name} {profile}" in golden_digests():
        return Exact({}, frozen_units(f"preprocess/{name}", profile), digest=golden_digests()[f"{name} {profile}"])
    levels = golden_levels(name, profile)
    exact = {"pixels": preprocessing.normalise(levels, dtype=np.float64)}
    return Exact(exact, frozen_units(f"preprocess/{name}", profile), {"pixels": preprocessing.normalise(levels)})


def _measure_pixels(profile: str, case: Case, exact: Exact) -> Units:
    """The units of the arithmetic that makes floats of levels, in any order."""
    levels = golden_levels(case.id.partition("/")[2], profile)
    mean, std = (np.array(x)[:, None, None] for x in (preprocessing.Steps.mean, preprocessing.Steps.std))
    x = levels.transpose(2, 0, 1)

    def compute(precision: str, order: int) -> dict[str, Array]:
        rounded = rounding.rounding(precision)
        dtype = np.float64 if precision == "float64" else np.float32
        m, s, u = (rounded(np.asarray(a, dtype)) for a in (mean, std, x))
        if order == 0:
            y = rounded(rounded(rounded(u / dtype(255)) - m) / s)
        elif order == 1:
            y = rounded(rounded(rounded(u * rounded(dtype(1 / 255))) - m) / s)
        else:
            y = rounded(rounded(u * rounded(1 / (255 * s))) - rounded(m / s))
        return {"pixels": y}

    return rounding.units_of(compute, exact.outputs)


@cache
def golden_levels(name: str, profile: str) -> Array:
    """The golden pixels of a picture before they are normalised, [R, R, 3] uint8.

    Of large ones, only the digest is kept: the pixels are Pillow's here, by the second statement of preprocessing.
    Raises InputError if this Pillow makes others, or if there is none.
    """
    key = f"{name} {profile}"
    if key in goldens_pixels():
        return goldens_pixels()[key]
    require(f"The right pixels of {name!r} are made", "pillow")
    mode, _, size = name.rpartition(" to ")[0].rpartition(" ")
    width, height = (int(side) for side in size.split("x"))
    image = preprocessing.picture(mode, width, height)
    levels = np.ascontiguousarray(preprocessing.resize(image, int(name.rpartition(" ")[2]), PROFILES[profile]))
    if hashlib.sha256(levels.tobytes()).hexdigest() != golden_digests()[key]:
        import PIL

        raise InputError(f"Pillow {PIL.__version__} makes other pixels of {name} than the golden ones; use another.")
    return levels


@cache
def golden_digests() -> dict[str, str]:
    """The sha256 of golden pixels whose bytes would be too many to keep, by picture and profile."""
    digests: dict[str, str] = json.loads(golden_file("pixels.json").read_text(encoding="ascii"))["sha256"]
    return digests


@cache
def goldens_pixels() -> dict[str, Array]:
    """The golden pixels before they are normalised, [R, R, 3] uint8, by picture and profile."""
    from safetensors.numpy import load_file

    return load_file(golden_file("pixels.safetensors"))
