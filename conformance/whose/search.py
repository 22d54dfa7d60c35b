"""Which model and which way of making vectors explain a store: every variant is tried, until the numbers refuse it.

One item is embedded by every variant of every model; those that rounding alone separates from the stored vector stay,
and are tried on the next items. What stays in the end is named. Nothing is ranked by likeness: of two variants with a
cosine of 0.9999 one is explained by rounding, and the other isn't.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from ..grading.rounding import EPSILON
from ..protocol import Array
from .fitting import Form, forms, gram_digits, gram_misfit, is_beyond_chance, misfit, slack
from .models import Model
from .variants import AS_IT_IS, Variant
from .vectors import Grid

Verdict: TypeAlias = Literal["named", "one of", "none"]
# What float32 may err at most for a variant to be tried in float64, relative to the root mean square. Units measured
# on all published architectures are below 1e-5.
_SCREEN = 2.0**-9
# Items looked at beyond the limit, for one that tells apart what is left.
_SCANNED = 256
_GRAM_FIRST = 4
TURNED = "turned by an orthogonal map"


@dataclass(frozen=True)
class Candidate:
    """One explanation of the vectors.

    `model` is a name or path; `variant` an id, "as the model has it" or a known deviation, and `title` the same in
    words; `storage` the precision, and what was cut off; `normalised` whether the vectors had length 1, None where
    that can't be known; `error` the largest difference as a multiple of what storage and float32 arithmetic explain
    (1 and less: explained); `items` how many items it explains.
    """

    model: str
    variant: str
    storage: str
    normalised: bool | None
    error: float
    title: str = ""
    items: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        names = ("model", "variant", "storage", "normalised", "error")
        return {name: getattr(self, name) for name in names}


@dataclass
class Trial:
    """A variant of a model in a form, and how it did so far."""

    model: Model
    variant: Variant
    form: Form
    error: float = 0.0
    unit: float = 0.0
    items: int = 0
    turned: bool = False
    rows: list[Array] = field(default_factory=list)  # embeddings of the items so far, for products

    def candidate(self, grid: Grid) -> Candidate:
        """The trial as an explanation."""
        turned = f", {TURNED}" if self.turned else ""
        storage = self.form.describe(grid.storage, self.model.config.embed_dim)
        unit = self.form.unit
        if grid.storage == "int8" and (grid.steps is None or np.isnan(grid.steps).any()):
            unit = None
        variant, title = f"{self.variant.id}{turned}", f"{self.variant.title}{turned}"
        return Candidate(self.model.name, variant, storage, unit, self.error, title, self.items)


@dataclass(frozen=True)
class Item:
    """A picture or a text, opened when it is needed, and the row of its vector."""

    name: str
    row: int
    open: Callable[[], Any]


@dataclass
class Outcome:
    """What is left of all trials, the one that came nearest of the others, and how many items were looked at."""

    left: list[Trial]
    nearest: Trial | None
    refused_at: str | None  # the item at which the nearest one was refused
    looked_at: int
    tried: int
    digits_missing: bool = False  # products agree, but so few that chance might do it


class Search:
    """The trials of one store."""

    def __init__(self, grid: Grid, models: Sequence[Model], precision: str) -> None:
        self.grid, self.models, self.precision = grid, models, precision
        self._screen = _SCREEN * EPSILON[precision] / EPSILON["float32"]
        self._nearest: tuple[int, float] = (-1, -np.inf)
        self.nearest: Trial | None = None
        self.refused_at: str | None = None

    def run(self, items: Sequence[Item], limit: int) -> Outcome:
        """Try everything on the first item, and what is left on the others."""
        first = items[:limit]
        trials = list(self._all_trials())
        left, looked = self._direct(trials, first), len(first)
        missing = False
        if left and len(left) > 1:
            looked += self._tell_apart(left, items[limit : limit + _SCANNED])
        if not left and len(first) >= _GRAM_FIRST:
            left, missing = self._by_products(first)
        left.sort(key=lambda trial: (trial.variant.id != AS_IT_IS, trial.error))
        return Outcome(left, self.nearest, self.refused_at, looked, len(trials), missing)

    def _all_trials(self) -> Iterator[Trial]:
        stored = self.grid.values.shape[1]
        for model in self.models:
            for variant in model.variants:
                for form in self._forms(stored, model, variant):
                    yield Trial(model, variant, form)

    def _forms(self, stored: int, model: Model, variant: Variant) -> list[Form]:
        width = model.config.embed_dim
        if variant.fault is not None and variant.fault.id.endswith("projection-missing"):
            tower: Any = model.config.vision if model.kind == "image" else model.config.text
            width = tower.width
        found = forms(stored, width)
        # The direction is all that whole numbers have without their step.
        if self.grid.steps is not None and np.isnan(self.grid.steps).any():
            return found[:1]
        return found

    def _direct(self, trials: list[Trial], items: Sequence[Item]) -> list[Trial]:
        for item in items:
            opened = item.open()
            trials = [trial for trial in trials if self._explains(trial, item, opened)]
            for model in self.models:
                model.forget()
            if not trials:
                break
        return trials

    def _explains(self, trial: Trial, item: Item, opened: Any) -> bool:
        """Whether a trial explains an item's vector, too."""
        model, variant, form = trial.model, trial.variant, trial.form
        single = model.embedding(variant, opened, "float32")
        if single is None or single.ndim != 1:
            return False
        screened = misfit(self.grid, item.row, form.apply(single), form, self._screen)
        if not screened <= 1:
            near = slack(max(trial.unit, EPSILON["float32"]), self.precision)
            self._refuse(trial, item, misfit(self.grid, item.row, form.apply(single), form, near))
            return False
        exact = model.embedding(variant, opened, "float64")
        if exact is None:
            return False
        trial.unit = max(trial.unit, model.unit(variant, opened))
        error = misfit(self.grid, item.row, form.apply(exact), form, slack(trial.unit, self.precision))
        if not error <= 1:
            self._refuse(trial, item, error)
            return False
        trial.error, trial.items = max(trial.error, error), trial.items + 1
        return True

    def _refuse(self, trial: Trial, item: Item, error: float) -> None:
        """Remember what was refused last, by least."""
        if (trial.items, -error) > self._nearest:
            self._nearest = (trial.items, -error)
            self.nearest, self.refused_at = trial, item.name
            trial.error = error

    def _tell_apart(self, left: list[Trial], items: Sequence[Item]) -> int:
        """Try what is left on further items, those alone whose pixels or ids it makes differently."""
        looked = 0
        for item in items:
            opened = item.open()
            made = {trial.model.input(trial.variant, opened).tobytes() for trial in left}
            if len(made) > 1:
                looked += 1
                left[:] = [trial for trial in left if self._explains(trial, item, opened)]
            for model in self.models:
                model.forget()
            if len(left) < 2:
                break
        return looked

    def _by_products(self, items: Sequence[Item]) -> tuple[list[Trial], bool]:
        """What explains the products between vectors, where nothing explains the vectors: they were turned."""
        forms = [Form(False), Form(True)]
        stored = self.grid.values.shape[1]
        trials = [
            Trial(model, variant, form, turned=True)
            for model in self.models
            for variant in model.variants
            for form in forms
            if model.config.embed_dim == stored
        ]
        if self.grid.steps is not None and np.isnan(self.grid.steps).any():
            trials = [trial for trial in trials if trial.form.unit]
        tried, opened = len(trials), []
        for count, item in enumerate(items, 1):
            opened.append(item.open())
            trials = [t for t in trials if self._products_fit(t, opened[-1], [i.row for i in items[:count]], "float32")]
            for model in self.models:
                model.forget()
        for trial in trials:
            trial.rows.clear()
        rows = [item.row for item in items]
        left, missing = [], False
        for trial in trials:
            units = [trial.model.unit(trial.variant, picture) for picture in opened]
            exact = [trial.model.embedding(trial.variant, picture, "float64") for picture in opened]
            trial.unit = max(units)
            expected = np.stack([row for row in exact if row is not None])
            tolerance = slack(trial.unit, self.precision)
            trial.error = gram_misfit(self.grid, rows, expected, bool(trial.form.unit), tolerance)
            trial.items = len(items)
            if trial.error <= 1:
                digits = gram_digits(self.grid, rows, expected, bool(trial.form.unit), tolerance)
                beyond = is_beyond_chance(digits, tried)
                left += [trial] * beyond
                missing = missing or not beyond
        return left, missing and not left

    def _products_fit(self, trial: Trial, opened: Any, rows: list[int], dtype: Any) -> bool:
        row = trial.model.embedding(trial.variant, opened, dtype)
        if row is None or row.shape != self.grid.values.shape[1:]:
            return False
        trial.rows.append(row)
        return gram_misfit(self.grid, rows, np.stack(trial.rows), bool(trial.form.unit), self._screen) <= 1
