"""Two checkpoints beside each other: their tensors, their configurations, and the embeddings that they give."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipref.arguments import check_count
from clipref.cli.walk import images_in
from clipref.config import NoTower, tensor_shapes
from clipref.digests import model_digest, rounded_digest, tensor_digest
from clipref.errors import InputError
from clipref.hub import present
from clipref.model import CLIP, AutoModel
from clipref.numerics import unit_rows
from clipref.weights import ignored

from ..shapes import captions, world
from ..sources import Options, Source, open_source
from ..stored import Array
from .changes import change_of

DRAWN = 64
NEIGHBOURS = 10


@dataclass(frozen=True)
class TensorChange:
    """What became of one tensor, in words: "identical", "cast to float16", "low-rank change (rank 4)", ..."""

    name: str
    change: str


@dataclass(frozen=True)
class Difference:
    """What differs between two checkpoints.

    `same`: whether all tensors are the same bits. `same_rounded`: whether they are once all is rounded to float16, as
    a copy in float32 of a checkpoint in float16 is. `tensors`: each one's change. `settings`: what their
    configurations state differently. `embeddings`: {"images", "texts"}, each {"items", "cosine": {"mean",
    "smallest"} or None for other widths, "neighbours": {"of", "overlap"}}, the share of an item's nearest that are the
    same in both; None where it wasn't asked for. `digests` and `rounded`: of both.
    """

    same: bool
    same_rounded: bool
    tensors: tuple[TensorChange, ...]
    settings: tuple[str, ...]
    embeddings: Mapping[str, Any] | None
    digests: tuple[str, str]
    rounded: tuple[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: {"same", "tensors": [{"name", "change"}], "embeddings"}."""
        tensors = [{"name": tensor.name, "change": tensor.change} for tensor in self.tensors]
        return {"same": self.same, "tensors": tensors, "embeddings": self.embeddings}


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    embeddings: bool = True,
    backend: str = "auto",
    options: Options | None = None,
    limit: int = DRAWN,
) -> Difference:
    """What became of checkpoint `a` in checkpoint `b`; each a model id, a file or a folder on this machine.

    Embeddings are compared on at most `limit` pictures of the folder `images`, or drawn ones, and drawn ones' captions.
    `options` settles what the checkpoints don't tell. Raises InputError, ModelNotFound, WeightsError, ConfigError.
    """
    check_count("limit", limit)
    if limit < 3:
        raise InputError(f"limit is {limit}; expected at least 3, so that items have neighbours.")
    paths = [present(path) for path in (a, b)]
    sources = [open_source(path, options or Options()) for path in paths]
    pictures: Sequence[Any] = _pictures(images, limit) if embeddings else ()
    tensors, digests, rounded = _tensors(*sources)
    return Difference(
        digests[0] == digests[1],
        rounded[0] == rounded[1],
        tensors,
        _settings(sources[0].config.to_dict(), sources[1].config.to_dict()),
        _embeddings(paths, options, pictures, limit, backend) if embeddings else None,
        digests,
        rounded,
    )


def _tensors(a: Source, b: Source) -> tuple[tuple[TensorChange, ...], tuple[str, str], tuple[str, str]]:
    """What became of each tensor, and both digests of both. Two tensors are in memory at a time."""
    assemblies = [{name: r for name, r in source.tensors.items() if not ignored(name)} for source in (a, b)]
    expected = [tensor_shapes(source.config) for source in (a, b)]
    names = list(dict.fromkeys([*assemblies[0], *assemblies[1]]))
    exact: list[dict[str, Any]] = [{}, {}]
    rounded: list[dict[str, Any]] = [{}, {}]
    changes = []
    for name in names:
        stored = [part[name].read() if name in part else None for part in assemblies]
        for i, x in enumerate(stored):
            if x is not None and name in expected[i]:
                assembly = assemblies[i][name]
                exact[i][name] = (assembly.dtype, assembly.shape, tensor_digest(x))
                rounded[i][name] = (assembly.shape, rounded_digest(x, assembly.dtype))
        changes.append(TensorChange(name, _change(name, assemblies, stored)))
    one, other = (model_digest(found) for found in exact)
    first, second = (model_digest({n: ("F16", *entry) for n, entry in found.items()}) for found in rounded)
    return tuple(changes), (one, other), (first, second)


