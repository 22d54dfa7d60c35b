"""Exercises of the chapters: the right function is right, and each planted mistake is called by its name."""

from typing import Any

import numpy as np
import pytest

from clipref.errors import InputError
from clipref.learn import exercises, grade

EXERCISES = exercises()
MISTAKES = [(name, what) for name, exercise in EXERCISES.items() for what in exercise.mistakes]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_is_right(name: str) -> None:
    found = grade(name, EXERCISES[name].right)
    assert found.right and repr(found) == "right" and found.mistake is None


@pytest.mark.parametrize("name, what", MISTAKES)
def test_a_mistake_is_called_by_its_name(name: str, what: str) -> None:
    with np.errstate(all="ignore"):
        found = grade(name, EXERCISES[name].mistakes[what])
    assert not found.right and found.mistake == what and repr(found) == f"not yet: {what}"


@pytest.mark.parametrize("name", EXERCISES)
def test_other_mistakes_are_told_by_numbers(name: str) -> None:
    right = EXERCISES[name].right

    def half_as_much(*arguments: Any) -> Any:
        return np.asarray(right(*arguments))[..., None]

    found = grade(name, half_as_much)
    assert not found.right and found.mistake is None and "the shape" in found.words


def test_what_an_answer_may_do() -> None:
    def raises(x: Any, y: Any) -> None:
        raise ZeroDivisionError("no")

    def changes(x: Any, y: Any) -> Any:
        x /= 2
        return x @ y

    assert "raises ZeroDivisionError: no" in grade("cosine", raises).words
    assert "changes its arguments" in grade("cosine", changes).words
    assert "`return`" in grade("cosine", lambda x, y: None).words
    assert "complex" in grade("cosine", lambda x, y: 1j).words
    assert "something" not in grade("cosine", lambda x, y: float("nan")).words
    assert "isn't finite" in grade("cosine", lambda x, y: float("nan")).words
    assert "something else: off by" in grade("cosine", lambda x, y: 0.123).words
    assert "TypeError" in grade("cosine", lambda x: x).words
    assert "['r', 'e', 'd'], where [" in grade("symbols", lambda word, ranks: list("red")).words
    with pytest.raises(InputError, match=r"no exercise 'cosin'. Did you mean 'cosine'\? Expected one of .*cosine"):
        grade("cosin", changes)
    with pytest.raises(InputError, match="is a function, not float"):
        grade("cosine", 0.5)
