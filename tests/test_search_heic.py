"""HEIC files as phones write them, made by pillow-heif, which has the encoder that the extra `heic` does without."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel
from clipref.search import Index
from clipref.weights_tools.shapes import world

pytestmark = pytest.mark.extra

# In a process of its own: both wheels bring a libheif.
ENCODE = """
import sys, pillow_heif
from PIL import Image
pillow_heif.register_heif_opener()
exif = Image.Exif()
exif.get_ifd(0x8769)[0x9003] = "2024:05:01 12:30:00"
Image.open(sys.argv[1]).save(sys.argv[2], quality=90, exif=exif)
"""


def test_heic_is_opened_like_the_png_it_was_made_of(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    drawn = tmp_path / "0.png"
    world.scene(0).draw(96).crop((0, 0, 96, 64)).save(drawn)
    made = [sys.executable, "-c", ENCODE, str(drawn), str(tmp_path / "1.heic")]
    done = subprocess.run(made, capture_output=True, text=True)
    if "No module named 'pillow_heif'" in done.stderr:
        pytest.skip("pillow-heif is not installed")
    assert done.returncode == 0, done.stderr
    (tmp_path / "cut.heic").write_bytes((tmp_path / "1.heic").read_bytes()[:400])
    with Index(tmp_path, AutoModel.from_pretrained("clipref/shapes-vit", backend="blas")) as index:
        summary = index.update()
        assert [Path(path).name for path, _ in summary.failed] == ["cut.heic"]
        rows = dict(zip(index.paths, index.vectors.astype(np.float32), strict=True))
        assert rows["1.heic"] @ rows["0.png"] > 0.98
        (hit,) = index.search("a circle", path="1.heic")
        assert (hit.width, hit.height, hit.taken) == (96, 64, "2024-05-01 12:30:00")