def _change(name: str, assemblies: Sequence[Mapping[str, Any]], stored: Sequence[Array | None]) -> str:
    before, after = stored
    if before is None or after is None:
        return "only in the second" if before is None else "only in the first"
    (a, b) = (part[name] for part in assemblies)
    if a.shape != b.shape:
        return f"another shape: {list(a.shape)} before, {list(b.shape)} after"
    return change_of(before, a.dtype, after, b.dtype)


def _settings(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """Each setting that differs, in words."""
    found: list[str] = []
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _settings(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key} is {one} in the first, {other} in the second")
    return tuple(found)


def _pictures(images: str | os.PathLike[str] | None, limit: int) -> Sequence[Any]:
    if images is None:
        return [world.scene(seed).draw() for seed in range(limit)]
    if not Path(images).is_dir():
        raise InputError(f"{os.fspath(images)} is not a folder; expected one of pictures.")
    found = images_in(Path(images)).images[:limit]
    if len(found) < 3:
        raise InputError(f"{os.fspath(images)} holds {len(found)} pictures; expected at least 3, to have neighbours.")
    return found


def _embeddings(
    paths: Sequence[Path], options: Options | None, pictures: Sequence[Any], limit: int, backend: str
) -> dict[str, Any]:
    activation: Any = None if options is None else options.activation
    config = None if options is None else options.config
    texts = [captions.caption(world.scene(seed)) for seed in range(limit)]
    found: list[list[Array | None]] = []
    for path in paths:
        model = AutoModel.from_pretrained(path, backend=backend, activation=activation, config=config)
        found.append([_images_of(model, pictures), _texts_of(model, texts)])
    return {kind: _comparison(*rows) for kind, *rows in zip(("images", "texts"), *found, strict=True)}


def _images_of(model: CLIP, pictures: Sequence[Any]) -> Array | None:
    return None if isinstance(model.config.vision, NoTower) else model.embed_images(pictures)


def _texts_of(model: CLIP, texts: Sequence[str]) -> Array | None:
    if isinstance(model.config.text, NoTower):
        return None
    try:
        ids = model.tokenize(texts, truncate=True)
    except InputError:  # a vocabulary that isn't here: ids of its size that end as texts end
        text = model.config.text
        end = text.vocab_size - 1 if text.end_of_text is None else text.end_of_text
        ids = np.random.default_rng(0).integers(0, end, (len(texts), min(8, text.context_length)), np.int32)
        ids[:, -1] = end
    return model.encode_text(ids)


def _comparison(a: Array | None, b: Array | None) -> dict[str, Any] | None:
    """How alike the embeddings [N, E] of the same items are; None where one hasn't got the tower."""
    if a is None or b is None:
        return None
    one, other = (unit_rows(x.astype(np.float64)) for x in (a, b))
    count = min(NEIGHBOURS, len(one) - 1)
    cosine = None
    if one.shape == other.shape:
        cosines = (one * other).sum(axis=1)
        cosine = {"mean": float(cosines.mean()), "smallest": float(cosines.min())}
    near = [_nearest(x, count) for x in (one, other)]
    overlap = np.mean([len(set(x) & set(y)) / count for x, y in zip(*near, strict=True)])
    return {"items": len(one), "cosine": cosine, "neighbours": {"of": count, "overlap": float(overlap)}}


def _nearest(unit: Array, count: int) -> list[list[int]]:
    """The nearest other items of each, [N][count]."""
    products = unit @ unit.T
    np.fill_diagonal(products, -np.inf)
    found: list[list[int]] = np.argsort(-products, axis=1, kind="stable")[:, :count].tolist()
    return found
