"""Chapters 2, 4 and 5: attention, and what the residual stream adds up to."""

from __future__ import annotations

import numpy as np

from ... import ops
from ..grading import Array, Exercise

_random = np.random.Generator(np.random.PCG64(2))


def _normal(*shape: int) -> Array:
    return _random.standard_normal(shape)


def _scores(q: Array, k: Array) -> Array:
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])


def _attention(q: Array, k: Array, v: Array, visible: Array) -> Array:
    return ops.attention(q, k, v, visible[None])


def _with_mask_value(value: float, q: Array, k: Array, v: Array, visible: Array) -> Array:
    scores = np.where(visible, _scores(q, k), value)
    return ops.softmax(scores) @ v


def _mask_after_softmax(q: Array, k: Array, v: Array, visible: Array) -> Array:
    return (ops.softmax(_scores(q, k)) * visible) @ v


def _over_queries(q: Array, k: Array, v: Array, visible: Array) -> Array:
    scores = np.where(visible, _scores(q, k), -np.inf)
    return ops.softmax(scores.swapaxes(-1, -2)).swapaxes(-1, -2) @ v


def _heads(x: Array, heads: int) -> Array:
    length, width = x.shape
    return x.reshape(length, heads, width // heads).swapaxes(0, 1)


def _strided_heads(x: Array, heads: int) -> Array:
    length, width = x.shape
    return x.reshape(length, width // heads, heads).transpose(2, 0, 1)


def _causal(length: int) -> Array:
    return np.tri(length, dtype=bool)


def _part(c: Array, x: Array, gain: Array, projection: Array) -> Array:
    """The part [E] of the embedding that comes from c [W], a summand of the stream x [W]."""
    sigma = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return ((c - c.mean()) / sigma * gain) @ projection


def _part_uncentred(c: Array, x: Array, gain: Array, projection: Array) -> Array:
    return (c / np.sqrt(x.var() + 1e-5) * gain) @ projection


def _part_of_itself(c: Array, x: Array, gain: Array, projection: Array) -> Array:
    return ((c - c.mean()) / np.sqrt(c.var() + 1e-5) * gain) @ projection


def _part_less_their_mean(c: Array, x: Array, gain: Array, projection: Array) -> Array:
    return ((c - x.mean()) / np.sqrt(x.var() + 1e-5) * gain) @ projection


_QUERY, _KEY, _VALUE = _normal(2, 3, 5, 4) * 2, _normal(2, 3, 5, 4) * 2, _normal(2, 3, 5, 4)
_WIDE = _normal(1, 2, 4, 9), _normal(1, 2, 4, 9), _normal(1, 2, 4, 9)
_SMALL = 0.004  # a stream so small that the 1e-5 under the root counts

EXERCISES = {
    "causal": Exercise(
        "What each of so many tokens may see [L, L], bool: a row is who looks, a column who is seen.",
        _causal,
        [(1,), (4,)],
        {
            "that is what comes after a token; it sees what comes before": lambda n: _causal(n).T,
            "a token sees itself, too": lambda n: np.tri(n, k=-1, dtype=bool),
            "each token sees all of them; a text tower's sees none that comes after it": lambda n: np.ones(
                (n, n), bool
            ),
        },
    ),
    "split_heads": Exercise(
        "From [L, W] to heads [H, L, W / H]: the first head has the first channels, and so on.",
        _heads,
        [(_normal(5, 12), 3), (_normal(2, 6), 2)],
        {
            "the heads are interleaved: they should be blocks of channels, one after another": _strided_heads,
            "`reshape` to [H, L, W / H] at once mixes positions; split the last axis, then move the heads": (
                lambda x, heads: x.reshape(heads, len(x), -1)
            ),
            "the heads are still the second axis; `swapaxes` moves them to the front": lambda x, heads: x.reshape(
                len(x), heads, -1
            ),
        },
    ),
    "attention": Exercise(
        "From q, k and v [N, H, L, D] and visible [L, L] bool to what each position takes [N, H, L, D].",
        _attention,
        [(_QUERY, _KEY, _VALUE, _causal(5)), (*_WIDE, np.ones((4, 4), bool))],
        {
            "the scores aren't divided by the root of D": lambda q, k, v, seen: _attention(
                q * q.shape[-1] ** 0.5, k, v, seen
            ),
            "the scores are divided by D, not by its root": lambda q, k, v, seen: _attention(
                q * q.shape[-1] ** -0.5, k, v, seen
            ),
            "the scores are divided by the root of the number of positions; it is that of the channels D": (
                lambda q, k, v, seen: _attention(q * (q.shape[-1] / q.shape[-2]) ** 0.5, k, v, seen)
            ),
            "the softmax runs over the queries; what each query takes has to sum to 1": _over_queries,
            "hidden scores are 0, a score like any other; they have to be -inf": lambda *a: _with_mask_value(0, *a),
            "hidden weights are set to 0 after the softmax, so that the others don't sum to 1; hide the scores": (
                _mask_after_softmax
            ),
            "the mask is the wrong way round: True is what may be seen": lambda q, k, v, seen: _attention(
                q, k, v, ~seen | np.eye(len(seen), dtype=bool)
            ),
            "the mask isn't used": lambda q, k, v, seen: _attention(q, k, v, np.ones_like(seen)),
            "queries and keys are exchanged": lambda q, k, v, seen: _attention(k, q, v, seen),
            "there is no softmax": lambda q, k, v, seen: np.where(seen, _scores(q, k), 0) @ v,
        },
    ),
    "layer_norm": Exercise(
        "LayerNorm of x [L, W] with gain [W] and bias [W].",
        ops.layer_norm,
        [(_normal(3, 7) + 1, _normal(7), _normal(7)), (_normal(2, 5) * _SMALL, _normal(5), _normal(5))],
        {
            "the 1e-5 under the root is missing": lambda x, g, b: (
                (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * g + b
            ),
            "the 1e-5 belongs under the root, beside the variance": lambda x, g, b: (
                (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5) * g + b
            ),
            "the variance is divided by W - 1; here it is the mean of the squares": lambda x, g, b: (
                (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5) * g + b
            ),
            "the mean isn't taken off": lambda x, g, b: x / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b,
            "mean and variance are those of all positions; each position has its own": lambda x, g, b: (
                (x - x.mean()) / np.sqrt(x.var() + 1e-5) * g + b
            ),
            "mean and variance run over the positions; they run over the channels": lambda x, g, b: (
                (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * g + b
            ),
            "gain and bias are missing": lambda x, g, b: ops.layer_norm(x, np.ones_like(g), np.zeros_like(b)),
        },
    ),
    "part": Exercise(
        "What the embedding has of c [W], a summand of the stream x [W], given the gain [W] and the projection [W, E].",
        _part,
        [
            (_normal(6) + 1, _normal(6) * 3 + 1, _normal(6), _normal(6, 4)),
            (_normal(5) * _SMALL, _normal(5) * _SMALL, _normal(5), _normal(5, 3)),
        ],
        {
            "c keeps its mean; LayerNorm takes the mean off, and so off each summand": _part_uncentred,
            "that is divided by the deviation of c; the one deviation of the whole stream x is meant": _part_of_itself,
            "the mean of the whole stream is taken off c; each summand loses its own": _part_less_their_mean,
            "the 1e-5 under the root is missing": lambda c, x, g, p: (c - c.mean()) / x.std() * g @ p,
            "the gain is missing": lambda c, x, g, p: _part(c, x, np.ones_like(g), p),
            "nothing is divided by the deviation": lambda c, x, g, p: ((c - c.mean()) * g) @ p,
        },
    ),
}
