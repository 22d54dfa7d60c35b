"""The package as a whole: what importing it costs, and which way its arrows point."""

import subprocess
import sys
from pathlib import Path

import pytest

import clipref

from .imports import imported, mentions

HEAVY = {"torch", "openvino", "onnx", "onnxruntime", "PIL", "ftfy", "regex", "huggingface_hub", "safetensors", "tqdm"}
ROOT = Path(__file__).parent.parent


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_light() -> None:
    loaded = run("import sys, clipref; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "clipref" in loaded and not HEAVY & set(loaded)


def test_a_runtime_is_imported_only_when_chosen() -> None:
    code = """import sys, clipref
model = clipref.AutoModel.from_pretrained("clipref/shapes-vit")
print(model.backend, *sorted({"torch", "openvino", "onnxruntime"} & set(sys.modules)))"""
    backend, *runtimes = run(code).split()
    assert set(runtimes) <= {{"onnx": "onnxruntime"}.get(backend, backend)}


def test_every_public_name_is_there() -> None:
    for name in clipref.__all__:
        assert getattr(clipref, name) is not None
    assert callable(clipref.preprocess) and callable(clipref.tokenize) and set(dir(clipref)) == set(clipref.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Clip'"):
        clipref.Clip  # noqa: B018


def test_public_functions_survive_an_import_of_their_modules() -> None:
    code = "import clipref.model, clipref.preprocessing, clipref; print(callable(clipref.preprocess))"
    assert run(code).strip() == "True"


ROOMS = {"kernels", "weights_tools", "conformance", "benchmarks", "tests"}
# Which rooms a room may know beside clipref and itself.
KNOWN = {"clipref": set(), "kernels": set(), "weights_tools": {"kernels"}, "conformance": {"kernels", "weights_tools"}}


@pytest.mark.parametrize("room", KNOWN)
def test_arrows_point_one_way(room: str) -> None:
    forbidden = ROOMS - KNOWN[room] - {room}
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in (path for path in files if mentions(path, forbidden)):
        for module in imported(path):
            assert not forbidden & set(module.split(".")), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "code",
    [
        "import clipref.kernels.blas",
        "from clipref import kernels",
        "from .kernels.blas import conv2d",
        "import importlib; importlib.import_module('clipref.kernels.blas')",
        "from importlib import import_module; import_module('.kernels', 'clipref')",
        "def f(): __import__('clipref.kernels')",
    ],
)
def test_an_arrow_is_seen_however_it_is_written(code: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code, encoding="utf-8")
    assert any("kernels" in module.split(".") for module in imported(tmp_path / "module.py"))
