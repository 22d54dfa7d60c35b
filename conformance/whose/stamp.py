"""A small file to put beside a store: what made it, and what that gave for three drawn pictures, or three texts.

After an upgrade, of Pillow, numpy, a runtime, or of the model's file, `check_stamp` makes the three once more and says
what isn't as it was: the weights (their digest), the pixels or ids (their sha256), or the arithmetic (the vectors, in
units of what float32 errs). The pictures are drawn by whole-number arithmetic, so that no file is needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clipref
from clipref.errors import InputError
from clipref.files import parse_json, read_bytes
from clipref.model import AutoModel
from clipref.numerics import rms_error

from ..grading.verdicts import MARGIN
from ..protocol import Array
from ..restated.preprocessing import picture
from .finding import Finding
from .models import Model
from .probes import PICTURES, TEXTS
from .variants import AS_IT_IS, Variant
from .vectors import grid_of, read_store

FORMAT = 1
MAX_STAMP = 2**22
PROBES = 3


@dataclass(frozen=True)
class Drift:
    """One thing that isn't as it was: what, and how it was found out in words."""

    what: str  # "weights", "pixels", "ids", "arithmetic", "store"
    says: str


def stamp_of(finding: Finding, kind: str = "image") -> dict[str, Any]:
    """The stamp of what a finding names: the model as it is, if it is among the candidates. Raises InputError.

    JSON types: {"format", "clipref", "kind", "model", "variant", "storage", "normalised", "embed_dim", "digest",
    "activation", "probes": [{"of", "input", "unit", "vector"}]}.
    """
    if not finding.candidates or (finding.verdict != "named" and finding.candidates[0].variant != AS_IT_IS):
        raise InputError(
            f"The verdict is {finding.verdict!r}: a stamp needs one explanation, or several of which one is the model "
            "as it is. Give pictures that tell them apart, or the model that made the vectors (--models)."
        )
    candidate = finding.candidates[0]
    model = Model(candidate.model, kind, finding.activation)  # type: ignore[arg-type]
    variant = _variant(model, candidate.variant)
    return {
        "format": FORMAT,
        "clipref": clipref.__version__,
        "kind": kind,
        "model": candidate.model,
        "variant": candidate.variant,
        "storage": candidate.storage,
        "normalised": candidate.normalised,
        "embed_dim": model.config.embed_dim,
        "digest": model.checkpoint.file.digest,
        "activation": finding.activation,
        "probes": [_probe(model, variant, name, item) for name, item in _items(kind).items()],
    }


def _items(kind: str) -> dict[str, Any]:
    if kind == "text":
        return {text: text for text in TEXTS[:PROBES]}
    return {name: picture(*arguments) for name, arguments in list(PICTURES.items())[:PROBES]}


def _variant(model: Model, id: str) -> Variant:
    for variant in model.variants:
        if variant.id == id:
            return variant
    raise InputError(f"{model.name} has no variant {id!r} that a stamp can be made of; expected one that whose names.")


def _probe(model: Model, variant: Variant, name: str, item: Any) -> dict[str, Any]:
    exact = model.embedding(variant, item, "float64")
    if exact is None:
        raise InputError(f"{variant.title} gives no vector of {name}, so no stamp can be made of it.")
    return {
        "of": name,
        "input": _sha256(model.input(variant, item)),
        "unit": model.unit(variant, item),
        "vector": exact.astype(np.float32).tolist(),
    }


def _sha256(x: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()


def read_stamp(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A stamp from its file. Raises InputError."""
    try:
        stamp = parse_json(read_bytes(path, MAX_STAMP))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as a stamp: {error}.") from error
    expected = {
        "format",
        "clipref",
        "kind",
        "model",
        "variant",
        "storage",
        "normalised",
        "embed_dim",
        "digest",
        "activation",
        "probes",
    }
    if not isinstance(stamp, dict) or not expected <= stamp.keys() or stamp["kind"] not in ("image", "text"):
        raise InputError(f"{path} is no stamp of clipref whose; expected what --stamp wrote.")
    if stamp["format"] != FORMAT:
        raise InputError(f"{path} has the format {stamp['format']!r}; this version reads {FORMAT}.")
    return stamp


def check_stamp(
    path: str | os.PathLike[str],
    vectors: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    backend: str = "auto",
) -> list[Drift]:
    """What isn't as it was when the stamp at `path` was written; an empty list if nothing drifted.

    `model` is where the model is now, if elsewhere; `backend` computes the vectors, where they are the model's as it
    is. With `vectors`, the store's precision and width are compared, too. Raises InputError, and what opening raises.
    """
    stamp = read_stamp(path)
    name = stamp["model"] if model is None else model
    opened = Model(name, stamp["kind"], stamp["activation"])
    drifts = []
    if (digest := opened.checkpoint.file.digest) != stamp["digest"]:
        drifts.append(
            Drift("weights", f"the weights of {name} have the digest {digest[:12]}…, not {stamp['digest'][:12]}…")
        )
    if opened.config.embed_dim != stamp["embed_dim"]:
        says = f"{name} makes vectors of {opened.config.embed_dim} numbers, not {stamp['embed_dim']}"
        return [*drifts, Drift("weights", says)]
    variant = _variant(opened, stamp["variant"])
    for probe in stamp["probes"]:
        drifts += _probe_drift(opened, variant, probe, name, backend)
    if vectors is not None:
        drifts += _store_drift(stamp, vectors)
    return drifts


def _probe_drift(model: Model, variant: Variant, probe: Mapping[str, Any], name: str, backend: str) -> list[Drift]:
    try:
        item = _items(model.kind)[probe["of"]]
        before, was, unit = np.array(probe["vector"], np.float64), str(probe["input"]), float(probe["unit"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The stamp has a probe that isn't one of this version's: {error}; write it anew.") from error
    made = model.input(variant, item)
    if _sha256(made) != was:
        what = "pixels" if model.kind == "image" else "ids"
        return [Drift(what, f"{probe['of']}: other {what} are made of it than before, so vectors are others, too")]
    if variant.id == AS_IT_IS:
        engine = AutoModel.from_pretrained(name, backend=backend, activation=model.activation)
        encode = engine.encode_image if model.kind == "image" else engine.encode_text
        now = encode(made)[0].astype(np.float64)
    else:
        single = model.embedding(variant, item, "float32")
        now = np.full_like(before, np.nan) if single is None else single
    units = rms_error(now, before) / unit
    if not units <= MARGIN:
        says = f"{probe['of']}: its vector is {units:.3g} units of float32 away from the one before, at most {MARGIN:g}"
        return [Drift("arithmetic", f"{says} are rounding")]
    return []


def _store_drift(stamp: Mapping[str, Any], vectors: str | os.PathLike[str]) -> list[Drift]:
    found = grid_of(read_store(vectors).vectors)
    storage = str(stamp["storage"]).partition(",")[0]
    if found.storage != storage:
        return [Drift("store", f"{Path(vectors).name} is stored as {found.storage}, not {storage}")]
    if "," not in str(stamp["storage"]) and found.values.shape[1] != stamp["embed_dim"]:
        return [Drift("store", f"{Path(vectors).name} has {found.values.shape[1]} numbers, not {stamp['embed_dim']}")]
    return []
