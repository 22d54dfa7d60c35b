"""CLIP's preprocessing, stated a second time: Pillow's steps one by one, each of which can be done otherwise.

What torchvision's Resize, CenterCrop, ToTensor and Normalize do, as clip/clip.py of https://github.com/openai/CLIP
combines them. The golden pixels are made with it (tests/make_goldens.py), and the known faults are its deviations.
Whoever only compares pixels needs no Pillow, so it is imported where it is used.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .. import pictures
from ..protocol import Array
from . import torch_resize

if TYPE_CHECKING:
    from PIL import Image

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Offset: TypeAlias = Callable[[int], int]
Triple: TypeAlias = tuple[float, float, float]


def half_to_even(margin: int) -> int:
    """As torchvision: of what is left over, half; 2.5 is 2 and 3.5 is 4."""
    return round(margin / 2)


def truncate(side: int, long: int, short: int) -> int:
    """As torchvision: the long side loses its fraction, and is multiplied first. 24 / 44 * 55 is below 30 in floats."""
    return int(side * long / short)


@dataclass(frozen=True)
class Steps:
    """The steps; the defaults are OpenAI's."""

    turned: bool = False  # upright, as EXIF's orientation says
    alpha: bool = False  # a transparent colour (tRNS) becomes an alpha channel
    thumbnail: int | None = None  # a side that the image is shrunk to before all else
    reducing_gap: float | None = None  # Pillow's shortcut: boxes first, the filter only at the end
    filter: str = "BICUBIC"
    antialias: bool = True
    resampler: Literal["pillow", "torch"] = "pillow"
    vertical_first: bool = False
    floats: Literal["never", "between", "throughout"] = "never"  # where the resize doesn't round to 8 bits
    squash: bool = False  # both sides become R, instead of a crop
    square: Literal["after", "before", "box"] = "after"  # the crop: of the original, or as a box of it with fractions
    grey_indices: bool = False  # a palette's indices taken for levels of grey
    long_side: Callable[[int, int, int], int] = truncate  # of R, and of the sides as they were
    offset: Offset = half_to_even
    rgb: Literal["last", "first", "first, on white"] = "last"  # before the resize, or in the image's own mode
    upright: bool = True  # rows from the top; rows and columns as they are
    bgr: bool = False
    scale: float = 255.0
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    std: Triple = (0.26862954, 0.26130258, 0.27577711)


def floor_half(margin: int) -> int:
    """As transformers: 2.5 is 2 and 3.5 is 3."""
    return margin // 2


# Preprocessings that people use on purpose. That of transformers with Pillow differs from the original's in two steps;
# from version 5.21 on it also puts what is transparent on white. Its processor that stands on torchvision, "fast" in 4
# and the default in 5 where torchvision is installed, has torch's resize too. Tried: 4.57, 5.0, 5.20, 5.21, 5.24, with
# torchvision 0.28 and torch 2.13 on the CPU (tests/test_torchvision.py).
PROFILES = {
    "openai": Steps(),
    "transformers-4": Steps(offset=floor_half, rgb="first"),
    "transformers-5": Steps(offset=floor_half, rgb="first, on white"),
    "transformers-4-torchvision": Steps(offset=floor_half, rgb="first", resampler="torch"),
    "transformers-5-torchvision": Steps(offset=floor_half, rgb="first, on white", resampler="torch"),
}


def transformers_profile(version: str, torchvision: bool = False) -> str:
    """The profile of a version of transformers, such as "5.3.0", with Pillow or with torchvision."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"transformers-{4 if (major, minor) < (5, 21) else 5}{'-torchvision' if torchvision else ''}"


def resize(image: Image.Image, side: int, steps: Steps = Steps()) -> Array:
    """The pixels before they are normalised: [R, R, 3] uint8, or float64 where the steps don't round."""
    whole, (left, top) = resize_whole(image, side, steps)
    return whole[top : top + side, left : left + side]


