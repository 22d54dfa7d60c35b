"""The numpy resize against Pillow's, bit for bit, and against what other resizes do instead."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipref import bicubic
from clipref.bicubic import resize_bicubic, resize_bicubic_alpha
from clipref.errors import InputError

Array = np.ndarray
CHANNELS = {"L": 1, "RGB": 3, "CMYK": 4, "YCbCr": 3, "HSV": 3, "LA": 2, "RGBA": 4}
NUMPY = dict.fromkeys(CHANNELS, resize_bicubic) | dict.fromkeys(["LA", "RGBA"], resize_bicubic_alpha)
WITHOUT_ALPHA = {"RGBA": "RGBa", "LA": "La"}


def noise(mode: str, width: int, height: int, seed: int = 0, levels: int = 256) -> Array:
    """[H, W] or [H, W, C]; few levels exercise the clipping, since they overshoot most."""
    generator = np.random.Generator(np.random.PCG64(seed))
    values = generator.integers(0, levels, (height, width, CHANNELS[mode])) * 255 // (levels - 1)
    return values.astype(np.uint8)[..., 0 if mode == "L" else slice(None)]


def pillow(pixels: Array, mode: str, size: tuple[int, int]) -> Array:
    """One axis a call, the horizontal first, as Pillow does in one call up to 12.0."""
    image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    if image.size == size:
        return np.asarray(image)
    image = image.convert(WITHOUT_ALPHA.get(mode, mode))
    for step in [(size[0], image.height), size]:
        image = image.resize(step, Image.Resampling.BICUBIC)
    return np.asarray(image.convert(mode) if mode in WITHOUT_ALPHA else image)


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (50, 40, (28, 22)),
        (50, 40, (50, 22)),
        (50, 40, (28, 40)),
        (50, 40, (50, 40)),
        (13, 37, (91, 53)),
        (13, 37, (29, 11)),
        (37, 113, (9, 27)),
        (1, 1, (7, 5)),
        (1, 211, (3, 613)),
        (211, 1, (1, 1)),
        (300, 2, (7, 2)),
    ],
)
def test_equals_pillow(mode: str, width: int, height: int, size: tuple[int, int]) -> None:
    for levels in (256, 2):
        pixels = noise(mode, width, height, levels=levels)
        resized = NUMPY[mode](pixels, size)
        assert resized.dtype == np.uint8
        assert resized.flags.c_contiguous
        np.testing.assert_array_equal(resized, pillow(pixels, mode, size), strict=True)


sides = st.integers(1, 70)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(CHANNELS)), sides, sides, sides, sides, st.integers(0, 9), st.sampled_from([2, 5, 256]))
def test_equals_pillow_on_any_size(
    mode: str, width: int, height: int, new_width: int, new_height: int, seed: int, levels: int
) -> None:
    pixels, size = noise(mode, width, height, seed, levels), (new_width, new_height)
    np.testing.assert_array_equal(NUMPY[mode](pixels, size), pillow(pixels, mode, size), strict=True)


def test_equals_pillow_in_one_call() -> None:
    """For images that are not much higher than wide, every version of Pillow takes the horizontal pass first."""
    pixels = noise("RGB", 50, 40)
    one_call = Image.fromarray(pixels).resize((28, 22), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize_bicubic(pixels, (28, 22)), np.asarray(one_call), strict=True)


def kernel_of_other_libraries(x: Array) -> Array:
    a, x = -0.75, np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


MUTANTS: dict[str, dict[str, Any]] = {
    "a = -0.75": {"_kernel": kernel_of_other_libraries},
    "bilinear": {"_kernel": lambda x: np.maximum(1 - np.abs(x), 0.0)},
    "narrower support": {"_SUPPORT": 1.5},
    "fewer bits": {"_PRECISION_BITS": 10},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_differs_from_pillow(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise("RGB", 50, 40)
    expected = pillow(pixels, "RGB", (28, 22))
    np.testing.assert_array_equal(resize_bicubic(pixels, (28, 22)), expected)
    for name, value in MUTANTS[mutant].items():
        monkeypatch.setattr(bicubic, name, value)
    assert (resize_bicubic(pixels, (28, 22)) != expected).any()


def test_rounding_once_differs() -> None:
    """Without the 8 bits between the passes, pixels move by a unit."""
    pixels, matrices = noise("L", 50, 40), []
    for size_in, size_out in [(40, 22), (50, 28)]:
        first, weights = bicubic.axis_weights(size_in, size_out, 0, size_out)
        matrix = np.zeros((size_out, size_in + len(weights)))
        for tap, weight in enumerate(weights):
            matrix[np.arange(size_out), first + tap] = weight / 2**22
        matrices.append(matrix[:, :size_in])
    once = np.clip(np.floor(matrices[0] @ pixels @ matrices[1].T + 0.5), 0, 255)
    difference = np.abs(once - resize_bicubic(pixels, (28, 22)))
    assert 0 < difference.max() <= 2


def test_the_vertical_pass_first_differs() -> None:
    pixels = noise("RGB", 50, 40)
    vertical_first = resize_bicubic(pixels.swapaxes(0, 1), (22, 28)).swapaxes(0, 1)
    assert (vertical_first != resize_bicubic(pixels, (28, 22))).any()


def test_alpha_is_not_one_more_colour() -> None:
    pixels = noise("RGBA", 50, 40)
    assert (resize_bicubic(pixels, (28, 22)) != pillow(pixels, "RGBA", (28, 22))).any()


@pytest.mark.parametrize("function", [resize_bicubic, resize_bicubic_alpha])
def test_leaves_its_input_alone(function: Any) -> None:
    pixels = noise("RGBA", 9, 7)
    before = pixels.copy()
    pixels.flags.writeable = False
    for size in [(9, 7), (9, 5), (5, 4)]:
        assert not np.shares_memory(function(pixels, size), pixels)
    np.testing.assert_array_equal(pixels, before)


def test_refuses_what_it_cannot_do() -> None:
    pixels = noise("RGB", 9, 7)
    for bad in (pixels.astype(np.float32), pixels[None], pixels[:0], pixels[0, 0]):
        with pytest.raises(InputError, match="expected uint8"):
            resize_bicubic(bad, (3, 3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1 x 1"):
        resize_bicubic(pixels, (0, 3))
    with pytest.raises(InputError, match="2\\] or"):
        resize_bicubic_alpha(pixels, (3, 3))
