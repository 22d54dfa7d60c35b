"""HEIC files as phones write them, made by pillow-heif, which has the encoder that the extra `heic` does without."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipref import CLIP, AutoModel
from clipref.search import Index
from clipref.weights_tools.shapes import world

pytestmark = pytest.mark.extra

# Pictures to HEIC files, with EXIF data; an orientation is written twice, as phones do: in EXIF, and as a property of
# the file, by which decoders turn it. In a process of its own: both wheels bring a libheif.
ENCODE = """
import sys, pillow_heif
from PIL import Image
pillow_heif.register_heif_opener()
for source, target, orientation in zip(*[iter(sys.argv[1:])] * 3):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 12:30:00"
    exif[0x0112] = int(orientation)
    Image.open(source).save(target, quality=90, exif=exif.tobytes())
"""
# How the stored pixels have to be turned to stand upright (EXIF's definition), undone.
LYING = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.fixture
def model() -> CLIP:
    return AutoModel.from_pretrained("clipref/shapes-vit", backend="blas")


def encode(*arguments: object) -> None:
    pytest.importorskip("pi_heif")
    done = subprocess.run([sys.executable, "-c", ENCODE, *map(str, arguments)], capture_output=True, text=True)
    if "No module named 'pillow_heif'" in done.stderr:
        pytest.skip("pillow-heif is not installed")
    assert done.returncode == 0, done.stderr


def drawn(path: Path) -> Image.Image:
    """A scene that is wider than high."""
    scene = world.scene(0).draw(96).crop((0, 0, 96, 64))
    scene.save(path)
    return scene


def test_heic_is_opened_like_the_png_it_was_made_of(tmp_path: Path, model: CLIP) -> None:
    drawn(tmp_path / "0.png")
    encode(tmp_path / "0.png", tmp_path / "1.heic", 1)
    (tmp_path / "cut.heic").write_bytes((tmp_path / "1.heic").read_bytes()[:400])
    with Index(tmp_path, model) as index:
        summary = index.update()
        assert [Path(path).name for path, _ in summary.failed] == ["cut.heic"]
        rows = dict(zip(index.paths, index.vectors.astype(np.float32), strict=True))
        assert rows["1.heic"] @ rows["0.png"] > 0.98
        (hit,) = index.search("a circle", path="1.heic")
        assert (hit.width, hit.height, hit.taken) == (96, 64, "2024-05-01 12:30:00")


@pytest.mark.parametrize("upright", [True, False])
def test_a_rotated_heic_is_upright_whatever_is_asked_for(tmp_path: Path, model: CLIP, upright: bool) -> None:
    """libheif turns it while it decodes, once: EXIF's orientation isn't followed on top of that."""
    folder, lying = tmp_path / "pictures", tmp_path / "lying"
    folder.mkdir()
    lying.mkdir()
    scene = drawn(folder / "seen.png")
    arguments: list[object] = []
    for orientation, turn in LYING.items():
        scene.transpose(turn).save(lying / f"{orientation}.png")
        arguments += [lying / f"{orientation}.png", folder / f"{orientation}.heic", orientation]
    encode(*arguments)
    with Index(folder, model, upright=upright) as index:
        assert index.update().is_whole
        rows = dict(zip(index.paths, index.vectors.astype(np.float32), strict=True))
        others = model.embed_images([lying / f"{orientation}.png" for orientation in LYING], normalize=True)
        for orientation, other in zip(LYING, others, strict=True):
            row = rows[f"{orientation}.heic"]
            assert row @ rows["seen.png"] > 0.98 and row @ rows["seen.png"] > row @ other + 0.02
        assert {(hit.width, hit.height) for hit in index.search("a circle", path="*.heic")} == {(96, 64)}
