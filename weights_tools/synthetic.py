"""Checkpoints made from a seed, for any configuration: `python -m clipref.weights_tools.synthetic clip/RN50 OUT`.

They have the names, shapes and dtypes of the published checkpoints, and the same bytes on every platform and with every
version of numpy: values come from a bit generator's raw output (Philox, https://doi.org/10.1145/2063384.2063405), keyed
by seed, style and tensor name, through integer sums and one rounding. No value depends on another tensor, so a single
one can be made alone.

Two styles. `plain` is what initialisation gives: every channel alike, activations of order one through the whole depth.
`trained` has what training leaves behind and rounding errors feed on: in the transformers a few residual channels tens
of times larger than the rest, the same ones from the first block to the last; LayerNorm and BatchNorm gains spread over
orders of magnitude. Products after a LayerNorm are smaller there by as much as its gains are larger, so that attention
stays as soft as in a trained network; a saturated one would amplify every rounding error a hundredfold.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.config import PUBLISHED, ClipConfig, Shape, tensor_shapes
from clipref.errors import InputError

from .folder import new_folder, write_config, write_tensors

Array: TypeAlias = NDArray[Any]
Style: TypeAlias = Literal["plain", "trained"]
Storage: TypeAlias = Literal["mixed", "float32"]

STYLES = ("plain", "trained")

# Sum of four 16-bit integers: mean 2 * (2**16 - 1), variance 4 * (2**32 - 1) / 12.
_MEAN = 2 * 65535
_UNIT = 1.0 / math.sqrt((2.0**32 - 1.0) / 3.0)
_BLOCK = 2**16  # words at a time, which stay in the cache
_HALVES = np.uint64(0x0000FFFF0000FFFF)  # the lower 16 bits of each 32

# What OpenAI's convert_weights (clip/model.py) leaves in float32: LayerNorm, BatchNorm, embeddings, the logit scale.
_FLOAT32 = re.compile(r".*(embedding(\.weight)?|ln_\w+\.\w+|bn\d\.\w+|downsample\.1\.\w+)|logit_scale")


def tensors(
    config: ClipConfig, seed: int = 0, style: Style = "plain", storage: Storage = "mixed"
) -> Iterator[tuple[str, Array]]:
    """Every tensor of a checkpoint, name and value, one at a time.

    `storage` "mixed" gives float16 where OpenAI's checkpoints have it and float32 elsewhere; "float32" gives the same
    values in float32. Raises InputError for an unknown style or storage.
    """
    for name, shape in tensor_shapes(config).items():
        yield name, _tensor(config, name, shape, seed, style, storage)


def tensor(config: ClipConfig, name: str, seed: int = 0, style: Style = "plain", storage: Storage = "mixed") -> Array:
    """One tensor of those that `tensors` gives."""
    return _tensor(config, name, tensor_shapes(config)[name], seed, style, storage)


def _tensor(config: ClipConfig, name: str, shape: Shape, seed: int, style: Style, storage: Storage) -> Array:
    if style not in STYLES or storage not in ("mixed", "float32"):
        raise InputError(f"style {style!r}, storage {storage!r}; expected one of {STYLES}, and 'mixed' or 'float32'.")
    value = _value(config, name, shape, style, f"{seed} {style}")
    return value.astype(dtype_of(name, "mixed")).astype(dtype_of(name, storage), copy=False)


def dtype_of(name: str, storage: Storage) -> np.dtype[Any]:
    """The dtype in which a tensor is stored."""
    return np.dtype("<f4" if storage == "float32" or _FLOAT32.fullmatch(name) else "<f2")


def generator(key: str) -> np.random.Philox:
    """The stream of 64-bit words that only `key` decides."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def raw(key: str, n: int) -> NDArray[np.uint64]:
    """The first n words of a key's stream."""
    return np.asarray(generator(key).random_raw(n))


def normal(key: str, n: int) -> NDArray[np.float64]:
    """n values of mean 0 and variance 1, nearly normal (the sum of four uniform ones), at most 3.5."""
    stream, values = generator(key), np.empty(n)
    for start in range(0, n, _BLOCK):
        words = stream.random_raw(min(_BLOCK, n - start))
        pairs = (words & _HALVES) + (words >> np.uint64(16) & _HALVES)  # two sums of two, of 17 bits each
        total = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
        np.multiply(total.view(np.int64) - _MEAN, _UNIT, out=values[start : start + _BLOCK])
    return values


def uniform(key: str, n: int) -> NDArray[np.float64]:
    """n values in [0, 1), multiples of 2**-53."""
    return np.asarray((raw(key, n) >> np.uint64(11)) * 2.0**-53, np.float64)


