"""From an image file's bytes to pixels: how much is decoding, and how the rest compares with its plain form.

    python benchmarks/preprocessing.py [--resolution 224] [--rounds 60] [--json FILE]

The plain form is what clipref did before the resize in C, kept here: Pillow resizes the whole picture, one axis a call,
then crops. Milliseconds are the process's own CPU time on one thread, medians over rounds in which all take turns; both
forms' pixels are compared bit for bit first.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import alternate, write_json
from PIL import Image

from clipref import preprocess
from clipref.config import OPENAI_MEAN, OPENAI_STD
from clipref.errors import BackendError
from clipref.kernels import pixels
from clipref.preprocessing import open_image

BICUBIC = Image.Resampling.BICUBIC
WITHOUT_ALPHA = {"RGBA": "RGBa", "LA": "La"}


def plain(data: bytes, resolution: int) -> Any:
    """Pixels [3, R, R] in the plain form."""
    image = open_image(data)
    width, height = (int(resolution * side / min(image.size)) for side in image.size)
    mode = image.mode
    if image.size != (width, height):
        image = image.convert(WITHOUT_ALPHA.get(mode, mode))
        image = image.resize((width, image.height), BICUBIC).resize((width, height), BICUBIC).convert(mode)
    left, top = (round((side - resolution) / 2) for side in (width, height))
    rgb = np.asarray(image.crop((left, top, left + resolution, top + resolution)).convert("RGB"))
    found = rgb.transpose(2, 0, 1).astype(np.float32, order="C")
    found /= 255
    found -= np.array(OPENAI_MEAN, np.float32)[:, None, None]
    found /= np.array(OPENAI_STD, np.float32)[:, None, None]
    return found


def of_a_new_size(data: bytes, resolution: int) -> None:
    """As `preprocess` has it when no picture before had this size: the resize's weights are made anew."""
    pixels.across_axis.cache_clear()
    pixels.down_axis.cache_clear()
    preprocess(data, resolution)


def decode(data: bytes) -> None:
    """Decode as Pillow does by itself."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def pictures() -> dict[str, bytes]:
    """Files like photographs: smooth, with noise."""
    generator = np.random.default_rng(0)

    def drawn(width: int, height: int, mode: str = "RGB") -> Image.Image:
        coarse = generator.integers(0, 256, (12, 16, len(mode)), dtype=np.uint8)
        fine = np.asarray(Image.fromarray(coarse.squeeze()).resize((width, height), BICUBIC), np.int16)
        return Image.fromarray((fine + generator.integers(-12, 13, fine.shape)).clip(0, 255).astype(np.uint8))

    def encoded(image: Image.Image, form: str) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **({"quality": 85} if form == "JPEG" else {}))
        return file.getvalue()

    return {
        "JPEG 500 x 400": encoded(drawn(500, 400), "JPEG"),
        "JPEG 640 x 480": encoded(drawn(640, 480), "JPEG"),
        "JPEG 400 x 1000": encoded(drawn(400, 1000), "JPEG"),
        "JPEG 4000 x 3000": encoded(drawn(4000, 3000), "JPEG"),
        "JPEG 200 x 160": encoded(drawn(200, 160), "JPEG"),
        "grey JPEG 500 x 400": encoded(drawn(500, 400, "L"), "JPEG"),
        "RGBA PNG 500 x 400": encoded(drawn(500, 400, "RGBA"), "PNG"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        pixels.library()
        print("resized by: pixels.c")
    except BackendError as error:
        print(f"resized by: Pillow ({error})")
    rows = []
    for name, data in pictures().items():
        if not np.array_equal(preprocess(data, args.resolution), plain(data, args.resolution)):
            raise SystemExit(f"{name}: the pixels differ from the plain form's.")
        calls: dict[str, Callable[[], Any]] = {
            "decode": partial(decode, data),
            "plain": partial(plain, data, args.resolution),
            "now": partial(preprocess, data, args.resolution),
            "a new size": partial(of_a_new_size, data, args.resolution),
        }
        rounds = max(3, args.rounds // 10) if "4000" in name else args.rounds
        taken = alternate(calls, rounds, pause=0.0, clock=time.process_time)
        ms = {form: statistics.median(seconds) * 1e3 for form, seconds in taken.items()}
        beyond, new = ((ms[form] - ms["decode"]) / (ms["plain"] - ms["decode"]) for form in ("now", "a new size"))
        rows.append({"picture": name, **ms, "beyond_decoding": beyond, "beyond_decoding_of_a_new_size": new})
        print(
            f"{name:20} decoding {ms['decode']:6.2f} ms, plain {ms['plain']:6.2f}, now {ms['now']:6.2f}: "
            f"{ms['decode'] / ms['now']:4.0%} decoding, the rest {beyond:.2f} x plain ({new:.2f}, new size), same bits"
        )
    write_json(args.json, {"resolution": args.resolution, "rows": rows})


if __name__ == "__main__":
    main()
