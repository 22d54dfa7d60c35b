"""The measurements of `clipref verify --report FILE`: what can be told only where a model's published weights are.

How near each precision's embeddings come to the reference's, on drawn pictures and texts and on those that are given;
from which cosine on two pictures are the same one, altered; how often the right label is found. REPORT.md beside this
file says what each entry means. There are sums and counts in it, and nothing of what was given: no path, no name, no
label, no picture and no vector.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipref import __version__
from clipref.backends import backends, describe, processor_features
from clipref.clip import CLIP
from clipref.config import tensor_shapes
from clipref.digests import model_digest, rounded_digest, tensor_digest
from clipref.errors import ClipError
from clipref.lazy import available_threads
from clipref.loading import progress_bar
from clipref.numerics import rms_error, unit_rows
from clipref.weights import Checkpoint

from .samples import ALTERATIONS, Labelled, altered_file, drawn_labelled, drawn_pictures, drawn_texts, open_picture

if TYPE_CHECKING:
    from .verify import Finding

Array = NDArray[Any]
FORMAT = "clipref report 1"
LIMIT, SECONDS = 64, 900.0
# Pictures that are altered, five times each, of as many as there are.
_ALTERED = 32
# Cosines that `clipref duplicates --cosine` might be given.
_THRESHOLDS = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97)
# The part of the time that is over when a part of the work has to be.
_SHARES = {"reference": 0.35, "precisions": 0.75, "duplicates": 0.88, "zero-shot": 1.0}
_LIBRARIES = ("numpy", "onnxruntime", "onnx", "openvino", "torch", "pillow", "safetensors")
_REPORTED = ("float32", "bfloat16", "float16", "int8")


class _Clock:
    """How much time there is, and a bar that shows what was done of what there is to do."""

    def __init__(self, seconds: float, bar: Any) -> None:
        self.bar = bar
        self._started, self._seconds = time.monotonic(), seconds

    @property
    def passed(self) -> float:
        return time.monotonic() - self._started

    def ends(self, part: str, count: int) -> Iterator[float]:
        """When each of `count` pieces of a part of the work has to be over: each has an equal share of what is left."""
        last = self._seconds * _SHARES[part]
        for left in range(count, 0, -1):
            yield self.passed + max(0.0, last - self.passed) / left


@dataclass(frozen=True)
class _Embedded:
    """Items of a kind that could be read and that there was time for, and the reference's embeddings of them."""

    items: Sequence[Any]
    rows: Array
    unread: int


def report(
    checkpoint: Checkpoint,
    findings: Sequence[Finding],
    *,
    model: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    images: Sequence[Path] = (),
    labelled: Labelled | None = None,
    limit: int = LIMIT,
    seconds: float = SECONDS,
    progress: bool = False,
) -> dict[str, Any]:
    """Everything that is reported, as JSON types.

    `findings`: what `verify` found. `images`: files that are measured beside drawn pictures; `labelled`: pictures with
    labels in the place of drawn ones. Of each kind at most `limit` pictures, and fewer where `seconds` don't suffice.
    `progress` shows a bar on standard error.
    """
    kinds: dict[str, Sequence[Any]] = {"drawn pictures": drawn_pictures(limit), "drawn texts": drawn_texts(limit)}
    if images:
        kinds["given pictures"] = images[:limit]
    labelled = drawn_labelled(limit) if labelled is None else labelled
    runs = list(_backends())
    coarse = [pair for pair in runs if pair[1] != "float32"]
    total = (1 + len(runs)) * sum(map(len, kinds.values())) + (1 + len(coarse)) * len(labelled.pictures)
    pictures = {kind: items[:_ALTERED] for kind, items in kinds.items() if kind.endswith("pictures")}
    total += (1 + len(ALTERATIONS)) * sum(map(len, pictures.values()))
    with progress_bar(total, progress, "item") as bar:
        clock = _Clock(seconds, bar)
        seen: dict[str, float] = {}
        reference = CLIP(checkpoint, "reference")
        ends = clock.ends("reference", len(kinds))
        exact = {kind: _embed(reference, items, clock, next(ends)) for kind, items in kinds.items()}
        seen["reference"] = clock.passed
        precisions = list(_precisions(checkpoint, runs, exact, clock))
        seen["precisions"] = clock.passed
        fast = CLIP(checkpoint, "auto")
        ends = clock.ends("duplicates", len(pictures))
        duplicates = {kind: _duplicates(fast, items, clock, next(ends)) for kind, items in pictures.items()}
        seen["duplicates"] = clock.passed
        zero_shot = _zero_shot(checkpoint, [("auto", "float32"), *coarse], labelled, clock)
        seen["zero-shot"] = clock.passed
    return {
        "format": FORMAT,
        "model": _model(checkpoint, model, provenance),
        "findings": [asdict(finding) for finding in findings],
        "items": {kind: {"measured": len(found.items), "unread": found.unread} for kind, found in exact.items()},
        "precisions": precisions,
        "duplicates": {kind: found for kind, found in duplicates.items() if found is not None},
        "zero-shot": zero_shot,
        "seconds": {part: round(end - begin, 1) for (_, begin), (part, end) in pairwise([("", 0.0), *seen.items()])},
        "machine": _machine(),
    }


