"""An image of any kind in, the pixels that CLIP was trained on out, equal to the original's bit for bit.

The steps are OpenAI's (`_transform` in clip/clip.py of https://github.com/openai/CLIP, torchvision on top of Pillow):
resize with Pillow's antialiased bicubic filter in the image's own mode, centre crop, RGB, 0..1, normalise. Pillow does
the work here too; `clipref.bicubic` shows what it does.

What may surprise, and is so in the original:
- EXIF orientation is ignored, except in TIFF files, which Pillow itself turns upright.
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
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .config import OPENAI_MEAN, OPENAI_STD, Interpolation, ResizeMode
from .errors import ImageError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's own limit (twice its MAX_IMAGE_PIXELS), above which it opens no file: half a gigabyte in RGB.
MAX_PIXELS = 178_956_970

# A 1 x 4000 image at 224 pixels becomes 224 x 896000, most of which the crop throws away. A gigabyte in RGB.
MAX_RESIZED_PIXELS = 2**28

_warnings_lock = threading.Lock()


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
) -> NDArray[np.float32]:
    """One image -> float32 [3, resolution, resolution], RGB, C-contiguous. The input is not changed.

    `image`, `input_color_format` and `max_pixels` are `open_image`'s. `mean` and `std` are per RGB channel, of values
    between 0 and 1. `interpolation` is "bicubic" or "bilinear"; `resize_mode` "shortest" resizes the short side and
    crops the long one, "squash" resizes both. The defaults are OpenAI's.

    Raises ImageError for an image that can't be read, is too large, too long and thin, or of a kind that Pillow can't
    resize; InputError for any other argument.
    """
    if not isinstance(resolution, int | np.integer) or resolution < 1:
        raise InputError(f"resolution is {resolution!r}; expected a whole number of pixels, at least 1.")
    offset, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if offset.shape != (3,) or scale.shape != (3,) or not (scale > 0).all():
        raise InputError(f"mean is {mean!r} and std {std!r}; expected three numbers each, std above 0.")
    if interpolation not in ("bicubic", "bilinear") or resize_mode not in ("shortest", "squash"):
        raise InputError(
            f"interpolation is {interpolation!r} and resize_mode {resize_mode!r}; expected 'bicubic' or 'bilinear', "
            "and 'shortest' or 'squash'."
        )
    opened = open_image(image, input_color_format, max_pixels)
    rgb = _square(opened, int(resolution), interpolation, resize_mode)  # uint8 [R, R, 3]
    pixels: NDArray[np.float32] = rgb.transpose(2, 0, 1).astype(np.float32, order="C")  # [3, R, R]
    pixels /= 255
    pixels -= offset[:, None, None]
    pixels /= scale[:, None, None]
    return pixels


def open_image(image: Any, input_color_format: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """Anything that holds one image -> a decoded PIL image in its own mode; of an animation, the first frame.

    `image` is one of
    - a path, or the bytes of an image file, or a binary file object (read from its start, left open);
    - a PIL image, returned as it is;
    - an array, or what numpy can view as one without a copy to float: uint8 [H, W], [H, W, C] or [C, H, W] with 1, 3 or
      4 channels ([H, W, C] if it could be either). Its colours are BGR or BGRA, as cv2 reads them, unless
      `input_color_format` is "rgb". Files, bytes and PIL images are what they say they are;
    - a torch tensor, like an array, but [C, H, W] if it could be either, and RGB unless `input_color_format` is "bgr".

    `max_pixels` is checked before anything is decoded. Raises ImageError or InputError.
    """
    from PIL import Image

    if input_color_format not in ("bgr", "rgb", None):
        raise InputError(f"input_color_format is {input_color_format!r}; expected 'bgr' or 'rgb'.")
    if isinstance(image, Image.Image):
        return _decoded(image, "the PIL image", max_pixels)
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        try:
            with open(name, "rb") as file:
                return _read(file, repr(name), max_pixels)
        except FileNotFoundError as error:
            raise ImageError(f"{name!r}: no such file; expected the path of an image, or the image itself.") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"{name!r}: can't be opened: {error}; expected the path of an image file.") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return _read(io.BytesIO(bytes(image)), "the bytes given", max_pixels)
    if callable(getattr(image, "read", None)):
        try:
            stream = image if image.seekable() else io.BytesIO(image.read())
        except Exception as error:  # raised by whoever wrote the file object
            raise ImageError(f"the file object can't be read: {error}; expected one opened in binary mode.") from error
        return _read(stream, "the file object", max_pixels)
    if hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
        return _from_array(image, input_color_format, max_pixels)
    raise ImageError(
        f"The image is a {type(image).__name__}; expected a path, bytes, a binary file, a PIL image or an array. "
        "For several images use embed_images."
    )


def _read(file: IO[bytes], name: str, max_pixels: int) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with _pillow_silenced():
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: {error} At most {max_pixels} pixels are read; for more, raise max_pixels (an argument of "
            "preprocess) and PIL.Image.MAX_IMAGE_PIXELS, which is Pillow's own limit."
        ) from error
    except UnidentifiedImageError as error:
        found = "not an image in a format that Pillow reads" if file.seek(0, os.SEEK_END) else "zero bytes"
        raise ImageError(f"{name}: {found}; expected an image file, such as PNG or JPEG.") from error
    except Exception as error:  # Pillow's parsers raise whatever malformed bytes lead them to
        raise ImageError(
            f"{name}: not a sound image file ({type(error).__name__}: {error}); try to save it anew."
        ) from error
    return _decoded(image, name, max_pixels)


def _decoded(image: Image, name: str, max_pixels: int) -> Image:
    _check_size(image.size, name, max_pixels)
    try:
        # Other formats warn while their header is read, if at all; they can be decoded by several threads at a time.
        with _pillow_silenced() if image.format == "TIFF" else nullcontext():
            image.load()
    except Exception as error:  # as above
        raise ImageError(
            f"{name}: damaged or cut short ({type(error).__name__}: {error}); get the file again."
        ) from error
    return image


def _is_tensor(image: Any) -> bool:
    return any(kind.__module__ == "torch" for kind in type(image).__mro__)


def _from_array(image: Any, color_format: str | None, max_pixels: int) -> Image:
    from PIL import Image

    try:
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
        raise ImageError(f"{found}; expected uint8, 0..255. If it is 0..1, pass (255 * x).round().astype('uint8').")
    channels_first = _is_tensor(image) and pixels.shape[0] in (1, 3, 4)
    if pixels.ndim == 3 and (channels_first or pixels.shape[2] not in (1, 3, 4)):
        if pixels.shape[0] not in (1, 3, 4):
            raise ImageError(f"{found}; expected [H, W, C] or [C, H, W] with 1, 3 or 4 channels.")
        pixels = pixels.transpose(1, 2, 0)
    _check_size(pixels.shape[1::-1], "the array", max_pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    elif pixels.ndim == 3 and (color_format or ("rgb" if _is_tensor(image) else "bgr")) == "bgr":
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height}, no pixels; expected at least one.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height}, {width * height} pixels; at most {max_pixels} are read. Make it smaller, "
            "or raise max_pixels (an argument of preprocess)."
        )


def _square(image: Image, resolution: int, interpolation: Interpolation, resize_mode: ResizeMode) -> NDArray[np.uint8]:
    """Resize, crop, RGB: uint8 [R, R, 3]."""
    width = height = resolution
    if resize_mode == "shortest":
        width, height = (int(resolution * side / min(image.size)) for side in image.size)
    if width * height > MAX_RESIZED_PIXELS:
        raise ImageError(
            f"The image is {image.width} x {image.height}: with its short side resized to {resolution} it would be "
            f"{width} x {height}, more than {MAX_RESIZED_PIXELS} pixels. Crop it to a less extreme shape first."
        )
    left, top = (round((side - resolution) / 2) for side in (width, height))  # round() takes halves to even
    try:
        crop = _resize(image, width, height, interpolation).crop((left, top, left + resolution, top + resolution))
        # Pillow would carry the transparent colour over to RGB, where nothing needs it, and warn if it can't.
        crop.info.pop("transparency", None)
        return np.asarray(crop.convert("RGB"))
    except (ValueError, OSError) as error:
        raise _unfit(image.mode) from error


def _resize(image: Image, width: int, height: int, interpolation: Interpolation) -> Image:
    """`image.resize((width, height), BICUBIC)`, horizontally first in every version of Pillow."""
    from PIL.Image import Resampling

    if image.size == (width, height):
        return image
    if image.mode == "PA":  # Pillow blends palette indices as if they were colours, and then loses the palette
        raise _unfit(image.mode)
    mode = image.mode
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(mode)  # as Pillow does, but once for both passes
    if premultiplied:
        image = image.convert(premultiplied)
    kernel = Resampling[interpolation.upper()]
    image = image.resize((width, image.height), kernel).resize((width, height), kernel)
    return image.convert(mode) if premultiplied else image


def _unfit(mode: str) -> ImageError:
    return ImageError(
        f"the PIL image: Pillow can't resize mode {mode} or make it RGB; expected L, RGB, RGBA or another mode that it "
        "can. Convert the image first."
    )


@contextmanager
def _pillow_silenced() -> Iterator[None]:
    """Without Pillow's warnings: `max_pixels` stands for the one about size; the others concern metadata.

    Locked, because warning filters are shared: of two threads that restore them, the slower one would keep them off.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
