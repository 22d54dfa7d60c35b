"""The README is run: its Python example as it stands, with the results it gives, and its commands of the examples."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipref
from clipref import cli, hub
from clipref.backends import backends
from clipref.conformance.faults import FAULTS
from clipref.kernels.command import precisions
from clipref.weights_tools.shapes import world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("kernels/*.md"), *ROOT.glob("conformance/*.md")]


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["model"], clipref.CLIP) and len(names["corpus"]) == 3  # type: ignore[arg-type]
    results = re.findall(
        r"^(model\.(?:compare|classify|search)\(.+?)  # ([\[{].+?[\]}])(?:: .*)?$", block, flags=re.MULTILINE
    )
    assert len(results) == 5
    for call, result in results:
        assert rounded(eval(call, names)) == ast.literal_eval(result), call


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```sh\n(clipref compare.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("scene.png", "a.jpg", "b.jpg")):
        world.scene(seed).draw().save(name)
    for line in block.splitlines():
        assert cli.main(shlex.split(line)[1:]) == 0, line
    assert len(np.load("photos.npy")) == 3 and (tmp_path / "photos.names.json").exists()


def rounded(value: Any) -> Any:
    """The value with its floats to two decimals."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rounded(entry) for entry in value)
    return round(value, 2) if isinstance(value, float) else value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_words_in_code_are_there() -> None:
    """Names of functions and files in the glossary."""
    words = (ROOT / "docs" / "GLOSSARY.md").read_text(encoding="utf-8")
    files = re.findall(r"`([\w/]+\.(?:py|md))`", words)
    assert files and all((ROOT / file).exists() for file in files)
    functions = re.findall(r"`(\w+)\.(\w+)`", words)
    functions = [(module, name) for module, name in functions if name not in ("py", "json")]
    assert functions
    for module, name in functions:
        assert hasattr(import_module(f"clipref.{module}"), name), f"{module}.{name}"


def test_the_table_of_precisions_is_what_the_code_states() -> None:
    table = README.partition("<!-- clipref kernels --precisions -->\n")[2].partition("\n<!-- end -->")[0]
    assert table == precisions()


def test_the_faults_are_counted() -> None:
    assert f"each of its {len(FAULTS)} known faults" in README


def test_every_model_and_backend_is_named() -> None:
    for name in hub.models():
        assert name.partition("/")[2] in README
    for name, entry in backends().items():
        assert f'`"{name}"`' in README or (entry is not None and not entry.value.startswith("clipref."))
