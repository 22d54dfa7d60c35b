"""Training on scenes of one or two kinds: what is saved opens as what was trained, and a second run gives its bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel
from clipref.weights_tools.scenes import world

from .tolerances import assert_close

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_five_steps_are_saved_and_opened_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from clipref.weights_tools.scenes import train
    from clipref.weights_tools.shapes.train import Trainee as Original
    from clipref.weights_tools.shapes.train import rendered

    class Trainee(Original):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            trained.append(self)
            self.before = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    trained: list[Trainee] = []
    monkeypatch.setattr(train, "Trainee", Trainee)
    monkeypatch.setattr(train, "Progress", lambda trainee: lambda: "not scored")
    monkeypatch.setattr(train, "score", lambda folder: {})
    recipe = dataclasses.replace(train.RECIPES[name], steps=50, ones=24, twos=6, batch_of_ones=5, batch_of_twos=2)
    for folder in ("model", "again"):
        train.train(recipe, tmp_path / folder, stop_after=5)

    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("model", "again")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "model" / "provenance.json").read_text())["steps"] == 5
    trainee = trained[0]
    assert not {n for n, tensor in trainee.tensors.items() if torch.equal(tensor, trainee.before[n])}

    trainee.ops.training = False
    model = AutoModel.from_pretrained(tmp_path / "model", backend="reference")
    scenes = [world.one_kind(0), world.two_kinds(0)]
    pixels = rendered(scenes, recipe.vision.resolution).float()
    texts = ["a red circle", "a red circle left of a blue star"]
    with torch.no_grad():
        for tensor_name, tensor in trainee.tensors.items():
            if tensor.ndim > 1 and "embedding" not in tensor_name:
                tensor.copy_(tensor.half().float())  # as the file has them
        image, text = trainee.encode_image(pixels).numpy(), trainee.encode_text(texts).numpy()
    found = model.encode_image(pixels.numpy())
    assert_close(found / np.linalg.norm(found, axis=1, keepdims=True), image, "onnx")
    assert_close(model.embed_text(texts, normalize=True), text, "onnx")
