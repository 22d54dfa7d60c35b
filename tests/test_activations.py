"""`clipref inspect --run`: planted outliers are found, and clean models are not blamed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref.cli import main
from clipref.hub import locate
from clipref.weights import Checkpoint
from clipref.weights_tools.activations import FLOAT16_MAX, audit

Tensors = dict[str, np.ndarray]


@pytest.mark.fast_cases("shapes-vit")
@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn", "clipref/scenes-rn"])
def test_a_clean_model_is_not_blamed(name: str) -> None:
    found = audit(Checkpoint(locate(name)[0]))
    assert found["findings"] == [] and found["share of float16"] < 0.001
    assert set(found["precisions"]) == {"image", "text"}
    for by in found["precisions"].values():
        assert by["float16"]["error"] < by["bfloat16"]["error"] < by["int8"]["error"]
    assert "ids" not in found["largest"]
    assert next(iter(found["largest"].values())) == max(found["largest"].values())


def planted(folder: Path, plant: Callable[[Tensors], Any]) -> Path:
    shutil.copytree(locate("clipref/shapes-vit")[0], folder)
    tensors = {name: x.astype(np.float32) for name, x in load_file(folder / "model.safetensors").items()}
    plant(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "provenance.json").unlink(missing_ok=True)
    return folder


BLOCK = "visual.transformer.resblocks.1"


def a_large_value(tensors: Tensors) -> None:
    tensors[f"{BLOCK}.mlp.c_fc.bias"][3] = 1e5
    tensors[f"{BLOCK}.mlp.c_proj.weight"][:, 3] = 0  # of which nothing else comes


def a_dead_head(tensors: Tensors) -> None:
    weight, bias = (tensors[f"{BLOCK}.attn.in_proj_{part}"] for part in ("weight", "bias"))
    vision: Any = Checkpoint(locate("clipref/shapes-vit")[0]).config.vision
    values = slice(2 * vision.width, 2 * vision.width + vision.width // vision.heads)
    weight[values], bias[values] = 0, 0


def a_token(tensors: Tensors) -> None:
    """The fifth patch's position, which one hidden channel answers to with a large result."""
    tensors["visual.positional_embedding"][5] = 0
    tensors["visual.positional_embedding"][5, 0] = 1000
    tensors[f"{BLOCK}.mlp.c_fc.weight"][3] = 0
    tensors[f"{BLOCK}.mlp.c_fc.weight"][3, 0] = 10
    tensors[f"{BLOCK}.mlp.c_fc.bias"][3] = -35
    tensors[f"{BLOCK}.mlp.c_proj.weight"][:, 3] = 100


@pytest.mark.slow_cases("in float16")
@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (a_large_value, f"{BLOCK}.mlp.c_fc reaches 1e+05, more than float16 holds (65504)"),
        (a_large_value, "in float16, image embeddings have a cosine of 0.0000 with the right ones"),
        (a_dead_head, f"{BLOCK}.attn head 0 gives nothing"),
        (a_token, f"{BLOCK} has tokens of "),
    ],
)
def test_what_was_planted_is_found(plant: Callable[[Tensors], Any], says: str, tmp_path: Path) -> None:
    found = audit(Checkpoint(planted(tmp_path / "model", plant)))
    assert any(finding.startswith(says) for finding in found["findings"]), found["findings"]


@pytest.mark.slow
def test_the_command_runs_what_it_inspects(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", "clipref/shapes-vit", "--run"]) == 0
    out = capsys.readouterr().out
    assert "what float16 holds  " in out and "nothing stands out" in out
    assert main(["inspect", "clipref/shapes-vit", "--images", str(tmp_path)]) == 1
    assert "--images is for --run" in capsys.readouterr().err
    assert main(["inspect", "clipref/shapes-vit", "--run", "--images", str(tmp_path)]) == 1
    assert f"{tmp_path} has no images" in capsys.readouterr().err
    assert main(["inspect", "clipref/shapes-vit", "--run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["share of float16"] < FLOAT16_MAX
