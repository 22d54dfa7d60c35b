"""What an embedding is a sum of: layer, head and position, each with its own vector.

A transformer adds to a residual stream: what it began with, and what every head takes from every position, and every
MLP. Of the pooled token, the last LayerNorm and the projection are linear but for one number, the deviation sigma, so
the embedding is a sum too ("direct effects", https://arxiv.org/abs/2310.05916, section 3):

    e = b P + sum over c of (C c / sigma * g) P        C = I - 1 1^T / W, the mean taken out

with gain g and bias b of ln_post (or ln_final), P the projection, and c what was added: the stream's beginning, each
out_proj's bias, each MLP, and a[h, t] W_O[h] v[h, t] of each layer, head and position. That paper's code gives each
part an equal share of the mean; here each part loses its own, which is what C says. A ResNet has no such stream up to
its attention pool, whose output is such a sum: e = b_c + sum over h, t of a[h, t] W_c[h] v[h, t].

The sum is exact. What a part would be worth alone is not said by it: sigma and the attention weights depend on all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import ops
from ..clip import CLIP
from ..errors import InputError, WeightsError
from ..similarity import cosines, have_direction, unit_vectors
from ..tracing import Trace
from .items import (
    Item,
    check_pooling,
    directions_of,
    one_item,
    pooled_position,
    pooled_token,
    reference_trace,
    toward_directions,
    transformer_of,
)

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """Cosines [T] of an item with T texts or images, and the parts that they are sums of.

    `parts` has the names and axes of `Decomposition.parts`, with T in the place of E; everything in it sums to the
    cosines. `grid` is (rows, columns) of an image's positions but the first, None of a text.
    """

    cosines: Array
    parts: dict[str, Array]
    grid: tuple[int, int] | None

    @property
    def positions(self) -> Array:
        """What each position gives through all heads of all layers: [positions, T]."""
        summed: Array = self.parts["attention"].sum(axis=(0, 1))
        return summed

    @property
    def maps(self) -> Array:
        """What each patch of an image gives: [T, rows, columns]. Raises InputError for a text."""
        if self.grid is None:
            raise InputError("A text has no map; its positions are its tokens: `positions`.")
        maps: Array = self.positions[1:].T.reshape(-1, *self.grid)
        return maps


@dataclass(frozen=True)
class Decomposition:
    """An embedding [E], and the `parts` that it is the sum of, by name, arrays [..., E].

    - `attention` [layers, heads, positions, E]: what a head took from a position. Position 0 of an image is the class
      token, or a ResNet's mean; the others are its patches, row by row. Those of a text are its tokens. A ResNet has
      one layer, its attention pool.
    - `attention_bias` [layers, E], `mlp` [layers, E]: the biases of attention's output, and the MLPs.
    - `input` [E]: what the pooled token began with. `bias` [E]: the last LayerNorm's, or the pool's.

    All are counted from 0. `grid` is as in `Scores`; `ids` [positions] are the tokens of a text.
    """

    embedding: Array
    parts: dict[str, Array]
    grid: tuple[int, int] | None
    ids: Array | None

    def total(self) -> Array:
        """The sum over everything [E], added up in float64, which is the embedding but for rounding."""
        sums = [part.reshape(-1, part.shape[-1]).sum(axis=0, dtype=np.float64) for part in self.parts.values()]
        summed: Array = np.sum(sums, axis=0).astype(self.embedding.dtype)
        return summed

    def scores(self, text_embeddings: Any) -> Scores:
        """The same of the cosines with embeddings [T, E] of any length: each part's share of each cosine."""
        directions = directions_of(text_embeddings, len(self.embedding))
        length = np.linalg.norm(self.embedding)
        parts = {name: part @ directions.T / length for name, part in self.parts.items()}
        return Scores(cosines(unit_vectors(self.embedding), directions), parts, self.grid)


class Run(NamedTuple):
    """One item's forward pass, as much of it as its embedding is the sum of. For each layer: attention of the pooled
    token [H, L], values [H, L, D], out_proj's weight [W, W] and bias [W], the MLP's result [W]; and what comes of it.
    """

    embedding: Array  # [E]
    attention: list[Array]
    values: list[Array]
    out_weights: list[Array]
    out_biases: list[Array]
    mlps: list[Array]
    beginning: Array | None  # [W]
    readout: Array  # [W, E]: what the embedding is of what was added to the stream; of a ResNet nothing is to be done
    bias: Array  # [E]
    grid: tuple[int, int] | None
    ids: Array | None


def decompose(
    model: CLIP,
    *,
    image: Any = None,
    pixels: Any = None,
    text: str | None = None,
    ids: Any = None,
    input_color_format: str | None = None,
) -> Decomposition:
    """The parts of the embedding of one image (or pixels [1, 3, R, R]) or one text (or ids [1, T]).

    Computed by the reference in the model's dtype; `from_pretrained(..., backend="reference", dtype="float64")` for the
    last digits. Its memory is that of the parts: 15 MB for ViT-B-32, 0.7 GB for ViT-L-14-336px; `direct_effect` needs
    E times less. Raises InputError, ImageError, TextError or WeightsError.
    """
    run = forward(model, one_item(model, image, pixels, text, ids, input_color_format))
    return Decomposition(run.embedding, parts(run, None), run.grid, run.ids)