def _value(config: ClipConfig, name: str, shape: Shape, style: Style, salt: str) -> Array:
    n, key = math.prod(shape), f"{salt} {name}"
    if name == "logit_scale":
        return np.array(4.6051702)  # ln 100, where training clips it
    if name.endswith("running_mean"):
        return normal(key, n) * 0.2
    if name.endswith("running_var"):
        return _variance(key, n, style)
    if re.fullmatch(r".*(ln_\w+|bn\d|downsample\.1)\.(weight|bias)", name):
        return _norm(config, name, n, style, key)
    if name.endswith("bias"):
        value = normal(key, n) * 0.02
        if style == "trained" and name.endswith("mlp.c_proj.bias"):
            # Every block pushes the outlying channels the same way, as far as needed to stay above what blocks add.
            factors = _outliers(name, n)
            value = np.where(factors > 1, 0.02 * factors, value)
        return value
    if "embedding" in name:
        # Trained CLIPs have a few residual channels far above the rest, from the first layer on.
        value = normal(key, n).reshape(shape) * (0.04 if "token" in name else 0.02)
        if name == "visual.class_embedding" or "attnpool" in name:
            value *= 2.0
        return value * _outliers(name, shape[-1]) if style == "trained" and "attnpool" not in name else value
    value = normal(key, n).reshape(shape)
    value *= _gain(config, name, style)
    value /= math.sqrt(_fan_in(name, shape))
    if style == "trained" and config.vision.family == "vit" and len(shape) == 4:
        value *= _outliers(name, shape[0])[:, None, None, None]
    if config.vision.family == "resnet" and len(shape) == 4:
        # A convolution's channels vary as much as its BatchNorm has seen them vary, as in a trained network.
        norm = re.sub(r"conv(\d)\.weight", r"bn\1", name).replace("downsample.0.weight", "downsample.1")
        value *= np.sqrt(_variance(f"{salt} {norm}.running_var", shape[0], style))[:, None, None, None]
    return value


def _fan_in(name: str, shape: Shape) -> int:
    return shape[0] if name in ("visual.proj", "text_projection") else math.prod(shape[1:])


def _gain(config: ClipConfig, name: str, style: Style) -> float:
    """How much a product changes the size of what it is given; residual branches are small, so that depth adds up."""
    if style == "trained" and ".resblocks." in name:
        return 0.1 if name.endswith(("out_proj.weight", "mlp.c_proj.weight")) else 0.45
    if name.endswith(("out_proj.weight", "mlp.c_proj.weight")):
        return 0.5
    if name.endswith(("q_proj.weight", "k_proj.weight", "in_proj_weight")):
        return 1.2
    return 1.4 if config.vision.family == "resnet" and ".conv" in name else 1.0


def _variance(key: str, n: int, style: Style) -> NDArray[np.float64]:
    """Running variances of a BatchNorm."""
    return _spread(key, n, 3) if style == "trained" else uniform(key, n) + 0.5


def _norm(config: ClipConfig, name: str, n: int, style: Style, key: str) -> Array:
    """Gain or bias of a LayerNorm or BatchNorm."""
    if name.endswith("bias"):
        return normal(key, n) * 0.1
    last = re.fullmatch(r"visual\.layer\d\.\d+\.bn3\.weight", name) is not None
    if style == "plain":
        gain = uniform(key, n) * 0.5 + 0.75
    elif name.startswith("visual") and config.vision.family == "resnet":
        gain = _spread(key, n, 2) * 0.6  # whose mean square is about 1: no later norm takes growth back
    elif name == "visual.ln_pre.weight":
        gain = uniform(key, n) * 0.5 + 0.75  # it feeds the residual stream, whose outliers are few
    else:
        gain = _spread(key, n, 3)
        if name.endswith(("ln_post.weight", "ln_final.weight")):
            gain /= _outliers(name, n)  # or all embeddings would point along the outliers
    return gain * (0.3 if last else 1.0)


def _spread(key: str, n: int, octaves: int) -> NDArray[np.float64]:
    """Positive values around 1, most within 2**-octaves to 2**octaves, by exact powers of two; one in 64 beyond."""
    power = np.rint(np.clip(normal(key + " power", n) * octaves / 2, -octaves, octaves)).astype(np.int64)
    power = np.where(uniform(key + " rare", n) < 1 / 64, power * 2, power)
    return np.ldexp(uniform(key, n) * 0.5 + 0.75, power)


def _outliers(name: str, width: int) -> NDArray[np.float64]:
    """Factors of a tower's residual channels: 1, but for a few channels, the same in every layer, 20 to 60."""
    tower = "visual" if name.startswith("visual") else "text"
    factors = np.ones(width)
    words = raw(f"outliers {tower} {width}", 2 * max(2, width // 256))
    for channel, size in zip(words[::2], words[1::2], strict=True):
        factors[int(channel) % width] = 20.0 + int(size) % 41
    return factors


def write(
    path: str | os.PathLike[str],
    config: ClipConfig,
    seed: int = 0,
    style: Style = "plain",
    storage: Storage = "mixed",
) -> Path:
    """A checkpoint folder with `model.safetensors` and `config.json`, made beside `path` and renamed.

    Tensors are written as they are made, so no more than one is in memory. Raises InputError if `path` exists.
    """
    shapes = tensor_shapes(config)
    layout = {name: ("F16" if dtype_of(name, storage).itemsize == 2 else "F32", shapes[name]) for name in shapes}
    with new_folder(path) as folder:
        write_tensors(folder / "model.safetensors", layout, tensors(config, seed, style, storage))
        write_config(folder, config)
    return Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=PUBLISHED, metavar="MODEL", help=", ".join(PUBLISHED))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", choices=STYLES, default="plain")
    parser.add_argument("--storage", choices=("mixed", "float32"), default="mixed")
    args = parser.parse_args()
    print(write(args.out, PUBLISHED[args.model], args.seed, args.style, args.storage))


if __name__ == "__main__":
    main()