# --- what it is about -------------------------------------------------------------------------------------------------


def _model(checkpoint: Checkpoint, model: str | None, provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Which model, and what is known of where it is from; a repository is named only if it is OpenAI's weights'."""
    from .download import OPENAI_REPOSITORIES

    exact, rounded = {}, {}
    for name in tensor_shapes(checkpoint.config):
        stored, dtype = checkpoint.file.stored(name), checkpoint.file.dtypes[name]
        exact[name] = dtype, stored.shape, tensor_digest(stored)
        rounded[name] = "F16", stored.shape, rounded_digest(stored, dtype)
    source = (provenance or {}).get("source")
    source = source if isinstance(source, Mapping) and source.get("repository") in OPENAI_REPOSITORIES else {}
    return {
        "id": model,
        "digest": model_digest(exact),
        "rounded digest": model_digest(rounded),
        "repository": source.get("repository"),
        "revision": source.get("revision"),
        "config": checkpoint.config.to_dict(),
    }


def _machine() -> dict[str, Any]:
    """The machine and the versions, which numbers may depend on."""
    versions = {"clipref": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd")
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "features": sorted(processor_features() & set(known)),
        "threads": available_threads(),
        "versions": versions,
    }


# --- precisions -------------------------------------------------------------------------------------------------------


def _backends() -> Iterator[tuple[str, str]]:
    """Backends that run here, and what they compute in; not the reference, which the others are compared with."""
    for backend in sorted(backends()):
        stated = describe(backend)["precisions"] if backend != "reference" else {}
        yield from ((backend, precision) for precision in _REPORTED if precision in stated)


def _embed(model: CLIP, items: Sequence[Any], clock: _Clock, end: float) -> _Embedded:
    """The items that can be read, and their embeddings [N, E]; one at least, and then as many as there is time for."""
    kept: list[Any] = []
    rows: list[Array] = []
    unread = 0
    for done, item in enumerate(items):
        if rows and clock.passed > end:
            clock.bar.total -= len(items) - done
            break
        clock.bar.update()
        try:
            rows.append(model.embed_text(item) if isinstance(item, str) else model.embed_image(item))
        except ClipError:  # a picture that can't be read, or a tower that isn't there
            unread += 1
            continue
        kept.append(item)
    empty = np.empty((0, model.config.embed_dim), np.float32)
    return _Embedded(kept, np.concatenate(rows) if rows else empty, unread)


def _precisions(
    checkpoint: Checkpoint, runs: Sequence[tuple[str, str]], exact: Mapping[str, _Embedded], clock: _Clock
) -> Iterator[dict[str, Any]]:
    """For each backend and precision, how near it comes, kind by kind."""
    known = {kind: found for kind, found in exact.items() if found.items}
    ends = clock.ends("precisions", len(runs) * len(known))
    for backend, precision in runs:
        model = CLIP(checkpoint, backend, precision=precision)
        started = time.process_time()
        compared = {kind: _comparison(model, found, clock, next(ends)) for kind, found in known.items()}
        seconds = round(time.process_time() - started, 2)
        yield {"backend": backend, "precision": precision, **compared, "processor seconds": seconds}


def _comparison(model: CLIP, exact: _Embedded, clock: _Clock, end: float) -> dict[str, Any]:
    """How near a precision's embeddings of some items are to the reference's."""
    rows = _embed(model, exact.items, clock, end).rows
    truth = exact.rows[: len(rows)]
    cosines = (unit_rows(rows.astype(np.float64)) * unit_rows(truth.astype(np.float64))).sum(axis=1)
    return {
        "items": len(rows),
        "cosine": {"smallest": _short(cosines.min()), "median": _short(np.median(cosines))},
        "error": _short(rms_error(rows, truth)),
    }


# --- duplicates -------------------------------------------------------------------------------------------------------


def _duplicates(model: CLIP, pictures: Sequence[Any], clock: _Clock, end: float) -> dict[str, Any] | None:
    """Cosines of pictures with altered copies of themselves, and with each other; None of fewer than two."""
    originals: list[Array] = []
    copies: dict[str, list[float]] = {alteration: [] for alteration in ALTERATIONS}
    for done, picture in enumerate(pictures):
        if len(originals) > 1 and clock.passed > end:
            clock.bar.total -= (1 + len(ALTERATIONS)) * (len(pictures) - done)
            break
        clock.bar.update(1 + len(ALTERATIONS))
        try:
            image = open_picture(picture)
            files = [altered_file(image, alteration) for alteration in ALTERATIONS]
            rows = unit_rows(np.concatenate([model.embed_image(x) for x in (image, *files)]).astype(np.float64))
        except ClipError:
            continue
        originals.append(rows[0])
        for alteration, row in zip(ALTERATIONS, rows[1:], strict=True):
            copies[alteration].append(float(row @ rows[0]))
    if len(originals) < 2:
        return None
    unit = np.stack(originals)
    others = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return {
        "pictures": len(unit),
        "copies": {
            name: {"smallest": _short(np.min(found)), "median": _short(np.median(found))}
            for name, found in copies.items()
        },
        "different pictures": {
            "pairs": len(others),
            "median": _short(np.median(others)),
            "99 %": _short(np.quantile(others, 0.99)),
            "largest": _short(others.max()),
        },
        "thresholds": [
            {
                "cosine": threshold,
                "found": {name: _short(np.mean(np.array(c) >= threshold)) for name, c in copies.items()},
                "pairs of different pictures": int((others >= threshold).sum()),
            }
            for threshold in _THRESHOLDS
        ],
    }


# --- labels -----------------------------------------------------------------------------------------------------------


def _zero_shot(
    checkpoint: Checkpoint, runs: Sequence[tuple[str, str]], labelled: Labelled, clock: _Clock
) -> dict[str, Any] | None:
    """How often the right label is first, or among five, in float32, which is first; and how often others agree.

    None for a model without one of the towers.
    """
    ends = clock.ends("zero-shot", len(runs))
    found: dict[str, Any] = {}
    for backend, precision in runs:
        try:
            numbers, best = _labels(CLIP(checkpoint, backend, precision=precision), labelled, clock, next(ends))
        except ClipError:
            return None
        if not numbers:
            return None
        if not found:
            first, truth = best, np.asarray(labelled.truth)[numbers]
            found = {
                "pictures": "drawn" if labelled.drawn else "given",
                "labels": len(labelled.labels),
                "items": len(numbers),
                "top-1": _short((best[:, 0] == truth).mean()),
                "top-5": _short((best[:, :5] == truth[:, None]).any(axis=1).mean()),
                "precisions": [],
            }
            continue
        count = min(len(best), len(first))
        same = _short((best[:count, 0] == first[:count, 0]).mean())
        known = {"backend": backend, "precision": precision, "items": count, "same first label": same}
        found["precisions"].append(known)
    return found


def _labels(model: CLIP, labelled: Labelled, clock: _Clock, end: float) -> tuple[list[int], Array]:
    """The numbers of the pictures that were looked at, and of each the numbers of all labels, the best first."""
    labels = model.classifier(labelled.labels, labelled.templates).embeddings
    found = _embed(model, labelled.pictures, clock, end)
    numbers = {id(picture): i for i, picture in enumerate(labelled.pictures)}
    scores = unit_rows(found.rows.astype(np.float64)) @ labels.T.astype(np.float64)
    return [numbers[id(picture)] for picture in found.items], np.argsort(-scores, axis=1, kind="stable")


def _short(x: Any) -> float:
    """Seven digits, which is what float32 has."""
    return float(f"{float(x):.7g}")
