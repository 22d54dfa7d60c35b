"""Questions about the towers of the trained models embedded in clipref: weights as training leaves them.

Asked where `--levels` names them, since every engine has been asked the same of synthetic weights. The right answers
are the reference's in float64; its towers are held by golden values elsewhere (tests/test_towers.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from clipref.config import ClipConfig
from clipref.hub import EMBEDDED, locate

from ..grading.units import frozen_units
from ..protocol import Array, Case, Exact, Question
from .models import tiny_inputs
from .pipeline import copy_model, reference
from .towers import TEXT_CLAIMS, image_claims, measure_tower


def questions() -> Iterator[Question]:
    """Embeddings of both towers of each embedded model."""
    for model in EMBEDDED:
        path, config = locate(model)
        for tower, claims in (("image", image_claims(config)), ("text", TEXT_CLAIMS)):
            yield Question(
                f"embedded/{path.name}/{tower}", "embedded", f"encode_{tower}", claims,
                partial(_make, path, config, tower, claims), _exact, path.name, measure_tower,
            )  # fmt: skip


def _make(path: Path, config: ClipConfig, tower: str, claims: tuple[str, ...], folder: Path) -> Case:
    pixels, ids = tiny_inputs(config)
    given: dict[str, Array] = {"pixels": pixels} if tower == "image" else {"ids": ids}
    identity = f"embedded/{path.name}/{tower}"
    return Case(identity, "embedded", f"encode_{tower}", claims, given, {}, copy_model(path, folder))


def _exact(case: Case) -> Exact:
    assert case.checkpoint is not None
    (given,) = case.inputs.values()
    return Exact({"embeddings": getattr(reference(case.checkpoint), case.verb)(given)}, frozen_units(case.id))
