"""Tars embedded through Ray by a driver that is killed three times: every row once, and the damaged ones reported."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel
from clipref.search import Index
from clipref.search.shards import tars_in

from .test_search_formats import png, tar_of

TARS, PICTURES = 100, 4
ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.extra, pytest.mark.slow]


def isolated(folder: Path) -> list[str]:
    """A driver without a network but its own, all of whose processes end with it."""
    inside = f"ip link set lo up; exec {sys.executable} -m tests.ray_driver {folder}"
    return ["unshare", "-n", "-p", "-f", "--kill-child", "--mount-proc", "bash", "-c", inside]


def test_a_driver_that_is_killed_three_times(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace needs unshare, and the right to")
    folder, home = tmp_path / "tars", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    damaged = {7, 55}
    for shard in range(TARS):
        members = {f"{shard:05}{i:04}.png": png(PICTURES * shard + i) for i in range(PICTURES)}
        if shard in damaged:
            members[f"{shard:05}0002.png"] = b"\x89PNG\r\n\x1a\n and no more"
        tar_of(folder / f"{shard:05}.tar", members)
    environment = {**os.environ, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    command = isolated(folder)
    parts = folder / ".clipref" / "parts"
    for killed in range(1, 4):
        with open(tmp_path / f"log{killed}", "wb") as log:
            driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        wanted = 15 * killed
        deadline = time.monotonic() + 600  # on a machine that does much else
        while len(list(parts.glob("*.safetensors"))) < wanted and time.monotonic() < deadline:
            assert driver.poll() is None, (tmp_path / f"log{killed}").read_text()
            time.sleep(0.05)
        driver.kill()
        driver.wait()
        assert wanted <= len(list(parts.glob("*.safetensors"))) < TARS
    last = subprocess.run(command, env=environment, capture_output=True, timeout=900, cwd=ROOT)
    assert f"merged {TARS}" in last.stdout.decode(), last.stderr.decode()
    with Index(folder, AutoModel.from_pretrained("clipref/shapes-vit", backend="blas")) as index:
        paths, rows = index.snapshot()
        expected = {f"{shard:05}.tar/{shard:05}{i:04}.png" for shard in range(TARS) for i in range(PICTURES)}
        wrong = {f"{shard:05}.tar/{shard:05}0002.png" for shard in damaged}
        assert Counter(paths) == Counter(expected - wrong)
        assert {path for path, _ in index.errors()} == wrong
        seeds = [int(path[10:15]) * PICTURES + int(path[15:19]) for path in paths]
        fresh = index.model.embed_images(map(png, seeds), normalize=True)
        np.testing.assert_allclose(rows.astype(np.float32), fresh, atol=1e-3)
        assert len(tars_in(folder)) == TARS and not list(parts.glob("*.safetensors"))
