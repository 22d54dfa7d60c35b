"""A model in another process: pickled, copied, forked, spawned."""

import copy
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from clipref import CLIP, AutoModel, ClipError, WeightsError

from .conftest import pictures


@pytest.mark.parametrize("backend", ["reference", "onnx", "blas"])
def test_a_pickled_model_is_opened_anew(tiny_vit: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_vit.parent)
    model = AutoModel.from_pretrained(tiny_vit.name, backend=backend, max_pixels=5000)
    monkeypatch.chdir("/")
    image, texts = pictures(1)[0], ["a cat", "dog"]
    for same in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert same is not model and same.engine is not model.engine
        assert (same.backend, same.dtype, same.config, same.digest, same.max_pixels) == (
            model.backend, model.dtype, model.config, model.digest, 5000,
        )  # fmt: skip
        assert (same.embed_text(texts) == model.embed_text(texts)).all()
        assert (same.embed_image(image) == model.embed_image(image)).all()


def test_options_and_configuration_come_along(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="onnx", threads=1, activation="gelu")
    same = pickle.loads(pickle.dumps(model))
    assert same._options == {"threads": 1} and same.config == model.config
    assert (same.embed_text("a cat") == model.embed_text("a cat")).all()
    exact = pickle.loads(pickle.dumps(AutoModel.from_pretrained(tiny_vit, dtype="float64")))
    assert exact.backend == "reference" and exact.embed_text("a cat").dtype == np.float64


def test_an_id_is_what_other_machines_know(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="reference")
    assert model.source == "clipref/shapes-vit" and str(Path.cwd()).encode() not in pickle.dumps(model)
    assert pickle.loads(pickle.dumps(model)).source == "clipref/shapes-vit"
    assert Path(AutoModel.from_pretrained(tiny_vit).source).is_absolute()


def test_other_weights_are_refused(tiny_vit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_vit, tmp_path / "x"))
    model = AutoModel.from_pretrained(folder, backend="reference")
    pickled = pickle.dumps(model)
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.unlink()
    weights.write_bytes(changed)
    with pytest.raises(WeightsError, match="other weights than it had when the model was pickled"):
        pickle.loads(pickled)
    shutil.rmtree(folder)
    with pytest.raises(ClipError, match=str(folder)):
        pickle.loads(pickled)


def test_a_classifier_comes_along(tiny_vit: Path) -> None:
    classifier = AutoModel.from_pretrained(tiny_vit, backend="reference").classifier(["cat", "dog"])
    same = pickle.loads(pickle.dumps(classifier))
    assert same.labels == classifier.labels and (same.embeddings == classifier.embeddings).all()
    assert same.classify(pictures(1)[0]) == classifier.classify(pictures(1)[0])


def _embed(model: CLIP, text: str) -> np.ndarray:
    return model.embed_text(text)


@pytest.mark.slow
def test_a_spawned_process_gets_the_model(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (pool.apply(_embed, (model, "a cat")) == model.embed_text("a cat")).all()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_texts_are_embedded(tiny_vit: Path) -> None:
    """The memory of texts has no lock that a child could inherit held."""
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    stop = threading.Event()

    def embed() -> None:
        i = 0
        while not stop.is_set():
            model.embed_text(f"{'red ' * (i % 9)}dog {i % 5}")
            model.classifier([f"cat {i % 11}"])
            i += 1

    threads = [threading.Thread(target=embed) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if not child:
                model.embed_text("a cat")
                os._exit(0)
            deadline = time.monotonic() + 20
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                    pytest.fail("the forked child hangs")
                time.sleep(0.005)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
