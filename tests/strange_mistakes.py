"""Twenty of strangers.py's engine with a mistake each.

They are of kinds that people have reported of other engines (a source stands beside those that have one), and were
written before anybody had looked at the catalogue of faults. So they ask what the catalogue can't: what the suite does
about something that it has never seen.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

from clipref import ops
from clipref.config import OPENAI_MEAN, OPENAI_STD

from .strangers import Array, Stranger, vocabulary

# --- twelve wrong towers ----------------------------------------------------------------------------------------------


class ClassTokenLast(Stranger):
    """The class token is put behind the patches, positions are counted as before, and the last is pooled.

    https://github.com/ggml-org/llama.cpp/issues/25814
    """

    def place(self, x: Array) -> Array:
        token = np.broadcast_to(self.visual["class_embedding"], (len(x), 1, x.shape[-1]))
        return np.concatenate([x, token], 1) + self.visual["positional_embedding"]

    def pool(self, x: Array) -> Array:
        return x[:, -1]


class PositionsResampled(Stranger):
    """Positions are resized to the grid though it is the same, with an offset of a tenth, as code of DINOv2's does.

    https://github.com/facebookresearch/dinov2/issues/8
    """

    def place(self, x: Array) -> Array:
        positions = self.visual["positional_embedding"]
        side = math.isqrt(len(positions) - 1)
        at = (np.arange(side) + 0.5) * side / (side + 0.1) - 0.5
        low = np.clip(np.floor(at).astype(int), 0, side - 1)
        high = np.clip(low + 1, 0, side - 1)
        share = np.clip(at - low, 0, 1).astype(np.float32)
        weights = np.zeros((side, side), np.float32)
        np.add.at(weights, (np.arange(side), low), 1 - share)
        np.add.at(weights, (np.arange(side), high), share)
        grid = np.einsum("yi,xj,ijw->yxw", weights, weights, positions[1:].reshape(side, side, -1))
        token = self.visual["class_embedding"] + positions[0]
        patches = x + grid.reshape(side * side, -1)
        return np.concatenate([np.broadcast_to(token, (len(x), 1, x.shape[-1])), patches], 1)


class MaskMultiplies(Stranger):
    """The causal mask is multiplied in, so that what is to come has the score 0 and is seen a little."""

    def mask(self, scores: Array, length: int) -> Array:
        return scores * np.tri(length, dtype=np.float32)


class ErfOfThreeTerms(Stranger):
    """The error function by Abramowitz and Stegun 7.1.25, off by 2.5e-5, where a shading language has none."""

    def erf(self, x: Array) -> Array:
        t = 1 / (1 + 0.47047 * abs(x))
        return np.sign(x) * (1 - ((0.7478556 * t - 0.0958798) * t + 0.3480242) * t * np.exp(-x * x))


class EpsOutside(Stranger):
    """LayerNorm adds eps to the deviation, not to the variance under the root.

    As the annotated transformer does: https://nlp.seas.harvard.edu/annotated-transformer/
    """

    def norm(self, x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / (np.sqrt((centred**2).mean(-1, keepdims=True)) + 1e-5) * weight + bias


class NormedResidual(Stranger):
    """The MLP's result is added to what LayerNorm gave, and not to what it was given."""

    def add_mlp(self, x: Array, y: Array, name: str, config: Any, c_fc: Any, c_proj: Any) -> Array:
        return super().add_mlp(y, y, name, config, c_fc, c_proj)