def resize_whole(image: Image.Image, side: int, steps: Steps = Steps(), longer: int = 0) -> tuple[Array, Size]:
    """The picture before the crop, [h, w, 3], and where the crop's left and top are.

    `longer`: a long side that is longer by so many pixels than the steps have it.
    """
    from PIL import Image, ImageOps

    if steps.turned:
        image = ImageOps.exif_transpose(image)
    keyed = "transparency" in image.info
    if keyed and steps.alpha:
        image = image.convert("RGBA")
    if steps.rgb == "first, on white" and (keyed or "A" in image.getbands()):
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    if keyed:
        image = image.copy()
        image.info.pop("transparency", None)  # no conversion to RGB heeds it; of some, Pillow warns that it is lost
    if steps.grey_indices and image.mode == "P":
        image = Image.frombytes("L", image.size, image.tobytes())
    if steps.rgb != "last" or steps.floats != "never":
        image = image.convert("RGB")
    if steps.thumbnail is not None and max(image.size) > steps.thumbnail:
        image = image.copy()
        image.thumbnail((steps.thumbnail, steps.thumbnail))
    width, height = image.size
    short = min(width, height)
    size = (side, side)
    if steps.square == "box":
        left, top = (width - short) / 2, (height - short) / 2
        cut = _in_two_passes(image, size, (left, top, left + short, top + short), steps)
        return np.asarray(cut.convert("RGB")), (0, 0)
    if steps.square == "before":
        left, top = (steps.offset(s - short) for s in (width, height))
        image = image.crop((left, top, left + short, top + short))
        width = height = short
    if not steps.squash:
        size = tuple(side if s == short else steps.long_side(side, s, short) + longer for s in (width, height))  # type: ignore
    left, top = (steps.offset(s - side) for s in size)
    if steps.floats == "throughout":
        bands = [np.asarray(band.convert("F").resize(size, Image.Resampling[steps.filter])) for band in image.split()]
        return np.stack(bands, axis=-1).astype(np.float64), (left, top)
    return np.asarray(_resize_to(image, size, steps).convert("RGB")), (left, top)


def _resize_to(image: Image.Image, size: Size, steps: Steps) -> Image.Image:
    from PIL import Image

    if image.size == size:
        return image
    kernel = Image.Resampling[steps.filter]
    if steps.floats == "between":
        bands = [np.asarray(band.convert("F").resize(size, kernel)) for band in image.split()]
        return Image.merge("RGB", [Image.fromarray(np.clip(np.rint(b), 0, 255).astype(np.uint8)) for b in bands])
    if steps.resampler == "torch" and steps.filter in torch_resize.FILTERS:
        levels = np.asarray(image.convert("RGB"))
        resized = torch_resize.resize(levels, size, steps.filter, steps.antialias, steps.vertical_first)
        return Image.fromarray(resized)
    if not steps.antialias:
        affine = (image.width / size[0], 0, 0, 0, image.height / size[1], 0)
        return image.transform(size, Image.Transform.AFFINE, affine, kernel)
    if steps.reducing_gap is not None:
        return image.resize(size, kernel, reducing_gap=steps.reducing_gap)
    return _in_two_passes(image, size, (0, 0, *image.size), steps)


def _in_two_passes(image: Image.Image, size: Size, box: Box, steps: Steps) -> Image.Image:
    """A box of an image resized one axis a call: in one call, which axis is first depends on Pillow's version."""
    from PIL import Image

    mode, kernel = image.mode, Image.Resampling[steps.filter]
    left, top, right, bottom = box
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(mode)  # as Pillow does, but once for both passes
    if premultiplied:
        image = image.convert(premultiplied)
    if steps.vertical_first:
        image = image.resize((image.width, size[1]), kernel, (0, top, image.width, bottom))
        image = image.resize(size, kernel, (left, 0, right, size[1]))
    else:
        image = image.resize((size[0], image.height), kernel, (left, 0, right, image.height))
        image = image.resize(size, kernel, (0, top, size[0], bottom))
    return image.convert(mode) if premultiplied else image


def normalise(levels: Array, steps: Steps = Steps(), dtype: Any = np.float32) -> Array:
    """[R, R, 3] -> [3, R, R]: to 0..1, minus the mean, divided by the standard deviation."""
    mean, std, scale = (np.asarray(x, dtype) for x in (steps.mean, steps.std, steps.scale))
    x = levels.astype(dtype)[..., :: -1 if steps.bgr else 1]
    x = x if steps.upright else x.swapaxes(0, 1)
    return np.ascontiguousarray(((x / scale - mean) / std).transpose(2, 0, 1))


def preprocess(image: Image.Image, side: int, steps: Steps = Steps(), dtype: Any = np.float32) -> Array:
    """An image as the image tower takes it, [3, R, R]."""
    return normalise(resize(image, side, steps), steps, dtype)


def picture(mode: str, width: int, height: int) -> Image.Image:
    """A picture of pictures.py, opened."""
    return open_png(pictures.png(mode, width, height))


def png(image: Image.Image) -> Array:
    """The bytes of a PNG file, as uint8, as Pillow compresses it here."""
    buffer = io.BytesIO()
    # Metadata are given by name, because not every version of Pillow takes both from `info`.
    metadata = {key: image.info[key] for key in ("exif", "transparency") if key in image.info}
    image.save(buffer, "PNG", **metadata)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def open_png(data: Array) -> Image.Image:
    """The image of `png`."""
    from PIL import Image

    image = Image.open(io.BytesIO(data.tobytes()))
    image.load()
    return image
