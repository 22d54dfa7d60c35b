"""All questions, level by level, and their right answers.

An engine may claim some levels and not others. Checkpoints and inputs are made from seeds; the right answers of towers
and taps are golden values of implementations that share no code with clipref, those of tokens are OpenAI's tokenizer's,
those of pixels Pillow's; operations and similarity follow their definitions in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from clipref.errors import InputError

from ..protocol import Question
from ..restated.preprocessing import PROFILES
from . import embedded, images, operations, pipeline, properties, texts, towers
from .models import FULL, TINY

LEVELS = {
    "describe": "the numbers of a model",
    "tokenize": "texts to ids, exactly",
    "preprocess": "images to pixels, exactly, in one profile or another",
    "operations": "single operations, against their definitions",
    "towers": "both towers on tiny models, of pairwise different dimensions",
    "taps": "the activations inside the tiny towers",
    "similarity": "cosines and logits of embeddings",
    "properties": "what doesn't depend on the batch, on the time or on the values",
    "pipeline": "image files and texts to embeddings, on two small trained models",
    "embedded": "both towers of the trained models in the package (--levels embedded)",
    "full": "both towers in the nine published sizes (--full); of clip/ViT-B-32 a file and texts, too",
    "released": "published values of the released weights (--released)",
}
# What is asked of an engine that doesn't say what it claims.
DEFAULT = tuple(level for level in LEVELS if level not in ("embedded", "full", "released"))
# What has questions without a model that is named.
ASKABLE = (*DEFAULT, "embedded")


def questions(levels: Sequence[str] = DEFAULT, full: Sequence[str] = (), profile: str = "openai") -> Iterator[Question]:
    """The questions of some levels; those of full sizes for the models named. Raises InputError for unknown names."""
    for given, known, what in (
        (levels, LEVELS, "level"), (full, FULL, "model"), ([profile], PROFILES, "profile"),
    ):  # fmt: skip
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"No {what} {unknown[0]!r}; there are: {', '.join(known)}.")
    sizes = {name: FULL[name] for name in full}
    makers: dict[str, Iterator[Question]] = {
        "describe": towers.describe(),
        "tokenize": texts.tokenize(),
        "preprocess": images.preprocess(profile),
        "operations": operations.operations(),
        "towers": towers.towers("towers", TINY),
        "taps": towers.towers("taps", TINY),
        "similarity": operations.similarity(),
        "properties": properties.properties(),
        "pipeline": pipeline.questions(profile),
        "embedded": embedded.questions(),
        "full": chain(towers.towers("full", sizes), pipeline.full(sizes, profile)),
    }
    for level, maker in makers.items():
        if level in levels or (level == "full" and full):
            yield from maker
