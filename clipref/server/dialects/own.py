"""What no other dialect has: zero-shot classification. Errors are as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...classifier import TEMPLATES, label_directions, labels_and_templates, most_probable, prompts_of
from ...errors import InputError
from ..calls import Call, Source, kind, required_field
from ..core import units
from ..refusals import Refusal, wrong
from . import Getter, Handler
from .openai import refusal as refusal

NAME = "clipref"


async def classify(call: Call) -> Any:
    """An image and labels -> the labels with their probabilities and cosines, the most probable first."""
    image = required_field(call.body, "image")
    if not isinstance(image, str):
        raise wrong(f"image is {kind(image)}; expected base64, a data URI or a URL.", "image")
    labels, templates = _labels_and_templates(call)
    _check_prompts(call, labels, templates)
    top_k = call.body.get("top_k", len(labels))
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise wrong("top_k: expected a whole number, at least 1.", "top_k")
    model = call.use(call.body.get("model"), "model")
    embeddings, _ = await call.texts(model, prompts_of(labels, templates), "prompts")
    directions = label_directions(labels, templates, units(embeddings))
    (row,) = units(await call.images(model, [Source("image", image)], "image"))
    found = most_probable(directions, row, model.opened.logit_scale, top_k)
    return {
        "object": "classification",
        "model": model.name,
        "labels": [{"label": labels[i], "probability": p, "similarity": cosine} for i, p, cosine in found],
    }


def _check_prompts(call: Call, labels: tuple[str, ...], templates: tuple[str, ...]) -> None:
    """Raise Refusal where labels in templates would be too many texts, or too long ones, before they are made."""
    limits = call.core.limits
    count = len(labels) * len(templates)
    if count > limits.items:
        raise Refusal(413, f"labels x templates are {count} texts; at most {limits.items} are taken.", param="labels")
    label = max(map(len, labels))
    if max(len(template) + template.count("{}") * label for template in templates) > limits.text_characters:
        raise Refusal(413, f"A label in a template has over {limits.text_characters} characters.", param="templates")


def _labels_and_templates(call: Call) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Raises Refusal, which doesn't repeat them."""
    labels, templates = required_field(call.body, "labels"), call.body.get("templates")
    templates = list(TEMPLATES) if templates is None else templates
    for name, given in (("labels", labels), ("templates", templates)):
        if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
            raise wrong(f"{name}: expected a list of at least one text.", name)
    try:
        return labels_and_templates(labels, templates)
    except InputError as error:
        raise wrong("templates: expected each with a {} for the label.", "templates") from error


POSTS: Mapping[str, Handler] = {"/v1/classify": classify}
FORMS: Mapping[str, Handler] = {}
GETS: Mapping[str, Getter] = {}
