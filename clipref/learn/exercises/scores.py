"""Chapters 1, 7 and 8: cosines, the loss, and what is measured with them."""

from __future__ import annotations

import numpy as np

from ...ops import softmax
from ..grading import Array, Exercise

_random = np.random.Generator(np.random.PCG64(4))


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _cross_entropy(logits: Array) -> float:
    """Mean over rows, the diagonal being right."""
    return float(-np.log(np.diag(softmax(logits))).mean())


def _logits(images: Array, texts: Array, logarithm: float) -> Array:
    return np.exp(logarithm) * _unit(images) @ _unit(texts).T


def _loss(images: Array, texts: Array, logarithm: float) -> float:
    logits = _logits(images, texts, logarithm)
    return (_cross_entropy(logits) + _cross_entropy(logits.T)) / 2


def _loss_of_all(logits: Array) -> float:
    return -float(np.log(np.diag(softmax(logits.ravel()).reshape(logits.shape))).mean())


def _gradient(logits: Array) -> Array:
    same, n = np.eye(len(logits)), len(logits)
    return (softmax(logits) - same + (softmax(logits.T) - same).T) / (2 * n)


def _gap(images: Array, texts: Array) -> float:
    return float(np.linalg.norm(_unit(images).mean(axis=0) - _unit(texts).mean(axis=0)))


_IMAGES, _TEXTS = _random.standard_normal((5, 4)), _random.standard_normal((5, 4)) * 3
_PAIR = _random.standard_normal(6), _random.standard_normal(6) * 2
_RIGHT = _random.standard_normal(40)
_WRONG = np.where(_random.random(40) < 0.2, _RIGHT, _random.standard_normal(40))

