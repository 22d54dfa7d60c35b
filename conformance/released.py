"""Values that others have published of the released weights, computed with an engine's towers.

The values are those of `clipref verify`; images and texts are prepared by clipref, so that only the towers are judged.
Weights are released ones if their provenance says so and every tensor still has the sha256 that stands there: they were
converted from a file with the sha256 that OpenAI published, or from a repository of OpenAI's weights, whose own sha256
`clipref download` has checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipref.config import PUBLISHED
from clipref.errors import WeightsError
from clipref.hub import locate, present
from clipref.model import CLIP
from clipref.transformer import Tap, no_tap
from clipref.weights import Checkpoint
from clipref.weights_tools.download import OPENAI_REPOSITORIES
from clipref.weights_tools.published import PUBLISHED_VALUES, Published
from clipref.weights_tools.sources import OPENAI_FILES, sha256
from clipref.weights_tools.verify import find_changes, provenance_of

from .asking import ask, words
from .engines.failures import Failure
from .grading.verdicts import Result
from .protocol import Array, Case, EngineUnderTest, Outputs, Unsupported

_CLAIMS = ("REL-1",)


class _Refused(Exception):
    """What an engine raised, which is the cause, or what is wrong with its answer beside the values."""


class _Towers:
    """An engine under test as the towers of a model."""

    def __init__(self, engine: EngineUnderTest, checkpoint: Checkpoint) -> None:
        self._engine, self._embed_dim = engine, checkpoint.config.embed_dim
        self._folder = checkpoint.file.path.parent

    def encode_image(self, pixels: Array, tap: Tap = no_tap) -> Array:
        if tap is no_tap:
            return self._embed("encode_image", pixels=pixels)
        traced = self._ask("trace_image", pixels=pixels)
        for name, x in traced.items():
            tap(name, x)
        return np.asarray(traced.get("visual", ()))

    def encode_text(self, ids: Array) -> Array:
        return self._embed("encode_text", ids=np.asarray(ids, np.int64))

    def _embed(self, verb: str, **inputs: Array) -> Array:
        answer = self._ask(verb, **inputs)
        (x,) = inputs.values()
        expected = len(x), self._embed_dim
        found = answer.get("embeddings")
        if found is None or found.shape != expected:
            given = "no 'embeddings'" if found is None else f"'embeddings' of shape {list(found.shape)}"
            raise _Refused(f"gave {given}, expected {list(expected)}")
        return found

    def _ask(self, verb: str, **inputs: Array) -> Outputs:
        answer = ask(self._engine, Case(f"released/{verb}", "released", verb, _CLAIMS, inputs, {}, self._folder))
        if isinstance(answer, BaseException):
            what = answer.told if isinstance(answer, Failure) else f"raised {type(answer).__name__}"
            raise _Refused(f"{what}: {words(answer)}") from answer
        return answer


def results(engine: EngineUnderTest, name: str, images: Path | None) -> Iterator[Result]:
    """One for each published value of a model, an id or a path, which is converted if need be.

    Raises ModelNotFound if it isn't on this machine, WeightsError if it isn't known to be what was released.
    """
    present(name)  # downloads nothing
    path, _ = locate(name)
    id = released_model(path)
    checkpoint = Checkpoint(path, PUBLISHED[id])
    model = CLIP(checkpoint, "reference")
    model.engine = _Towers(engine, checkpoint)
    known = [published for published in PUBLISHED_VALUES if published.model == id]
    if not known:
        yield Result(f"released/{_short(id)}", "released", _CLAIMS, "SKIP", problem=f"no values are published of {id}")
    for published in known:
        yield _result(model, published, images)


def ids() -> set[str]:
    """The ids of all results that there can be."""
    return {_id(published) for published in PUBLISHED_VALUES}


def released_model(path: Path) -> str:
    """The id of the model whose released weights are in a converted folder. Raises WeightsError if they aren't."""
    provenance = provenance_of(path) or {}
    source = provenance.get("source")
    source = source if isinstance(source, Mapping) else {}
    files = source.get("files")
    digests: dict[str, Any] = dict(files) if isinstance(files, Mapping) else {}
    id = next((id for id, digest in OPENAI_FILES.items() if digest in digests.values()), None)
    id = id or OPENAI_REPOSITORIES.get(str(source.get("repository")))
    if id is None:
        read = [f"{file} with sha256 {digest}" for file, digest in digests.items()]
        raise WeightsError(
            f"{path} is not known to be weights that OpenAI released: it comes from "
            f"{', '.join(read) or 'nowhere, without provenance.json'}. Expected OpenAI's own file "
            "(clipref convert MODEL.pt FOLDER), or what clipref download fetched."
        )
    if provenance.get("cast to") in ("float16", "bfloat16"):
        raise WeightsError(f"{path} was cast to {provenance['cast to']}. Convert {id} again, without --dtype.")
    for found in find_changes(Checkpoint(path, PUBLISHED[id]), provenance):
        raise WeightsError(
            f"{path} is not as it was converted: {found.what} has {found.found}, expected {found.expected}. "
            f"Convert {id} again."
        )
    return id


def _short(id: str) -> str:
    return id.removeprefix("clip/")


def _id(published: Published) -> str:
    return f"released/{_short(published.model)}/{published.what}"


def _result(model: CLIP, published: Published, images: Path | None) -> Result:
    def verdict(given: Any, why: str) -> Result:
        return Result(_id(published), "released", _CLAIMS, given, problem=why)

    image = None
    if published.image is not None:
        image = None if images is None else images / published.image
        if image is None or not image.is_file():
            return verdict("SKIP", f"needs {published.image}, see --images")
        if published.sha256 is not None and sha256(image) != published.sha256:
            return verdict("SKIP", f"{image} is another file: its sha256 differs")
    try:
        computed = np.asarray(published.compute(model, image), np.float64)
    except _Refused as problem:
        if isinstance(problem.__cause__, Unsupported):
            return verdict("SKIP", str(problem.__cause__) or "not supported")
        return verdict("FAIL", str(problem))
    except KeyError as missing:
        return verdict("SKIP", f"gave no activation {missing}")
    off = float(np.abs(computed - published.expected).max())
    said = f"{' '.join(f'{x:.6g}' for x in computed)}, published {' '.join(f'{x:.6g}' for x in published.expected)}"
    return verdict("PASS" if off <= published.tolerance else "FAIL", said)
