"""Values that others have published of the released weights, computed with an engine's towers.

The values are those of `clipref verify`; images and texts are prepared by clipref, so that only the towers are judged.
A folder counts as a released model if its provenance says so (`clipref convert` and `download` write it, with the
digest of the source).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clipref.config import PUBLISHED
from clipref.errors import ModelNotFound
from clipref.hub import find
from clipref.model import CLIP
from clipref.weights import Checkpoint
from clipref.weights_tools.published import PUBLISHED_VALUES, Published
from clipref.weights_tools.sources import sha256

from .case import Array, Case, EngineUnderTest, Unsupported
from .verdicts import Report, Result

_CLAIMS = ("REL-1",)


class _Towers:
    """An engine under test as the towers of a model."""

    def __init__(self, engine: EngineUnderTest, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def encode_image(self, pixels: Array) -> Array:
        return self._asked("encode_image", pixels=pixels)

    def encode_text(self, ids: Array) -> Array:
        return self._asked("encode_text", ids=np.asarray(ids, np.int64))

    def _asked(self, verb: str, **inputs: Array) -> Array:
        case = Case(f"released/{verb}", "released", verb, _CLAIMS, inputs, {}, self._folder)
        return self._engine.answer(case)["embeddings"]


def added(report: Report, engine: EngineUnderTest, models: Sequence[str], images: Path | None) -> Report:
    """The report with the results of released models, each an id or a folder. Raises ModelNotFound."""
    found = [result for name in models for result in results(engine, name, images)]
    return dataclasses.replace(report, results=[*report.results, *found])


def results(engine: EngineUnderTest, name: str, images: Path | None) -> Iterator[Result]:
    """One for each published value of a model. Raises ModelNotFound."""
    folder = find(name)
    if folder is None:
        raise ModelNotFound(f"{name} is not on this machine; fetch it with: clipref download {name}")
    checkpoint = Checkpoint(folder, PUBLISHED.get(name))
    model = CLIP(checkpoint, "reference")
    model.engine = _Towers(engine, folder)
    known = [published for published in PUBLISHED_VALUES if PUBLISHED[published.model] == checkpoint.config]
    if not known:
        raise ModelNotFound(f"{name} has not the shape of a model that values are published of; see clipref models.")
    for published in known:
        yield _result(model, published, images)


def _result(model: CLIP, published: Published, images: Path | None) -> Result:
    identity = f"released/{published.model.removeprefix('clip/')}/{published.what}"

    def skipped(why: str) -> Result:
        return Result(identity, "released", _CLAIMS, "SKIP", problem=why)

    image = None
    if published.image is not None:
        image = None if images is None else images / published.image
        if image is None or not image.is_file():
            return skipped(f"needs {published.image}, see --images")
        if published.sha256 is not None and sha256(image) != published.sha256:
            return skipped(f"{image} is another file: its sha256 differs")
    try:
        computed = np.asarray(published.compute(model, image), np.float64)
    except Unsupported as problem:
        return skipped(str(problem))
    except Exception as problem:  # whatever somebody's engine raises is the verdict
        return Result(identity, "released", _CLAIMS, "FAIL", problem=f"raised {type(problem).__name__}: {problem}")
    off = float(np.abs(computed - published.expected).max())
    said = f"{' '.join(f'{x:.6g}' for x in computed)}, published {' '.join(f'{x:.6g}' for x in published.expected)}"
    verdict = "PASS" if off <= published.tolerance else "FAIL"
    return Result(identity, "released", _CLAIMS, verdict, problem=said)  # type: ignore[arg-type]
