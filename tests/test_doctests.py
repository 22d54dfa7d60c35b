"""The examples in public docstrings are run, and every public method has one."""

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import clipref
from clipref.classifier import Classifier
from clipref.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
ROOMS = {"clipref": "clipref", "kernels": "clipref.kernels", "weights_tools": "clipref.weights_tools"}
FLAGS = doctest.ELLIPSIS | doctest.FAIL_FAST


def modules() -> Iterator[str]:
    """The modules that have examples."""
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                inner = path.relative_to(ROOT / folder).with_suffix("").parts
                yield ".".join([package, *(part for part in inner if part != "__init__")])


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", list(modules()))
def test_examples_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names: dict[str, Any] = {}
    for test in sorted(
        examples(module), key=lambda test: (test.name.count("."), test.name)
    ):  # of classes, then methods
        test.globs = names
        report: list[str] = []
        failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False).failed
        assert not failed, "".join(report)
    assert names


def public_callables() -> Iterator[tuple[str, Any]]:
    for owner in (clipref.AutoModel, clipref.CLIP, Classifier, Tokenizer):
        for name, member in vars(owner).items():
            if not name.startswith("_") and not isinstance(member, property):
                yield f"{owner.__name__}.{name}", inspect.unwrap(getattr(owner, name))
    yield from (("preprocess", clipref.preprocess), ("tokenize", clipref.tokenize))


@pytest.mark.parametrize(
    "name, member", list(public_callables()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_public_method_has_an_example(name: str, member: Any) -> None:
    assert ">>> " in (inspect.getdoc(member) or ""), f"{name} shows no example"