EXERCISES = {
    "cosine": Exercise(
        "The cosine of the angle between x [E] and y [E].",
        lambda x, y: _unit(x) @ _unit(y),
        [_PAIR, (np.array([3.0, 4.0]), np.array([-4.0, 3.0])), (np.array([3.0, 4.0]), np.array([6.0, 8.0]))],
        {
            "the vectors keep their lengths; divide by both, or make unit vectors first": lambda x, y: x @ y,
            "the length of x is still in it: divide by that, too": lambda x, y: x @ _unit(y),
            "the length of y is still in it: divide by that, too": lambda x, y: _unit(x) @ y,
            "the lengths aren't under a root: the length is the root of the sum of squares": lambda x, y: (
                x @ y / ((x @ x) * (y @ y))
            ),
            "that is the distance of the unit vectors; it says the same, but is another number": lambda x, y: (
                np.linalg.norm(_unit(x) - _unit(y))
            ),
            "the lengths are sums of absolute values; they are roots of sums of squares": lambda x, y: (
                x @ y / (abs(x).sum() * abs(y).sum())
            ),
        },
    ),
    "probabilities": Exercise(
        "From cosines [N, T] of images with texts and the checkpoint's `logit_scale`, a logarithm, to probabilities of "
        "the texts [N, T].",
        lambda cosines, logarithm: softmax(np.exp(logarithm) * cosines),
        [(_random.uniform(0.1, 0.4, (3, 4)), 3.0), (_random.uniform(0.1, 0.4, (2, 3)), np.log(100.0))],
        {
            "the scale is missing, so that all texts are about as likely": lambda c, s: softmax(c),
            "the scale is stored as a logarithm: take `exp` of it first": lambda c, s: softmax(s * c),
            "divide by the temperature, or multiply by the scale, which is 1 / temperature": lambda c, s: softmax(
                c / np.exp(s)
            ),
            "those are probabilities of the images, of which each column sums to 1; rows should": lambda c, s: (
                softmax(np.exp(s) * c.T).T
            ),
            "they are divided by their sum without `exp`; a softmax is meant": lambda c, s: (
                c / c.sum(axis=-1, keepdims=True)
            ),
        },
    ),
    "loss": Exercise(
        "CLIP's loss of images [N, E] and texts [N, E] of any length, a pair a row, and `logit_scale`, a logarithm.",
        _loss,
        [(_IMAGES, _TEXTS, 1.5), (_IMAGES[:2], _TEXTS[:2], 0.5)],
        {
            "only the texts compete; the images compete for each text, too": lambda x, y, s: _cross_entropy(
                _logits(x, y, s)
            ),
            "only the images compete; the texts compete for each image, too": lambda x, y, s: _cross_entropy(
                _logits(x, y, s).T
            ),
            "that is the sum of both directions; their mean is meant": lambda x, y, s: 2 * _loss(x, y, s),
            "that is the sum over pairs; their mean is meant": lambda x, y, s: len(x) * _loss(x, y, s),
            "the embeddings keep their lengths; make unit vectors first": lambda x, y, s: (
                (_cross_entropy(np.exp(s) * x @ y.T) + _cross_entropy((np.exp(s) * x @ y.T).T)) / 2
            ),
            "the scale is stored as a logarithm: take `exp` of it first": lambda x, y, s: _loss(x, y, np.log(s)),
            "the softmax runs over all pairs at once; it runs over each row, and each column": lambda x, y, s: (
                _loss_of_all(_logits(x, y, s))
            ),
            "the sign is wrong: a loss is what should become small": lambda x, y, s: -_loss(x, y, s),
        },
    ),
    "gradient": Exercise(
        "The gradient [N, N] of CLIP's loss by its logits [N, N], the pairs on the diagonal.",
        _gradient,
        [(_random.standard_normal((4, 4)),), (_random.standard_normal((2, 2)) * 3,)],
        {
            "only the rows' part is there": lambda x: (softmax(x) - np.eye(len(x))) / (2 * len(x)),
            "the columns' softmax isn't turned back": lambda x: (
                (softmax(x) + softmax(x.T) - 2 * np.eye(len(x))) / (2 * len(x))
            ),
            "it isn't divided by the number of pairs": lambda x: _gradient(x) * len(x),
            "the mean of both directions is meant, not their sum": lambda x: _gradient(x) * 2,
            "the sign is wrong: the right pair's logit should grow, so its gradient is negative": lambda x: (
                -_gradient(x)
            ),
            "the right pairs aren't taken off: softmax minus one on the diagonal": lambda x: (
                (softmax(x) + softmax(x.T).T) / (2 * len(x))
            ),
        },
    ),
    "bound": Exercise(
        "The share of scenes whose true text's cosine [N] is larger than the exchanged one's [N].",
        lambda right, wrong: np.mean(right > wrong),
        [(_RIGHT, _WRONG), (np.ones(5), np.ones(5))],
        {
            "a tie isn't a success: a model that can't tell the two would score 1": lambda r, w: np.mean(r >= w),
            "that is how often it is wrong": lambda r, w: np.mean(r < w),
            "that is the mean difference, which a few large ones make; count": lambda r, w: np.mean(r - w),
        },
    ),
    "gap": Exercise(
        "The modality gap of images [N, E] and texts [M, E]: the distance of the means of their unit vectors.",
        _gap,
        [(_IMAGES + 1, _TEXTS[:3]), (_IMAGES[:2], _TEXTS)],
        {
            "the embeddings keep their lengths; make unit vectors first": lambda x, y: np.linalg.norm(
                x.mean(0) - y.mean(0)
            ),
            "that is the mean distance of all pairs; the distance of the two means is meant": lambda x, y: (
                np.linalg.norm(_unit(x)[:, None] - _unit(y), axis=-1).mean()
            ),
            "that is the squared distance": lambda x, y: _gap(x, y) ** 2,
            "the means are made unit vectors again; their distance as they are is meant": lambda x, y: np.linalg.norm(
                _unit(_unit(x).mean(0)) - _unit(_unit(y).mean(0))
            ),
        },
    ),
}
