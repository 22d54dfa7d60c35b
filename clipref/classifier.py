"""Zero-shot classification: labels embedded once, then images classified among them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import brief, check_count, is_one_image, listed_labels
from .errors import InputError, TextError, WeightsError
from .files import open_regular, parse_json, write_whole
from .ops import softmax
from .similarity import cosines, have_direction, unit_vectors
from .texts import PackedRows, embed_rows, rows_of

if TYPE_CHECKING:
    from .model import CLIP

Array: TypeAlias = NDArray[Any]
Texts: TypeAlias = tuple[str, ...]

TEMPLATES = ("a photo of a {}",)

# Texts whose embeddings are in memory together while labels are embedded: at 1024 float32 each, 32 MB.
TEXTS_AT_A_TIME = 8192

# Bytes of a saved classifier: 400,000 labels of 1024 float32 each, with their names.
MAX_SAVED = 2**31
FORMAT = "clipref classifier 1"


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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write labels, templates and embeddings, whole or not at all, as a .safetensors file that `load` reads.

        It has the digests of the model's weights and vocabulary too, without which embeddings mean nothing.
        Raises InputError where it can't be written.

        >>> shapes.save("shapes.safetensors")
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        texts = {"labels": json.dumps(self.labels), "templates": json.dumps(self.templates)}
        metadata = {"format": FORMAT, **_origin(self.model), **texts}
        try:
            with write_whole(path) as scratch:
                save_file({"embeddings": np.array(self.embeddings)}, scratch, metadata)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{path} can't be written: {error}. Make room, or choose another place.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: CLIP) -> Classifier:
        """Read what `save` wrote, for the same weights, vocabulary, precision and dtype; texts aren't embedded again.

        Raises InputError for another kind of file, a damaged one, or one of another model.

        >>> from clipref.classifier import Classifier
        >>> shapes.save("labels.safetensors")
        >>> Classifier.load("labels.safetensors", shapes.model).labels
        ('circle', 'ring')
        """
        metadata, embeddings = _read(path)
        for what, ours in _origin(model).items():
            if metadata.get(what) != ours:
                raise InputError(
                    f"{path} was saved with {what} {brief(metadata.get(what))}; the model's is {ours!r}. Make the "
                    f"classifier of this model anew: model.classifier(labels, templates)."
                )
        try:
            labels, templates = (parse_json(metadata[key].encode()) for key in ("labels", "templates"))
            labels, templates = labels_and_templates(labels, templates)
        except (KeyError, ValueError, InputError) as error:
            raise InputError(f"{path}: its labels can't be read ({error}); save it anew.") from error
        shape = (len(labels), model.config.embed_dim)
        if embeddings.shape != shape or embeddings.dtype != model.dtype or not _are_units(embeddings):
            raise InputError(
                f"{path}: its embeddings are {embeddings.dtype} of shape {list(embeddings.shape)}; expected unit "
                f"vectors {list(shape)} in {model.dtype}. It is damaged; save it anew."
            )
        return cls(model, labels, templates, embeddings)

    def _most_probable(self, image: Array, top_k: int) -> list[tuple[str, float]]:
        found = most_probable(self.embeddings, image, self.model.logit_scale, top_k)
        return [(self.labels[i], probability) for i, probability, _ in found]


def _origin(model: CLIP) -> dict[str, str]:
    """A model's digests, precision and dtype: its label embeddings depend on them, beside labels and templates."""
    return {
        "weights": model.digest,
        "vocabulary": model.tokenizer.digest,
        "precision": model.precision,
        "dtype": model.dtype,
    }


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], Array]:
    """The metadata and the embeddings of a saved classifier. Raises InputError."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size > MAX_SAVED:
            raise OSError(f"it has {size} bytes, of at most {MAX_SAVED}")
        with safe_open(path, framework="numpy") as saved:
            metadata = saved.metadata() or {}
            if metadata.get("format") != FORMAT or list(saved.keys()) != ["embeddings"]:
                raise ValueError("it is no classifier")
            return metadata, saved.get_tensor("embeddings")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} can't be read as a classifier: {error}; expected what save(path) wrote.") from error


def _are_units(rows: Array) -> bool:
    """Whether rows [N, E] are unit vectors, within their rounding."""
    return bool((np.abs(np.vecdot(rows, rows) - 1) <= 1e-3).all())


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
        raise InputError(f"templates are {brief(listed)}; expected at least one, each with a {{}} for the label.")
    return tuple(listed_labels("labels", labels)), tuple(listed)


def prompts_of(labels: Sequence[str], templates: Texts) -> list[str]:
    """Every label in every template, those of a label together."""
    return [template.replace("{}", label) for label in labels for template in templates]


def label_embeddings(model: CLIP, labels: Texts, templates: Texts) -> Array:
    """Unit vectors [N, E]: each the mean of a label's unit vectors in all templates (the CLIP paper, section 3.1.4).

    All texts are made to ids, and so checked, before one is embedded. The ids are kept in two bytes each; texts and
    embeddings are in memory for some labels at a time only, for those next to one another that begin alike.
    """
    step = max(1, TEXTS_AT_A_TIME // len(templates))
    rows = PackedRows(model.config.text.vocab_size)
    for start in range(0, len(labels), step):
        some = labels[start : start + step]
        with _label_named(start, labels, templates):
            rows.add(rows_of(prompts_of(some, templates), model.tokenizer, model.config.text.context_length))
    order = sorted(range(len(labels)), key=labels.__getitem__)
    found = np.empty((len(labels), model.config.embed_dim), model.dtype)
    for start in range(0, len(labels), step):
        numbers = order[start : start + step]
        texts = [rows[i * len(templates) + k] for i in numbers for k in range(len(templates))]
        embeddings = embed_rows(model, texts, normalize=True)  # [n * templates, E]
        found[numbers] = label_directions([labels[i] for i in numbers], templates, embeddings)
    return found


@contextmanager
def _label_named(start: int, labels: Texts, templates: Texts) -> Iterator[None]:
    """An error of one of the prompts of the labels from `start` on names the label and the template."""
    try:
        yield
    except TextError as error:
        if error.index is None:
            raise
        place, template = divmod(error.index, len(templates))
        label = start + place
        message = f"label {label} ({brief(labels[label])}) in template {brief(templates[template])}: {error}"
        raise TextError(message, index=label, source=labels[label]) from error


def label_directions(labels: Sequence[str], templates: Texts, embeddings: Array) -> Array:
    """Unit vectors [N * templates, E] of `prompts_of` -> [N, E], the mean of each label's. Raises WeightsError."""
    means = embeddings.reshape(len(labels), len(templates), -1).mean(axis=1)  # [N, E]
    without = np.flatnonzero(~have_direction(means))
    if without.size:
        raise WeightsError(
            f"label {brief(labels[without[0]])}: its embeddings in the templates cancel each other out, "
            f"so it has no direction; use other templates."
        )
    return unit_vectors(means)