def direct_effect(
    model: CLIP,
    toward: Any,
    *,
    image: Any = None,
    pixels: Any = None,
    text: str | None = None,
    ids: Any = None,
    input_color_format: str | None = None,
) -> Scores:
    """`decompose(...).scores(toward)` without its vectors: little more than one forward pass.

    `toward` is texts, or embeddings [T, E] of texts or images.
    """
    run = forward(model, one_item(model, image, pixels, text, ids, input_color_format))
    directions = toward_directions(model, toward)
    length = np.linalg.norm(run.embedding)
    shares = {name: part / length for name, part in parts(run, directions).items()}
    return Scores(cosines(unit_vectors(run.embedding), directions), shares, run.grid)


def parts(run: Run, directions: Array | None) -> dict[str, Array]:
    """A run's parts as vectors [..., E], or as their products [..., T] with directions [T, E]."""
    readout, bias = (x if directions is None else x @ directions.T for x in (run.readout, run.bias))
    heads = [
        head_parts(*layer, readout) for layer in zip(run.attention, run.values, run.out_weights, strict=True)
    ]  # [H, L, K] each
    found = {"attention": np.stack(heads), "bias": bias}
    if run.beginning is not None:
        found["attention_bias"] = np.stack(run.out_biases) @ readout
        found["mlp"] = np.stack(run.mlps) @ readout
        found["input"] = run.beginning @ readout
    return found


def head_totals(run: Run) -> Array:
    """What each head adds to the embedding from all positions together: [layers, heads, E]."""
    layers = zip(run.attention, run.values, run.out_weights, strict=True)
    return np.stack([head_parts(a, v, weight, run.readout).sum(axis=1) for a, v, weight in layers])


def head_parts(attention: Array, values: Array, out_weight: Array, readout: Array) -> Array:
    """What each head took from each position, read out: attention [H, L], values [H, L, D], out_weight [W, H*D],
    readout [W, K] -> [H, L, K].
    """
    heads, length, channels = values.shape
    weight = out_weight.T.reshape(heads, channels, -1)  # [H, D, W]
    taken = attention[:, :, None] * values  # [H, L, D]
    width, outputs = readout.shape
    # Three matrices in a row are multiplied in the order that takes fewer products.
    weight_first = width * outputs * (heads * channels + length * channels * heads // width)
    taken_first = heads * length * width * (channels + outputs)
    found: Array = taken @ (weight @ readout) if weight_first < taken_first else (taken @ weight) @ readout
    return found


def end_readout(x: Array, gain: Array, projection: Array) -> Array:
    """What a LayerNorm and the projection [W, E] make of a summand of x [W], as a matrix [W, E]: C g P / sigma."""
    sigma = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    scaled = gain[:, None] * projection
    centred: Array = (scaled - scaled.mean(axis=0)) / sigma
    return centred


def forward(model: CLIP, item: Item) -> Run:
    """The forward pass of one item by the reference. Raises WeightsError where its embedding has no direction."""
    run = _pool_run(model, item) if transformer_of(model, item.tower) is None else _transformer_run(model, item)
    if not have_direction(run.embedding):
        raise WeightsError(
            "The embedding is zero or not finite, because of the checkpoint's weights; are they damaged?"
        )
    return run


def _pool_run(model: CLIP, item: Item) -> Run:
    seen = reference_trace(model, item, ["visual.attnpool.[qkv]", "visual"])
    grid, pool = model.config.vision.grid, model.reference.visual()["attnpool"]
    attention, values = pooled_attention(seen, "visual.attnpool", 0)
    weight, bias = pool["c_proj"]["weight"], pool["c_proj"]["bias"]
    same = np.eye(len(weight), dtype=weight.dtype)
    return Run(seen["visual"][0], [attention], [values], [weight], [], [], None, same, bias, (grid, grid), None)


def _transformer_run(model: CLIP, item: Item) -> Run:
    transformer = transformer_of(model, item.tower)
    assert transformer is not None
    image = item.tower == "visual"
    kept = [f"{name}.{part}" for name in transformer.names for part in ("attn.[qkv]", "mlp")]
    ends = ["visual"] if image else ["text_projection", "ids"]
    seen = reference_trace(model, item, [*kept, transformer.names[-1], transformer.beginning, *ends])
    check_pooling(seen[transformer.names[-1]])
    pooled = pooled_position(item, seen)
    pairs = [pooled_attention(seen, f"{name}.attn", pooled) for name in transformer.names]
    out = [block["attn"]["out_proj"] for block in transformer.blocks]
    return Run(
        seen[ends[0]].reshape(-1),
        [attention for attention, _ in pairs],
        [values for _, values in pairs],
        [linear["weight"] for linear in out],
        [linear["bias"] for linear in out],
        [pooled_token(seen[f"{name}.mlp"], pooled) for name in transformer.names],
        pooled_token(seen[transformer.beginning], pooled),
        end_readout(
            pooled_token(seen[transformer.names[-1]], pooled), transformer.end["weight"], transformer.projection
        ),
        transformer.end["bias"] @ transformer.projection,
        (model.config.vision.grid,) * 2 if image else None,
        None if image else seen["ids"][0],
    )


def pooled_attention(seen: Trace, name: str, position: int) -> tuple[Array, Array]:
    """Attention of the pooled token to all positions, each of which it may see: [H, L]; and the values [H, L, D]."""
    q, k, v = (seen[f"{name}.{part}"] for part in "qkv")
    row = min(position, q.shape[2] - 1)  # the last block has no other query
    identity = np.eye(k.shape[2], dtype=k.dtype)  # what attention makes of it is attention itself
    return ops.attention(q[:, :, row : row + 1], k, identity)[0, :, 0], v[0]
