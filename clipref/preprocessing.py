"""An image of any kind in, the pixels that CLIP was trained on out, equal to the original's bit for bit.

The steps are OpenAI's (`_transform` in clip/clip.py of https://github.com/openai/CLIP, torchvision on top of Pillow):
resize with Pillow's antialiased bicubic filter in the image's own mode, centre crop, RGB, 0..1, normalise. Pillow does
the work here too; `clipref.bicubic` shows what it does.

What may surprise, and is so in the original:
- EXIF orientation is ignored, except in TIFF files, which Pillow itself turns upright, and in HEIF, which its plugin
  turns. `upright=True` follows it in all formats.
- Transparency is ignored too: what lies under it is seen.
- 1-bit and palette images are resized without a filter (NEAREST), as Pillow always does in these modes.
- 16-bit, 32-bit and float images are clipped to 0..255, not scaled: most 16-bit pictures turn out white.

One thing is fixed that Pillow leaves open: the horizontal pass comes first. Pillow took it first up to 12.0; since
https://github.com/python-pillow/Pillow/pull/9549 it may take the vertical one first, and rounds to other pixels when it
shrinks images twice as high as wide.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arguments import as_array, attribute, brief, is_count
from .config import OPENAI_MEAN, OPENAI_STD, Interpolation, ResizeMode
from .errors import BackendError, ImageError, InputError
from .image_locks import pillow
from .images import MAX_PIXELS, check_size, decoded_file, decoded_image, decoded_path, read_stream
from .installed import entry_points
from .lazy import no_fork

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

GROUP = "clipref.resizes"  # of entry points: modules with the functions `library` and `resized_crop`

# The largest that are in use have 448.
MAX_RESOLUTION = 4096

# A 1 x 4000 image at 224 pixels becomes 224 x 896000, most of which the crop throws away.
MAX_RESIZED_BYTES = 2**28

# Pixels whose colours are multiplied by their alpha at a time.
BLOCK_PIXELS = 2**22


def preprocess(
    image: Any,
    resolution: int = 224,
    *,
    input_color_format: str | None = None,
    mean: Sequence[float] = OPENAI_MEAN,
    std: Sequence[float] = OPENAI_STD,
    interpolation: Interpolation = "bicubic",
    resize_mode: ResizeMode = "shortest",
    max_pixels: int = MAX_PIXELS,
    upright: bool = False,
) -> NDArray[np.float32]:
    """One image -> float32 [3, resolution, resolution], RGB, C-contiguous. The input is not changed.

    `image`, `input_color_format`, `max_pixels` and `upright` are `open_image`'s. `mean` and `std` are per RGB channel,
    of values between 0 and 1. `interpolation` is "bicubic" or "bilinear"; `resize_mode` "shortest" resizes the short
    side and crops the long one, "squash" resizes both. The defaults are OpenAI's.

    Raises ImageError for an image that can't be read, is too large, too long and thin, or of a kind that Pillow can't
    resize; InputError for any other argument.

    >>> import numpy as np
    >>> from clipref import preprocess
    >>> frame = np.zeros((480, 640, 3), np.uint8)  # as cv2.imread gives them: BGR
    >>> pixels = preprocess(frame)
    >>> pixels.shape, pixels.dtype
    ((3, 224, 224), dtype('float32'))
    >>> pixels[:, 0, 0].round(3)  # black, with the mean taken off, in standard deviations
    array([-1.792, -1.752, -1.48 ], dtype=float32)
    """
    if not is_count(resolution) or resolution > MAX_RESOLUTION:
        raise InputError(f"resolution is {brief(resolution)}; expected whole pixels, 1 to {MAX_RESOLUTION}.")
    offset, scale = _three("mean", mean, -1e6), _three("std", std, 1e-6)
    choices = [choice if isinstance(choice, str) else None for choice in (interpolation, resize_mode)]
    if choices[0] not in ("bicubic", "bilinear") or choices[1] not in ("shortest", "squash"):
        raise InputError(
            f"interpolation is {brief(interpolation)} and resize_mode {brief(resize_mode)}; expected 'bicubic' or "
            "'bilinear', and 'shortest' or 'squash'."
        )
    with _open(image, input_color_format, max_pixels, upright) as opened:
        rgb = _square(opened, int(resolution), interpolation, resize_mode)  # uint8 [R, R, 3]
    pixels: NDArray[np.float32] = rgb.transpose(2, 0, 1).astype(np.float32, order="C")  # [3, R, R]
    pixels /= 255
    pixels -= offset[:, None, None]
    pixels /= scale[:, None, None]
    return pixels


def _three(name: str, values: Any, least: float) -> NDArray[np.float32]:
    """A number for each of R, G and B. Raises InputError."""
    expected = f"expected three numbers, {least:g} to 1e+06"
    numbers = as_array(values, name, expected)
    if numbers.dtype.kind not in "iuf" or numbers.shape != (3,) or not ((numbers >= least) & (numbers <= 1e6)).all():
        raise InputError(f"{name} is {brief(values)}; {expected}.")
    return numbers.astype(np.float32)


def open_image(
    image: Any, input_color_format: str | None = None, max_pixels: int = MAX_PIXELS, upright: bool = False
) -> Image:
    """Anything that holds one image -> a decoded PIL image in its own mode; of an animation, the first frame.

    `image` is one of
    - a path, or the bytes of an image file, or an object with `read` (read from its start if it can go there, left
      open); in a format of `clipref.images.FORMATS`;
    - a PIL image, returned as it is;
    - an array, or what numpy can view as one without a copy to float: uint8 [H, W], [H, W, C] or [C, H, W] with 1, 3 or
      4 channels ([H, W, C] if it could be either). Its colours are BGR or BGRA, as cv2 reads them, unless
      `input_color_format` is "rgb". Files, bytes and PIL images are what they say they are;
    - a torch tensor, like an array, but [C, H, W] if it could be either, and RGB unless `input_color_format` is "bgr".

    `max_pixels` is checked before anything is decoded; formats that take more memory or time are allowed fewer.
    `upright` turns the image as its EXIF says. Several threads may give the same file object or PIL image.
    Raises ImageError or InputError.
    """
    with _open(image, input_color_format, max_pixels, upright) as opened:
        return opened


def _open(image: Any, input_color_format: str | None, max_pixels: int, upright: bool) -> AbstractContextManager[Image]:
    """The image that `open_image` opens, and room for it in memory meanwhile. Raises ImageError or InputError."""
    if not isinstance(input_color_format, str | None) or input_color_format not in ("bgr", "rgb", None):
        raise InputError(f"input_color_format is {brief(input_color_format)}; expected 'bgr' or 'rgb'.")
    if not is_count(max_pixels):
        raise InputError(f"max_pixels is {brief(max_pixels)}; expected a whole number, at least 1.")
    if not isinstance(upright, bool | np.bool_):
        raise InputError(f"upright is {brief(upright)}; expected True or False.")
    if isinstance(image, pillow().Image):
        return decoded_image(image, "the PIL image", max_pixels, upright)
    if isinstance(image, str | os.PathLike):
        return decoded_path(image, max_pixels, upright)
    if isinstance(image, bytes | bytearray | memoryview):
        return decoded_file(io.BytesIO(bytes(image)), "the bytes given", max_pixels, upright)
    if callable(attribute(image, "read")):
        return decoded_file(read_stream(image), "the file object", max_pixels, upright)
    if attribute(image, "__array__") is not None or attribute(image, "__array_interface__") is not None:
        return decoded_image(_from_array(image, input_color_format, max_pixels), "the array", max_pixels, False)
    raise ImageError(_not_an_image(image))


def _not_an_image(image: Any) -> str:
    expected = "expected a path, bytes, a binary file, a PIL image or an array"
    if image is None:
        return f"The image is None, which cv2.imread gives for a file that it can't read; {expected}."
    return f"The image is a {type(image).__name__}; {expected}. For several images use embed_images."


def _is_tensor(image: Any) -> bool:
    return any(kind.__module__ == "torch" for kind in type(image).__mro__)


def _from_array(image: Any, color_format: str | None, max_pixels: int) -> Image:
    from PIL import Image

    try:
        # A torch tensor with a history, or on a device, is no array before.
        for step in ("detach", "cpu") if _is_tensor(image) else ():
            image = getattr(image, step, lambda image=image: image)()
        pixels = np.asarray(image)
    except Exception as error:  # raised by whoever wrote the object's __array__
        raise ImageError(f"The {type(image).__name__} can't be viewed as a numpy array: {error}.") from error
    found = f"The array is {pixels.dtype} of shape {list(pixels.shape)}"
    if pixels.ndim == 4:
        raise ImageError(f"{found}: a batch; expected one image. For several use embed_images.")
    if pixels.ndim not in (2, 3):
        raise ImageError(f"{found}; expected one image, [H, W], [H, W, C] or [C, H, W].")
    if not pixels.size:
        raise ImageError(f"{found}: it has no pixels.")
    if pixels.dtype != np.uint8:
        advice = {
            "b": "pass x.astype('uint8') * 255",
            "i": "if it is 0..255, pass x.astype('uint8')",
            "u": "if it is 0..255, pass x.astype('uint8')",
            "f": "if it is 0..1, pass (255 * x).round().astype('uint8')",
        }.get(pixels.dtype.kind, "pass numbers")
        raise ImageError(f"{found}; expected uint8, 0..255; {advice}.")
    channels_first = _is_tensor(image) and pixels.shape[0] in (1, 3, 4)
    if pixels.ndim == 3 and (channels_first or pixels.shape[2] not in (1, 3, 4)):
        if pixels.shape[0] not in (1, 3, 4):
            raise ImageError(f"{found}; expected [H, W, C] or [C, H, W] with 1, 3 or 4 channels.")
        pixels = pixels.transpose(1, 2, 0)
    check_size(pixels.shape[1::-1], "the array", max_pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    elif pixels.ndim == 3 and (color_format or ("rgb" if _is_tensor(image) else "bgr")) == "bgr":
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _square(image: Image, resolution: int, interpolation: Interpolation, resize_mode: ResizeMode) -> NDArray[np.uint8]:
    """Resize, crop, RGB: uint8 [R, R, 3]."""
    width = height = resolution
    if resize_mode == "shortest":
        width, height = (int(resolution * side / min(image.size)) for side in image.size)
    if width * (image.height + height) * _PIXEL_BYTES.get(image.mode, 4) > MAX_RESIZED_BYTES:
        raise ImageError(
            f"The image is {image.width} x {image.height}: with its short side resized to {resolution} it would be "
            f"{width} x {height}, more than {MAX_RESIZED_BYTES} bytes. Crop it to a less extreme shape first."
        )
    left, top = (round((side - resolution) / 2) for side in (width, height))  # round() takes halves to even
    box = (left, top, left + resolution, top + resolution)
    try:
        fast = fast_resize() if interpolation == "bicubic" else None
        found: NDArray[np.uint8] | None = None if fast is None else fast(image, width, height, box)
        if found is not None:
            return found
        crop = _resize_and_crop(image, width, height, box, interpolation)
        # Pillow would carry the transparent colour over to RGB, where nothing needs it, and warn if it can't.
        crop.info.pop("transparency", None)
        return np.asarray(crop.convert("RGB"))
    except Exception as error:  # Pillow raises several kinds
        raise _unfit(image.mode) from error


@cache
def fast_resize() -> Callable[..., NDArray[np.uint8] | None] | None:
    """A function that resizes and crops what it can with the same bits, faster: clipref.kernels.pixels, if it runs."""
    with no_fork:
        for entry in entry_points(group=GROUP):
            with suppress(ImportError, BackendError):
                module = entry.load()
                module.library()
                fast: Callable[..., NDArray[np.uint8] | None] = module.resized_crop
                return fast
    return None


_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # 4 in the other modes


def _resize_and_crop(
    image: Image, width: int, height: int, box: tuple[int, int, int, int], interpolation: Interpolation
) -> Image:
    """`image.resize((width, height), BICUBIC).crop(box)`, horizontally first in every version of Pillow."""
    from PIL.Image import Resampling

    if image.size == (width, height):
        return image.crop(box)
    if image.mode == "PA":  # Pillow blends palette indices as if they were colours, and then loses the palette
        raise _unfit(image.mode)
    kernel = Resampling[interpolation.upper()]
    left, top, right, bottom = box
    mode = image.mode
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(mode)  # as Pillow does, but once for both passes
    if premultiplied:
        image = _multiply_and_resize_rows(image, premultiplied, width, kernel)
    across = image.resize((width, image.height), kernel).crop((left, 0, right, image.height))
    crop = across.resize((right - left, height), kernel).crop((0, top, right - left, bottom))
    return crop.convert(mode) if premultiplied else crop


def _multiply_and_resize_rows(image: Image, mode: str, width: int, kernel: Resampling) -> Image:
    """`image.convert(mode).resize((width, image.height))`, some rows at a time, so that no large copy is made."""
    across: Image = pillow().new(mode, (width, image.height))
    rows = max(BLOCK_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        block = image.crop((0, top, image.width, min(top + rows, image.height)))
        across.paste(block.convert(mode).resize((width, block.height), kernel), (0, top))
    return across


def _unfit(mode: str) -> ImageError:
    return ImageError(
        f"the PIL image: Pillow can't resize mode {mode} or make it RGB; expected L, RGB, RGBA or another mode that it "
        "can. Convert the image first."
    )