class VarianceFoldedWithoutEps(Stranger):
    """BatchNorm folded into the convolution before it as weight / (sqrt(variance) + eps)."""

    def batch_norm(self, x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
        scale = weight / (np.sqrt(running_var) + np.float32(1e-5))
        return x * scale[:, None, None] + (bias - running_mean * scale)[:, None, None]


class ScaleBeforeBias(Stranger):
    """The scale of attention folded into the weight of the queries, but not into their bias."""

    def queries(self, x: Array, weight: Array, bias: Array, heads: int) -> Array:
        return x @ (weight.T * np.float32((weight.shape[0] // heads) ** -0.5)) + bias


class PositionsFromOne(Stranger):
    """Positions are counted from 1, as RoBERTa's are behind the padding index; the last one twice.

    https://github.com/huggingface/transformers/blob/main/src/transformers/models/roberta/modeling_roberta.py
    """

    def positions(self, ids: Array) -> Array:
        return np.minimum(super().positions(ids) + 1, ids.shape[1] - 1)


class LastEnd(Stranger):
    """Texts are pooled at the last end-of-text token."""

    def ends(self, ids: Array) -> Array:
        return ids.shape[1] - 1 - ids[:, ::-1].argmax(1)


class PaddedKeys(Stranger):
    """A kernel's keys are padded with zeros to a multiple of 8, and take part in the softmax."""

    def softmax(self, scores: Array) -> Array:
        length = scores.shape[-1]
        padded = np.concatenate([scores, np.zeros((*scores.shape[:-1], -length % 8), scores.dtype)], -1)
        return super().softmax(padded)[..., :length]


class PaddedAsTensorFlow(Stranger):
    """The first convolution is padded as TensorFlow's SAME: with stride 2 nothing left and above, two lines else."""

    def first_conv(self, x: Array, weight: Array) -> Array:
        return ops.conv2d(np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), weight, stride=2)


# --- four wrong tokenizers --------------------------------------------------------------------------------------------


class LongestFirst(Stranger):
    """A word is cut into the longest symbols there are from its beginning, instead of by merges.

    https://github.com/monatis/clip.cpp
    """

    def merge(self, symbols: list[str]) -> list[str]:
        _, _, ids = vocabulary()
        word, found = "".join(symbols).removesuffix("</w>"), []
        while word:
            cuts = (word[:end] + ("</w>" if end == len(word) else "") for end in range(len(word), 0, -1))
            found.append(next(cut for cut in cuts if cut in ids))
            word = word[len(found[-1].removesuffix("</w>")) :]
        return found


class Surrogates(Stranger):
    """Characters beyond 16 bits are taken for two, of which neither can be encoded, as where strings are UTF-16."""

    def utf8(self, word: str) -> bytes:
        return "".join("\ufffd\ufffd" if letter > "\uffff" else letter for letter in word).encode()


class EndAtTheEnd(Stranger):
    """The end of text is put into the last place, behind the padding.

    https://github.com/keras-team/keras-hub/issues/2018
    """

    def fill(self, row: Array, ids: list[int]) -> None:
        row[: len(ids) - 1] = ids[:-1]
        row[-1] = ids[-1]


class LowerAscii(Stranger):
    """Only A to Z become lower case, as with C's tolower."""

    def lower(self, text: str) -> str:
        return "".join(letter.lower() if letter.isascii() else letter for letter in text)


# --- four wrong preprocessings ----------------------------------------------------------------------------------------


class Truncates(Stranger):
    """The resize's floats become whole levels by cutting off, as astype(uint8) does."""

    def resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.mode not in ("L", "RGB"):
            return super().resize(image, width, height)
        channels = [
            channel.convert("F").resize((width, image.height), Image.Resampling.BICUBIC)
            .resize((width, height), Image.Resampling.BICUBIC) for channel in image.split()
        ]  # fmt: skip
        cut = [Image.fromarray(np.clip(np.asarray(x), 0, 255).astype(np.uint8)) for x in channels]
        return Image.merge(image.mode, cut)


class MeanOfBgr(Stranger):
    """The mean is written down in the order blue, green, red; the deviation isn't."""

    def normalise(self, rgb: Array) -> Array:
        mean, std = (np.array(x, np.float32)[:, None, None] for x in (OPENAI_MEAN[::-1], OPENAI_STD))
        return (rgb - mean) / std


class LinearLight(Stranger):
    """Colours are resized in linear light, and not as the levels that they are."""

    def resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.mode not in ("L", "RGB"):
            return super().resize(image, width, height)
        channels = []
        for channel in image.split():
            light = Image.fromarray((np.asarray(channel, np.float32) / 255) ** 2.2)
            light = light.resize((width, image.height), Image.Resampling.BICUBIC)
            light = light.resize((width, height), Image.Resampling.BICUBIC)
            levels = 255 * np.clip(np.asarray(light), 0, 1) ** (1 / 2.2)
            channels.append(Image.fromarray(levels.round().astype(np.uint8)))
        return Image.merge(image.mode, channels)


class ReducingGap(Stranger):
    """Large pictures are halved by boxes first, as Pillow's thumbnail() and reducing_gap=2 do."""

    def resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


MISTAKES = tuple(Stranger.__subclasses__())
