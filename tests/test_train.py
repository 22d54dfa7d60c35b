"""Training the embedded models: the towers are clipref's under torch, and what is saved opens as what was trained."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel
from clipref.weights_tools.shapes import world

from .tolerances import assert_close

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_five_steps_are_saved_and_opened_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from clipref.weights_tools.shapes import train

    class Trainee(train.Trainee):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            trained.append(self)
            self.before = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    trained: list[Trainee] = []
    scenes = [world.scene(seed) for seed in range(24)]
    monkeypatch.setattr(train, "Trainee", Trainee)
    monkeypatch.setattr(train, "training_scenes", lambda: scenes)
    monkeypatch.setattr(train, "Progress", lambda trainee: lambda: "not scored")
    monkeypatch.setattr(train, "score", lambda folder: {})
    recipe = dataclasses.replace(train.RECIPES[name], steps=5, batch=8)
    train.train(recipe, tmp_path / "model")

    (trainee,) = trained
    still = {n for n, tensor in trainee.tensors.items() if torch.equal(tensor, trainee.before[n])}
    # Rows of the table that no caption has stay; a whole tensor doesn't, and neither do BatchNorm's running statistics.
    assert not still
    assert json.loads((tmp_path / "model" / "provenance.json").read_text())["torch"] == torch.__version__
    trainee.ops.training = False
    model = AutoModel.from_pretrained(tmp_path / "model", backend="reference")
    pixels = train.render_all(scenes[:3], recipe.vision.resolution).float()
    texts = ["a red circle", "two blue stars"]
    rounded = {
        n: t.detach().half().float() if t.ndim > 1 and "embedding" not in n else t for n, t in trainee.tensors.items()
    }
    with torch.no_grad():
        for n, tensor in trainee.tensors.items():
            tensor.copy_(rounded[n])  # as the file has them
        image, text = trainee.encode_image(pixels).numpy(), trainee.encode_text(texts).numpy()
    found = model.encode_image(pixels.numpy())
    assert_close(found / np.linalg.norm(found, axis=1, keepdims=True), image, "onnx")
    assert_close(model.embed_text(texts, normalize=True), text, "onnx")
