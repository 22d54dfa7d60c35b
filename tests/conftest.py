"""What the tests share: a tiny checkpoint of each architecture, and images."""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from clipref.config import PreprocessConfig
from clipref.conformance.protocol import Case
from clipref.weights_tools import synthetic

from . import cases
from .budget import pytest_runtest_call as pytest_runtest_call
from .budget import pytest_terminal_summary as pytest_terminal_summary
from .engine_questions import TINY_VIT, questions
from .fault_answers import Kept, kept_answers

if TYPE_CHECKING:
    from .live_server import Live

HERE = Path(__file__).parent
TINY = {"vit": cases.TINY["vit-a"], "resnet": cases.TINY["rn-a"]}
LARGEST = ("clip/RN50x16", "clip/RN50x64", "clip/ViT-L-14", "the_largest_published")
# What `auto` takes where a processor tells nothing of itself.
FASTEST = "openvino" if importlib.util.find_spec("openvino") else "onnx"
MERGES = "#version: 0.2\na t</w>\nc at</w>\nd o\ndo g</w>\nr e\nre d</w>\nb l\n"


def pytest_xdist_setupnodes() -> None:
    """Before xdist starts its workers: each gets one thread of BLAS, or they would wait for one another's threads."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Of xdist's workers, every other one compiles test files from the last one on, where all are asked for.

    pytest keeps what it compiled: in a fresh checkout, two workers meet in the middle and each does half.
    """
    worker: str = getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"]
    whole = [Path(argument).resolve() for argument in session.config.args] == [HERE]
    if whole and int(worker.removeprefix("gw")) % 2:
        for path in sorted(HERE.glob("test_*.py"), reverse=True):
            with contextlib.suppress(Exception, pytest.skip.Exception):  # which collecting it tells
                import_module(f"{__package__}.{path.stem}")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what has the largest models, two of which would need more memory at once than there is; and slow cases."""
    for item in items:
        fast, slow = (item.get_closest_marker(name) for name in ("fast_cases", "slow_cases"))
        if (fast and not _has_part(item, fast.args)) or (slow and _has_part(item, slow.args)):
            item.add_marker(pytest.mark.slow)
        if any(name in item.nodeid for name in LARGEST):
            item.add_marker(pytest.mark.largest)


def _has_part(item: pytest.Item, parts: tuple[str, ...]) -> bool:
    return any(part in item.name for part in parts)


@pytest.fixture(scope="session", params=sorted(TINY))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint, of each architecture."""
    return make_tiny(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ViT checkpoint."""
    return make_tiny(tmp_path_factory.mktemp("vit"), "vit")


@pytest.fixture(scope="session")
def trained_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with what tells layouts apart: float16 and float32 mixed, exact GELU, its own preprocessing."""
    pixels = PreprocessConfig((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash")
    config = dataclasses.replace(cases.TINY["vit-gelu"], preprocess=pixels)
    return synthetic.write(tmp_path_factory.mktemp("vit") / "checkpoint", config, 5, "trained")


@pytest.fixture(scope="session")
def trained_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet whose weights are like trained ones."""
    return synthetic.write(tmp_path_factory.mktemp("rn") / "checkpoint", cases.TINY["rn-b"], 5, "trained")


@pytest.fixture(scope="module")
def server() -> Iterator["Live"]:
    """A live server of an embedded model, computed by the reference; needs the extra `server`."""
    from .live_server import live

    with live("--model", "clipref/shapes-vit", "--backend", "reference") as running:
        yield running


@pytest.fixture(scope="session")
def answers() -> Kept:
    """Answers of faults that tests of several files ask for."""
    return {}


@pytest.fixture
def kept(answers: Kept) -> Iterator[None]:
    """What faults answer to a question of the conformance suite is computed once in a run."""
    with kept_answers(answers):
        yield


@pytest.fixture
def image_case(tmp_path: Path) -> Case:
    """Pixels for a tiny ViT, as the conformance suite asks them."""
    return questions(f"towers/{TINY_VIT}/image")[0].make(tmp_path)


def make_tiny(folder: Path, kind: str) -> Path:
    path = folder / "checkpoint"
    synthetic.write(path, TINY[kind], seed=7, style="plain")
    (path / "merges.txt").write_text(MERGES, encoding="utf-8")
    return path


def pixels(n: int, resolution: int, seed: int = 0) -> np.ndarray:
    """Pixels like those of preprocessed images: float32 [n, 3, resolution, resolution]."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.uniform(-1.8, 2.1, (n, 3, resolution, resolution)).astype(np.float32)


def pictures(n: int, seed: int = 0) -> list[np.ndarray]:
    """Images as cv2 reads them: uint8 [H, W, 3], of different sizes."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return [generator.integers(0, 256, (30 + 7 * i, 50 + 3 * i, 3), dtype=np.uint8) for i in range(n)]
