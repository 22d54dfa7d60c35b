"""The exercises of the chapters: each with the right function, arguments to try it on, and mistakes that have names."""

from __future__ import annotations

from ..grading import Exercise
from . import inputs, maps, scores, towers

EXERCISES: dict[str, Exercise] = {**inputs.EXERCISES, **towers.EXERCISES, **maps.EXERCISES, **scores.EXERCISES}
