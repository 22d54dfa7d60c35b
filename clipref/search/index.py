"""`Index`: a folder of pictures, and the store that knows their vectors; what the commands are made of."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..arguments import check_count
from ..clip import CLIP
from ..errors import InputError
from ..similarity import cosines, finite_embeddings, unit_vectors
from .query import Hit, Known, Restriction, Term, combination, terms_of
from .reading import pixels_function
from .records import Identity
from .scan import nearest_slots, scores_of
from .store import FOLDER, Store

if TYPE_CHECKING:
    from .update import Summary

Array: TypeAlias = NDArray[Any]

# Rows of which the database is asked at a time: SQLite takes at least 999 variables in one statement.
ASKED = 900
# Rows that are widened at a time; at 1024 float32 each, 32 MB.
BLOCK_ROWS = 8192


class Index:
    """The pictures of a folder, by their meaning. Paths are relative to the folder, with slashes.

    `model` is a CLIP, or whatever `AutoModel.from_pretrained` takes; without it, the store's own is opened when it is
    needed. The store is in `folder/.clipref`, or in the folder `store`. Pictures are turned upright as their EXIF says
    unless `upright=False`, as OpenAI's CLIP saw them. `hot` keeps the vectors in memory as float32, for many searches.

    Safe for several threads; several processes may have the same store open, and write to it.
    Raises StoreError if the store is another model's or can't be opened, InputError if there is no such folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: CLIP | str | os.PathLike[str] | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        upright: bool = True,
        hot: bool = False,
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        if not self.folder.is_dir():
            raise InputError(f"{os.fspath(folder)!r} is not a folder; expected one with pictures in it.")
        self.place = self.folder / FOLDER if store is None else Path(os.path.abspath(store))
        self.upright = bool(upright)
        self.hot = hot
        self._hot: tuple[tuple[int, int], Array] | None = None
        self._model: CLIP | None = None
        if model is None:
            self.store = Store(self.place)
            self.upright = self.store.is_upright
        else:
            self._model = model if isinstance(model, CLIP) else _open(model)
            self.store = Store(self.place, identity_of(self._model, self.upright), about(self._model))

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.store.count()

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}, {self.store.meta['model']!r}, {len(self)} pictures)"

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @property
    def model(self) -> CLIP:
        """The model; where none was given, the one that the store was made with, opened now. Raises ClipError."""
        if self._model is None:
            meta = self.store.meta
            model = _open(meta["model"], revision=meta.get("revision") or None)
            self.store.check_identity(identity_of(model, self.upright))
            self._model = model
        return self._model

    # What is in it.

    @property
    def paths(self) -> list[str]:
        """Paths of all pictures that have a vector, in the order of `vectors`."""
        return [path for path, _ in self._slots_and_rows()[0]]

    @property
    def vectors(self) -> Array:
        """Unit vectors [N, E] float16, read-only, in the order of `paths`.

        A memory map where every picture has a vector of its own; else a copy, since equal files share one.
        """
        placed, rows = self._slots_and_rows()
        slots = np.array([slot for _, slot in placed], np.int64)
        if np.array_equal(slots, np.arange(len(rows))):
            return rows
        copied: Array = rows[slots]
        copied.flags.writeable = False
        return copied

    def snapshot(self) -> tuple[list[str], Array]:
        """`paths` and `vectors` of one moment, whatever other processes write meanwhile; vectors are a copy."""
        placed, rows = self._slots_and_rows()
        return [path for path, _ in placed], rows[np.array([slot for _, slot in placed], np.int64)]

    def _slots_and_rows(self) -> tuple[list[tuple[str, int]], Array]:
        with self.store.reading() as db:
            found = db.execute("SELECT path, slot FROM image WHERE slot IS NOT NULL ORDER BY slot, path")
            return [(os.fsdecode(path), slot) for path, slot in found], self.store.rows(db)

    def pictures(self, ids: Sequence[int]) -> dict[int, Known]:
        """Pictures by the `id` that hits have, with what is known of each; those that are gone are left out."""
        found: dict[int, Known] = {}
        with self.store.reading() as db:
            rows = self.store.rows(db)
            for start in range(0, len(ids), ASKED):
                part = list(ids[start : start + ASKED])
                for number, path, width, height, taken, slot in db.execute(
                    "SELECT id, path, width, height, taken, slot FROM image JOIN content USING (slot) "
                    f"WHERE id IN ({','.join('?' * len(part))})",
                    part,
                ):
                    found[number] = Known(os.fsdecode(path), width, height, taken, np.array(rows[slot]))
        return found

    def errors(self) -> list[tuple[str, str]]:
        """Paths of pictures that have no vector, and why."""
        return [(os.fsdecode(path), error) for path, error in self.store.errors()]

    def undated(self) -> int:
        """How many pictures with a vector don't tell when they were taken."""
        with self.store.reading() as db:
            query = "SELECT count(*) FROM image JOIN content USING (slot) WHERE taken IS NULL"
            return int(db.execute(query).fetchone()[0])

    def unknown(self, paths: Iterable[str | os.PathLike[str]]) -> int:
        """How many of these paths have no vector. Raises InputError."""
        known = self.store.rows_by_path()
        rows = [known.get(self.relative(path)) for path in paths]
        return sum(row is None or row.slot is None for row in rows)

    # What changes it.

    def update(self, *, batch_size: int = 32, progress: bool = False, retry: bool = False) -> Summary:
        """Embed what is new or changed in the folder, and forget what has gone from it; see clipref/search/update.py.

        `retry` looks again at pictures that could not be read. `progress` shows a bar on standard error.
        Raises StoreError, WeightsError, ...; what was embedded by then is kept.
        """
        from .update import update

        check_count("batch_size", batch_size)
        return update(self, batch_size, progress, retry)

    def add(self, paths: Iterable[str | os.PathLike[str]], *, batch_size: int = 32) -> Summary:
        """Embed these files of the folder, new or changed or not. Raises InputError for one that is elsewhere."""
        from .update import add

        check_count("batch_size", batch_size)
        return add(self, [self.relative(path) for path in paths], batch_size)

    def remove(self, paths: Iterable[str | os.PathLike[str]]) -> int:
        """Forget these pictures, files that are there or not, until the next `update`; returns how many were known."""
        known = self.store.rows_by_path()
        rows = [row for path in paths if (row := known.get(self.relative(path)))]
        self.store.drop(rows)
        return len(rows)

    def relative(self, path: str | os.PathLike[str]) -> bytes:
        """A path as the store has it; one that isn't absolute is meant from the folder. Raises InputError."""
        absolute = os.path.abspath(self.folder / path)
        top = os.path.join(self.folder, "")
        if not absolute.startswith(top):
            raise InputError(f"{os.fspath(path)!r} is not in {self.folder}; expected a path in that folder.")
        return os.fsencode(absolute[len(top) :].replace(os.sep, "/"))

    # Questions.

    def search(
        self,
        query: str | Term | Iterable[str | Term],
        *,
        minus: str | Sequence[str] = (),
        top_k: int = 10,
        min_score: float | None = None,
        within: float | None = None,
        after: str | None = None,
        before: str | None = None,
        path: str | None = None,
        paths: Iterable[str | os.PathLike[str]] | None = None,
    ) -> list[Hit]:
        """The pictures nearest to a query, best first; of equal ones the first that was indexed.

        `query`: a text, a `Term`, or several, added up; `minus`: texts that are taken away, `Term(text, -1)` for short.
        Hits have a score of at least `min_score`, and of at least the best one's less `within`; were taken from `after`
        on and before `before` ("2024", "2024-05-31"; pictures without a date were not); have a path that fits the glob
        `path`; and are among `paths`. The search is exact. Raises InputError, and whatever the model raises.
        """
        check_count("top_k", top_k)
        negatives = [minus] if isinstance(minus, str) else list(minus)
        terms = terms_of(query) + [Term(text, -1.0) for text in negatives]
        listed = None if paths is None else {self.relative(path) for path in paths}
        restriction = Restriction(after, before, path, listed)
        units = self.embed_terms(terms)
        hits = self._nearest(combination(terms, units), units, restriction, top_k)
        least = -np.inf if min_score is None else min_score
        if within is not None and hits:
            least = max(least, hits[0].score - within)
        return [hit for hit in hits if hit.score >= least]

    def embed_terms(self, terms: Sequence[Term]) -> Array:
        """Unit vectors [T, E] float32 of a query's terms; images are preprocessed as those of the store were."""
        texts = [term.text for term in terms if term.text is not None]
        embedded = iter(self.model.embed_text(texts, normalize=True) if texts else ())
        rows: list[Array] = []
        for i, term in enumerate(terms):
            if term.text is not None:
                rows.append(next(embedded))
            elif term.vector is not None:
                rows.append(term.direction(self.store.embed_dim))
            else:
                image = self.model.encode_image(pixels_function(self.model, self.upright)(term.image)[None])
                rows.append(finite_embeddings(image, "term", [i], normalize=True)[0])
        return np.stack(rows).astype(np.float32)

    def _nearest(self, query: Array, units: Array, restriction: Restriction, top_k: int) -> list[Hit]:
        with self.store.reading() as db:
            rows = self.store.rows(db)
            scores = self._scores(query, rows, self.store.extent(db)[0])
            scores[self.store.holes(db)] = -np.inf
            if not restriction.is_none:
                allowed = np.zeros(len(rows), bool)
                found = db.execute("SELECT path, taken, slot FROM image JOIN content USING (slot)")
                for path, taken, slot in found:
                    if restriction.allows(path, taken):
                        allowed[slot] = True
                scores[~allowed] = -np.inf
            count = top_k
            while True:  # a slot has one picture or several, or none for a moment
                slots, found_scores = nearest_slots(scores, query, rows, count)
                hits = list(self._hits(db, slots, found_scores, units, rows, restriction))
                if len(hits) >= top_k or len(slots) < count:
                    return hits[:top_k]
                count *= 4

    def _scores(self, query: Array, rows: Array, generation: int) -> Array:
        """Cosines [S] of a unit vector [E] with all rows, within what `nearest_slots` allows for."""
        if not self.hot:
            return scores_of(query, rows)
        kept = self._hot
        if kept is None or kept[0] != (generation, len(rows)):
            kept = self._hot = (generation, len(rows)), as_unit_vectors(rows)
        scores: Array = kept[1] @ query
        return scores

    def _hits(
        self, db: Any, slots: Array, scores: Array, units: Array, rows: Array, restriction: Restriction
    ) -> Iterator[Hit]:
        """The pictures of slots [n], with scores [n], in that order."""
        for start in range(0, len(slots), ASKED):
            part = slots[start : start + ASKED].tolist()
            found: dict[int, list[Any]] = {}
            for slot, *facts in db.execute(
                "SELECT slot, path, width, height, taken, id FROM image JOIN content USING (slot) "
                f"WHERE slot IN ({','.join('?' * len(part))}) ORDER BY path",
                part,
            ):
                found.setdefault(slot, []).append(facts)
            for slot, score in zip(part, scores[start : start + ASKED].tolist(), strict=True):
                vector = unit_vectors(rows[slot].astype(np.float32))
                each = tuple(cosines(units, vector).tolist())
                for path, width, height, taken, number in found.get(slot, ()):
                    if restriction.allows(path, taken):
                        yield Hit(os.fsdecode(path), score, each, width, height, taken, number)


def as_unit_vectors(rows: Array) -> Array:
    """Unit vectors [S, E] float32 of rows as they are stored, made a block at a time."""
    wide = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        wide[start : start + BLOCK_ROWS] = unit_vectors(rows[start : start + BLOCK_ROWS].astype(np.float32))
    return wide


def identity_of(model: CLIP, upright: bool) -> Identity:
    """What of a model, and of how it is given pictures, decides a vector."""
    settings = {**dataclasses.asdict(model.config.preprocess), "upright": upright}
    settings["resolution"] = model.config.vision.resolution
    precision = "float32" if model.precision == "float64" else model.precision
    return Identity(model.digest, model.config.embed_dim, precision, json.dumps(settings, sort_keys=True))


def about(model: CLIP) -> dict[str, str]:
    """What is kept with a store for people, and to open the model again."""
    source = model.source if not os.path.exists(model.source) else os.path.abspath(model.source)
    return {
        "model": source,
        "revision": model.revision or "",
        "backend": model.backend,
        "clipref": __version__,
    }


def _open(name: str | os.PathLike[str], revision: str | None = None) -> CLIP:
    from ..model import AutoModel

    return AutoModel.from_pretrained(name, revision=revision)
