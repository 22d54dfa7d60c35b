"""What each head does: texts along whose directions its output varies from image to image.

TextSpan of "Interpreting CLIP's Image Representation via Text-Based Decomposition" (https://arxiv.org/abs/2310.05916,
algorithm 1): greedy, so another choice of texts may explain as much; the share of the variance that it explains is
exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_array, check_count, is_true, length, listed_labels
from ..clip import CLIP
from ..errors import InputError
from ..loading import progress_bar
from .decomposition import forward, head_totals
from .items import directions_of, one_item

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class TextSpan:
    """The texts that one head's outputs vary along, in the order in which they were chosen.

    `chosen` [steps] are rows of the texts; `explained` [steps] is the share of the outputs' variance that lies in the
    span of the texts up to each.
    """

    chosen: Array
    explained: Array


@dataclass(frozen=True)
class HeadRoles:
    """A TextSpan of every head: `chosen` and `explained` [layers, heads, steps], `labels` the texts they are rows of.

    `spread` [layers, heads] is the variance of a head's output over the images, as a share of the sum over all heads.
    """

    labels: list[str]
    chosen: Array
    explained: Array
    spread: Array


def head_outputs(
    model: CLIP, images: Iterable[Any], *, progress: bool = False, input_color_format: str | None = None
) -> Array:
    """What each head adds to the embedding of each image: [N, layers, heads, E]. One pass an image."""
    found = []
    with progress_bar(length(images), is_true("progress", progress)) as bar:
        for image in images:
            found.append(head_totals(forward(model, one_item(model, image, None, None, None, input_color_format))))
            bar.update(1)
    if not found:
        raise InputError("No images were given; expected at least two, for something to vary.")
    return np.stack(found)


def text_span(outputs: Any, text_embeddings: Any, steps: int = 5) -> TextSpan:
    """Greedy directions among texts [M, E] along which outputs [N, E] vary most. Raises InputError.

    Each step takes the text along which the outputs vary most, and then takes its direction out of outputs and texts.
    """
    expected = "expected finite floats [N, E], N at least 2"
    given = as_array(outputs, "outputs", expected)
    if given.ndim != 2 or len(given) < 2 or given.dtype.kind != "f" or not np.isfinite(given).all():
        raise InputError(f"outputs are {given.dtype} of shape {given.shape}; {expected}.")
    check_count("steps", steps)
    texts = directions_of(text_embeddings, given.shape[1]).astype(np.float64)
    rest = given.astype(np.float64) - given.mean(axis=0, dtype=np.float64)
    whole = float((rest**2).sum())
    chosen: list[int] = []
    explained: list[float] = []
    for _ in range(min(steps, *texts.shape)):
        variances = ((texts @ rest.T) ** 2).sum(axis=1)  # [M]
        variances[chosen] = -1
        best = int(variances.argmax())
        size = np.linalg.norm(texts[best])
        if size < 1e-6:  # all texts that are left lie in the span of those that were chosen
            break
        unit = texts[best] / size
        chosen.append(best)
        rest = rest - np.outer(rest @ unit, unit)
        texts = texts - np.outer(texts @ unit, unit)
        explained.append(1 - float((rest**2).sum()) / whole if whole else 0.0)
    return TextSpan(np.array(chosen), np.array(explained))


def head_roles(
    model: CLIP,
    images: Iterable[Any],
    texts: Iterable[str],
    *,
    steps: int = 3,
    progress: bool = False,
    input_color_format: str | None = None,
) -> HeadRoles:
    """`text_span` of every head over some images, at least two, among some texts, at least as many as `steps`."""
    labels = listed_labels("texts", texts)
    check_count("steps", steps)
    outputs = head_outputs(model, images, progress=progress, input_color_format=input_color_format)
    directions = model.embed_text(labels, normalize=True)
    if len(labels) < steps:
        raise InputError(f"{len(labels)} texts are given; expected at least as many as steps, {steps}.")
    layers, heads = outputs.shape[1:3]
    spans = [[text_span(outputs[:, i, j], directions, steps) for j in range(heads)] for i in range(layers)]
    size = min(len(span.chosen) for row in spans for span in row)
    spread = outputs.var(axis=0).sum(axis=-1)  # [layers, heads]
    return HeadRoles(
        labels,
        np.array([[span.chosen[:size] for span in row] for row in spans]),
        np.array([[span.explained[:size] for span in row] for row in spans]),
        spread / (spread.sum() or 1.0),
    )
