"""The door for kernel sets: the page that shows how to write one is run, and a wrong operation is caught by name."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from clipref import AutoModel, BackendError, ops
from clipref import backends as engines
from clipref.cli import main
from clipref.kernels.check import BUDGET, cases, check, check_operations, errors

from .conftest import FASTEST, pictures
from .tolerances import assert_close

PAGE = (Path(__file__).parent.parent / "kernels" / "README.md").read_text(encoding="utf-8")
EXAMPLE, CHECK = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType], None]]:
    """Puts a module behind the backend `mine`."""

    def put(module: ModuleType) -> None:
        monkeypatch.setitem(sys.modules, "mine", module)
        found = [EntryPoint("mine", "mine", "clipref.kernels"), *entry_points(group="clipref.kernels")]
        monkeypatch.setattr(engines, "entry_points", lambda group: found)

    yield put


def example() -> ModuleType:
    module = ModuleType("mine")
    exec(compile(EXAMPLE, "kernels/README.md", "exec"), module.__dict__)
    return module


def test_the_example_is_a_backend(
    register: Callable[[ModuleType], None],
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "processor_features", frozenset)
    register(example())
    exec(compile(CHECK, "kernels/README.md", "exec"), {})
    assert len(EXAMPLE.splitlines()) <= 30
    mine, plain = (AutoModel.from_pretrained(tiny, backend=backend) for backend in ("mine", "reference"))
    assert_close(mine.embed_images(pictures(2)), plain.embed_images(pictures(2)), "onnx")
    assert_close(mine.embed_text(["a cat", "a red dog"]), plain.embed_text(["a cat", "a red dog"]), "onnx")
    assert main(["kernels"]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["mine"].split() == ["mine", "yes", "float32,", "float64", "no", "mine", "layer_norm,", "quick_gelu"]
    assert f"{FASTEST} (auto)" in lines and lines["reference"].endswith("nothing")


MUTANTS: dict[str, Callable[..., object]] = {
    "linear": lambda x, weight, bias=None: x @ weight.T,
    "layer_norm": lambda x, weight, bias: ops.layer_norm(x * 1.001 + 0.0, weight, bias),
    "quick_gelu": ops.gelu,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    "relu": lambda x: np.where(x > 0, x, 0.0).astype(x.dtype),  # loses NaN
    "softmax": lambda x: ops.softmax(x * 1.0001),
    "attention": lambda q, k, v, visible=None: ops.attention(q, k, v),
    "conv2d": lambda x, weight, stride=1, padding=0: ops.conv2d(x, weight[:, :, ::-1], stride, padding),
    "batch_norm": lambda x, w, b, mean, variance: ops.batch_norm(x, w, b, mean, variance + 1e-5),
    "avg_pool": lambda x, size: ops.avg_pool(x[:, :, ::-1], size),
    "prepend_mean": lambda x: ops.prepend_token(x, x[0, 0]),
    "prepend_token": lambda x, token: np.concatenate([x, ops.prepend_token(x, token)[:, :1]], axis=1),
    "add_positions": lambda x, table, positions=None: ops.add_positions(x, table),
    "embed": lambda ids, weight: weight[ids - 1],
    "take": lambda x, positions: x[:, : positions.shape[1]],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_operation_is_caught(name: str) -> None:
    kernels = engines.overlay(SimpleNamespace(**{name: MUTANTS[name]}))
    wrong = [found for found in errors(kernels, "float32") if not found.units <= BUDGET]
    assert {found.operation for found in wrong} == {name}, wrong


def in_place(x: np.ndarray) -> np.ndarray:
    x *= x > 0
    return x


@pytest.mark.parametrize(
    "relu",
    [
        lambda x: ops.relu(x).astype(np.float64),
        lambda x: ops.relu(x)[None],
        lambda x: ops.relu(x)[:1],
        in_place,
        lambda x: ops.relu(x) * np.nan,
    ],
    ids=["float64", "another axis", "too few", "in place", "NaN"],
)
def test_a_wrong_kind_of_result_is_caught(relu: Callable[[np.ndarray], np.ndarray]) -> None:
    found = [f.units for f in errors(engines.overlay(SimpleNamespace(relu=relu)), "float32") if f.operation == "relu"]
    assert max(found) == float("inf")


def reads_memory(x: np.ndarray) -> np.ndarray:
    """As a kernel in C that takes a pointer for an array in a row."""
    strided = np.lib.stride_tricks.as_strided
    return ops.relu(strided(x, x.shape, np.empty(x.shape, x.dtype).strides))


def test_an_operation_that_takes_every_array_for_contiguous_is_caught() -> None:
    kernels = engines.overlay(SimpleNamespace(relu=reads_memory))
    wrong = [found for found in errors(kernels, "float32") if not found.units <= BUDGET]
    assert {(found.operation, found.given) for found in wrong} == {("relu", "strided")}, wrong


def test_an_operation_that_writes_to_its_input_for_a_while_is_caught() -> None:
    def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        x += 1.0
        y = ops.layer_norm(x, weight, bias)
        x -= 1.0
        return y

    found = [f for f in errors(engines.overlay(SimpleNamespace(layer_norm=layer_norm)), "float64") if f.problem]
    assert any(f.given == "read-only" and "read-only" in str(f.problem) for f in found)


def test_every_operation_is_checked_and_right() -> None:
    assert {name for name, _ in cases()} == set(vars(engines.overlay(None))) == MUTANTS.keys()
    check_operations("reference")
    assert max(max(units.values()) for units in check("reference").units.values()) < BUDGET / 1.5


def test_only_the_dtypes_that_a_set_states_are_asked_for(register: Callable[[ModuleType], None]) -> None:
    module = example()
    register(module)
    assert set(check("mine").units["relu"]) == {"float32", "float64"}
    module.TRAITS = engines.Traits(dtypes=("float32",))  # type: ignore[attr-defined]
    assert set(check("mine").units["relu"]) == {"float32"}


@pytest.mark.parametrize("names", [["layernorm"], ["quickGelu", "Linear"], ["forward"], []])
def test_a_set_without_a_single_operation_is_refused(
    names: list[str], register: Callable[[ModuleType], None], tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("mine")
    for name in names:
        setattr(module, name, ops.layer_norm)
    register(module)
    near = {"layernorm": "'layernorm' \\(is it 'layer_norm'", "quickGelu": "'Linear' \\(is it 'linear'"}
    with pytest.raises(
        BackendError, match=f"'mine' has no function of clipref.ops.*{near.get(''.join(names[:1]), '')}"
    ):
        AutoModel.from_pretrained(tiny_vit, backend="mine")
    assert main(["kernels", "--check", "mine"]) == 1 and "no function of clipref.ops" in capsys.readouterr().err
    assert main(["kernels", "--json"]) == 0
    (mine,) = (entry for entry in json.loads(capsys.readouterr().out) if entry["name"] == "mine")
    assert not mine["runs"]


def test_command_shows_speeds_that_backends_state_of_this_processor(
    register: Callable[[ModuleType], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def speed(precision: str, kind: str, features: frozenset[str]) -> float:
        assert features == engines.processor_features()
        return 0.0 if precision == "float64" else 0.1 + (kind == "resnet")

    module = example()
    module.TRAITS = engines.Traits({"float32": "x", "float64": "x"}, speed=speed)  # type: ignore[attr-defined]
    register(module)
    assert main(["kernels"]) == 0
    (mine,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mine"))
    assert mine.split("  ")[0] == "mine" and "  float32 (0.1, 1.1), float64  " in mine
    assert main(["kernels", "--json"]) == 0
    (entry,) = (entry for entry in json.loads(capsys.readouterr().out) if entry["name"] == "mine")
    assert entry["speeds"] == {"float32": {"vit": 0.1, "resnet": 1.1}, "float64": {"vit": 0, "resnet": 0}}


@pytest.mark.parametrize(("name", "meant"), [("avgpool", "avg_pool"), ("Conv2D", "conv2d"), ("sofmtax", "softmax")])
def test_a_misspelt_operation_among_others_is_refused(
    name: str, meant: str, register: Callable[[ModuleType], None], tiny_vit: Path
) -> None:
    module = example()
    module.prepare_weights = len  # type: ignore[attr-defined]  # a helper, by any name of its own
    register(module)
    AutoModel.from_pretrained(tiny_vit, backend="mine")
    setattr(module, name, ops.layer_norm)
    with pytest.raises(BackendError, match=f"nearly an operation's; it has '{name}' \\(is it '{meant}'"):
        AutoModel.from_pretrained(tiny_vit, backend="mine")


def test_command_checks(register: Callable[[ModuleType], None], capsys: pytest.CaptureFixture[str]) -> None:
    module = example()
    module.quick_gelu = ops.gelu  # type: ignore[attr-defined]
    register(module)
    with pytest.raises(AssertionError, match=r"quick_gelu: off by .* eps of the RMS.*\(float32"):
        check_operations("mine")
    assert main(["kernels", "--check", "mine"]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "WRONG" in line)
    assert line.startswith("quick_gelu")
    assert main(["kernels", "--check", "mine", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == ["quick_gelu"]
    assert main(["kernels", "--check", "onnx"]) == 1
    assert "an engine of its own" in capsys.readouterr().err


def test_what_cannot_run_says_why(
    register: Callable[[ModuleType], None], tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("mine")

    def available() -> None:
        raise BackendError("There is no accelerator here.")

    module.available = available  # type: ignore[attr-defined]
    register(module)
    assert main(["kernels", "--json"]) == 0
    (mine,) = (entry for entry in json.loads(capsys.readouterr().out) if entry["name"] == "mine")
    assert not mine["runs"] and mine["why not"] == "There is no accelerator here."
    with pytest.raises(BackendError, match="There is no accelerator here"):
        AutoModel.from_pretrained(tiny_vit, backend="mine")
