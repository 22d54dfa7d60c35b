"""Zero-shot classification: labels embedded once, then images classified among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import check_count, is_one_image, listed_labels, shown
from .errors import InputError, TextError, WeightsError
from .ops import softmax
from .similarity import cosines, have_direction, unit_vectors

if TYPE_CHECKING:
    from .model import CLIP

Array: TypeAlias = NDArray[Any]
Texts: TypeAlias = tuple[str, ...]

TEMPLATES = ("a photo of a {}",)


class Classifier:
    """A model with labels; `model.classifier(labels, templates)` makes one.

    `labels` and `templates` are as they were given; `embeddings` [N, E] are the labels' unit vectors, read-only.

    >>> from clipref import AutoModel
    >>> from clipref.weights_tools.shapes.world import scene
    >>> shapes = AutoModel.from_pretrained("clipref/shapes-vit").classifier(["circle", "ring"])
    >>> shapes.labels, shapes.templates, shapes.embeddings.shape
    (('circle', 'ring'), ('a photo of a {}',), (2, 96))
    """

    def __init__(self, model: CLIP, labels: Texts, templates: Texts, embeddings: Array) -> None:
        self.model = model
        self.labels = labels
        self.templates = templates
        self.embeddings = embeddings.view()
        self.embeddings.flags.writeable = False

    def __repr__(self) -> str:
        return f"Classifier({len(self.labels)} labels, {len(self.templates)} templates, {self.model!r})"

    def classify(self, image: Any, top_k: int = 5, *, input_color_format: str | None = None) -> Any:
        """The `top_k` most probable (label, probability) of an image, best first; of several images, a list of those.

        Probabilities are floats that sum to 1 over all labels, and come from the checkpoint's own logit scale. Raises
        ImageError or InputError.

        >>> shapes.classify(scene(9).draw(), top_k=1)
        [('circle', 0.99...)]
        """
        check_count("top_k", top_k)
        images = self.model.embed_images(image, normalize=True, input_color_format=input_color_format)
        rows = [self._most_probable(embedding, top_k) for embedding in images]
        return rows[0] if is_one_image(image) else rows

    def _most_probable(self, image: Array, top_k: int) -> list[tuple[str, float]]:
        found = most_probable(self.embeddings, image, self.model.logit_scale, top_k)
        return [(self.labels[i], probability) for i, probability, _ in found]


def most_probable(directions: Array, image: Array, logit_scale: float, top_k: int) -> list[tuple[int, float, float]]:
    """Labels' unit vectors [N, E] and an image's [E] -> (label, probability, cosine) of the most probable, best first.

    Probabilities are among all N labels.
    """
    similarities = cosines(directions, image)  # [N]
    probabilities = softmax(logit_scale * similarities.astype(np.float64))
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [(int(i), float(probabilities[i]), float(similarities[i])) for i in best]


def labels_and_templates(labels: Any, templates: Any) -> tuple[Texts, Texts]:
    """Labels and templates as plain strings. Raises InputError; each template needs a place for the label."""
    templates = [templates] if isinstance(templates, str) else templates
    listed = listed_labels("templates", templates)
    without = [template for template in listed if "{}" not in template]
    if without:
        raise InputError(f"templates are {shown(listed)}; expected at least one, each with a {{}} for the label.")
    return tuple(listed_labels("labels", labels)), tuple(listed)


def prompts_of(labels: Texts, templates: Texts) -> list[str]:
    """Every label in every template, those of a label together."""
    return [template.replace("{}", label) for label in labels for template in templates]


def label_embeddings(model: CLIP, labels: Texts, templates: Texts) -> Array:
    """Unit vectors [N, E]: each the mean of a label's unit vectors in all templates (the CLIP paper, section 3.1.4)."""
    try:
        embeddings = model.embed_text(prompts_of(labels, templates), normalize=True)  # [N * templates, E]
    except TextError as error:
        if error.index is None:
            raise
        label, template = divmod(error.index, len(templates))
        message = f"label {label} ({shown(labels[label])}) in template {shown(templates[template])}: {error}"
        raise TextError(message, index=label, source=labels[label]) from error
    return label_directions(labels, templates, embeddings)


def label_directions(labels: Texts, templates: Texts, embeddings: Array) -> Array:
    """Unit vectors [N * templates, E] of `prompts_of` -> [N, E], the mean of each label's. Raises WeightsError."""
    means = embeddings.reshape(len(labels), len(templates), -1).mean(axis=1)  # [N, E]
    without = np.flatnonzero(~have_direction(means))
    if without.size:
        raise WeightsError(
            f"label {without[0]} ({shown(labels[without[0]])}): its embeddings in the templates cancel each other out, "
            f"so it has no direction; use other templates."
        )
    return unit_vectors(means)
