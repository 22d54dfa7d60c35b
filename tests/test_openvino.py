"""The openvino backend, which is an extra: the same graphs, in float32 and bfloat16."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel, BackendError
from clipref.weights_tools import synthetic

from . import cases
from .conftest import pixels
from .tolerances import assert_close, error

pytestmark = pytest.mark.extra

TEXTS = ["a red circle", "two small blue stars on a white background", "a red ring"]


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", ["vit-a", "vit-gelu", "rn-a"])
def test_computes_the_reference(name: str, style: str, tmp_path: Path) -> None:
    config = cases.TINY[name]
    synthetic.write(tmp_path / "c", config, 3, style)  # type: ignore[arg-type]
    fast = AutoModel.from_pretrained(tmp_path / "c", backend="openvino", threads=1)
    exact = AutoModel.from_pretrained(tmp_path / "c", backend="reference", dtype="float64")
    for n in (1, 3):
        batch, ids = pixels(n, config.vision.resolution), cases.ids(config, n)
        assert_close(fast.encode_image(batch), exact.encode_image(batch).astype("f4"), "onnx")
        assert_close(fast.encode_text(ids), exact.encode_text(ids).astype("f4"), "onnx")


@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_bfloat16_is_bfloat16(name: str) -> None:
    """Off by some of its units, 2**-8, and by more than float32 would be."""
    exact = AutoModel.from_pretrained(name, backend="reference")
    try:
        fast = AutoModel.from_pretrained(name, backend="openvino", precision="bfloat16")
    except BackendError as reason:
        assert "This processor has no bfloat16" in str(reason)
        return
    batch = pixels(2, exact.config.vision.resolution)
    for found, expected in (
        (fast.encode_image(batch), exact.encode_image(batch)),
        (fast.embed_text(TEXTS), exact.embed_text(TEXTS)),
    ):
        assert found.dtype == np.float32
        assert 1000 < error(found, expected) < 12 * 2**-8 / np.finfo(np.float32).eps


def test_options() -> None:
    for options, message in (
        ({"threads": 0}, "threads is 0"),
        ({"precision": "int8"}, "'openvino' has no precision 'int8'; it has: float32, bfloat16"),
        ({"dtype": "float64"}, "not float64; use backend='reference'"),
    ):
        with pytest.raises(BackendError, match=message):
            AutoModel.from_pretrained("clipref/shapes-vit", backend="openvino", **options)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_interrupts_after_a_model_is_gone() -> None:
    code = """import gc, os, signal
import numpy as np
from clipref import AutoModel
for _ in range(2):
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="openvino")
    model.embed_image(np.zeros((8, 8, 3), np.uint8)), model.embed_text("a red circle")
    del model
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")"""
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "interrupted\n", done.stderr
