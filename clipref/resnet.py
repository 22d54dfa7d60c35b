"""The modified ResNet of CLIP: pixels to an embedding.

From the CLIP paper, section 2.3 (https://arxiv.org/abs/2103.00020), and OpenAI's clip/model.py. Differs from other
ResNets: three 3x3 convolutions and an average pool as stem; every stride is an average pool, before the convolution
it belongs to (https://arxiv.org/abs/1812.01187, ResNet-D; https://arxiv.org/abs/1904.11486); the last pool is
attention whose only query is the mean.

Axes: N items, R pixels a side, C channels, G = R / 32 positions a side at the end, L = 1 + G*G, E embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .architecture import (
    Activation,
    Family,
    ImageConfig,
    Shape,
    Shapes,
    axis_of,
    check_numbers,
    count_of,
    heads_of,
    linear_shapes,
    side_of,
)
from .errors import ConfigError
from .transformer import Array, Ops, Params, Tap, merge_heads, no_tap, split_heads


@dataclass(frozen=True)
class ResNetConfig(ImageConfig):
    """CLIP's modified ResNet: `layers` counts the bottlenecks of each of the four stages, `width` is the first's."""

    kind: ClassVar[str] = "resnet"
    family: ClassVar[Family] = "resnet"
    title: ClassVar[str] = "ModifiedResNet"

    layers: tuple[int, int, int, int]
    width: int
    heads: int

    @property
    def grid(self) -> int:
        """Positions along one side of the last feature map, which is 32 times smaller than the image."""
        return self.resolution // 32

    @property
    def widest(self) -> int:
        """What the first stage gives."""
        return 4 * self.width * (self.resolution // 4) ** 2

    def check(self, where: str) -> None:
        check_numbers(where, self, ("resolution", "width", "heads"), self.layers, channels=32)
        if len(self.layers) != 4:
            raise ConfigError(f"{where}.layers is {self.layers}; expected the bottlenecks of four stages.")
        if self.resolution % 32 or self.width % 2:
            raise ConfigError(
                f"{where}: a ResNet's resolution must be a multiple of 32 and its width even, "
                f"got {self.resolution} and {self.width}."
            )

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        width = self.width
        shapes: dict[str, Shape] = {}

        def conv_and_norm(conv: str, norm: str, inputs: int, outputs: int, kernel: int) -> None:
            shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
            shapes.update({f"{norm}.{n}": (outputs,) for n in ("weight", "bias", "running_mean", "running_var")})

        conv_and_norm("conv1", "bn1", 3, width // 2, 3)
        conv_and_norm("conv2", "bn2", width // 2, width // 2, 3)
        conv_and_norm("conv3", "bn3", width // 2, width, 3)
        inputs = width
        for stage, blocks in enumerate(self.layers):
            planes = width * 2**stage
            for i in range(blocks):
                block = f"layer{stage + 1}.{i}"
                conv_and_norm(f"{block}.conv1", f"{block}.bn1", inputs, planes, 1)
                conv_and_norm(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
                conv_and_norm(f"{block}.conv3", f"{block}.bn3", planes, 4 * planes, 1)
                if i == 0:
                    conv_and_norm(f"{block}.downsample.0", f"{block}.downsample.1", inputs, 4 * planes, 1)
                inputs = 4 * planes
        shapes["attnpool.positional_embedding"] = (self.grid**2 + 1, inputs)
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes |= linear_shapes(f"attnpool.{name}", inputs, inputs)
        return shapes | linear_shapes("attnpool.c_proj", inputs, embed_dim)

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        return "visual.layer1.0.conv1.weight" in names

    @classmethod
    def infer(cls, shapes: Shapes, activation: Activation, heads: int | None) -> tuple[Any, int]:
        width = axis_of(shapes, "visual.layer1.0.conv1.weight", 0)
        one, two, three, four = (count_of(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
        vision = cls(
            resolution=32 * side_of(axis_of(shapes, "visual.attnpool.positional_embedding", 0)),
            layers=(one, two, three, four),
            width=width,
            heads=heads or heads_of(32 * width, "vision"),
        )
        return vision, axis_of(shapes, "visual.attnpool.c_proj.weight", 0)


def conv_norm(ops: Ops, x: Array, conv: Params, norm: Params, stride: int = 1) -> Array:
    """A convolution that keeps the size (up to its stride) and its BatchNorm: [N, C, R, R] -> [N, C', R', R']."""
    padding = conv["weight"].shape[-1] // 2
    return ops.batch_norm(ops.conv2d(x, **conv, stride=stride, padding=padding), **norm)


def bottleneck(
    ops: Ops, x: Array, stride: int, tap: Tap, name: str,
    *, conv1: Params, bn1: Params, conv2: Params, bn2: Params, conv3: Params, bn3: Params,
    downsample: Any = None,
) -> Array:  # fmt: skip
    """[N, C, R, R] -> [N, 4P, R / stride, R / stride] through P planes."""
    y = tap(f"{name}.relu1", ops.relu(conv_norm(ops, x, conv1, bn1)))  # [N, P, R, R]
    y = tap(f"{name}.relu2", ops.relu(conv_norm(ops, y, conv2, bn2)))
    y = y if stride == 1 else tap(f"{name}.avgpool", ops.avg_pool(y, stride))  # [N, P, R', R']
    y = tap(f"{name}.bn3", conv_norm(ops, y, conv3, bn3))  # [N, 4P, R', R']
    if downsample is not None:
        x = x if stride == 1 else tap(f"{name}.downsample.-1", ops.avg_pool(x, stride))  # [N, C, R', R']
        conv, norm = downsample
        x = tap(f"{name}.downsample", conv_norm(ops, x, conv, norm))  # [N, 4P, R', R']
    return tap(name, ops.relu(y + x))


def attention_pool(
    ops: Ops, x: Array, heads: int,
    *, positional_embedding: Array, q_proj: Params, k_proj: Params, v_proj: Params, c_proj: Params,
) -> Array:  # fmt: skip
    """[N, C, G, G] -> [N, E]"""
    n, channels, rows, columns = x.shape
    x = x.reshape(n, channels, rows * columns).swapaxes(1, 2)  # [N, G*G, C]
    x = ops.add_positions(ops.prepend_mean(x), positional_embedding)  # [N, L, C]
    q = split_heads(ops.linear(x[:, :1], **q_proj), heads)  # [N, H, 1, D]
    k = split_heads(ops.linear(x, **k_proj), heads)  # [N, H, L, D]
    v = split_heads(ops.linear(x, **v_proj), heads)
    y = merge_heads(ops.attention(q, k, v))  # [N, 1, C]
    return ops.linear(y[:, 0], **c_proj)


def encode_image(
    ops: Ops, pixels: Array, config: ResNetConfig, tap: Tap = no_tap,
    *, conv1: Params, bn1: Params, conv2: Params, bn2: Params, conv3: Params, bn3: Params,
    layer1: Sequence[Params], layer2: Sequence[Params], layer3: Sequence[Params], layer4: Sequence[Params],
    attnpool: Params,
) -> Array:  # fmt: skip
    """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised."""
    x = tap("visual.relu1", ops.relu(conv_norm(ops, pixels, conv1, bn1, stride=2)))  # [N, C/2, R/2, R/2]
    x = tap("visual.relu2", ops.relu(conv_norm(ops, x, conv2, bn2)))
    x = tap("visual.relu3", ops.relu(conv_norm(ops, x, conv3, bn3)))  # [N, C, R/2, R/2]
    x = tap("visual.avgpool", ops.avg_pool(x, 2))  # [N, C, R/4, R/4]
    for stage, layer in enumerate((layer1, layer2, layer3, layer4), start=1):  # 4C 8C 16C 32C; R/4 R/8 R/16 R/32
        for i, block in enumerate(layer):
            stride = 2 if i == 0 and stage > 1 else 1
            x = bottleneck(ops, x, stride, tap, f"visual.layer{stage}.{i}", **block)
    return tap("visual", attention_pool(ops, x, config.heads, **attnpool))  # [N, E]


TOWERS = {ResNetConfig: encode_image}
