"""Training on scenes of one or two kinds: what is saved opens as what was trained, and a second run gives its bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel, look
from clipref.config import ClipConfig, TextConfig
from clipref.tokenizer import Tokenizer
from clipref.weights_tools.scenes import world
from clipref.weights_tools.shapes.vocabulary import learn_merges

from .tolerances import assert_close

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_five_steps_are_saved_and_opened_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from clipref.weights_tools.scenes import train
    from clipref.weights_tools.shapes.train import Trainee as Original
    from clipref.weights_tools.shapes.train import render_all

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
    pixels = render_all(scenes, recipe.vision.resolution).float()
    texts = ["a red circle", "a red circle left of a blue star"]
    with torch.no_grad():
        for tensor_name, tensor in trainee.tensors.items():
            if tensor.ndim > 1 and "embedding" not in tensor_name:
                tensor.copy_(tensor.half().float())  # as the file has them
        image, text = trainee.encode_image(pixels).numpy(), trainee.encode_text(texts).numpy()
    found = model.encode_image(pixels.numpy())
    assert_close(found / np.linalg.norm(found, axis=1, keepdims=True), image, "onnx")
    assert_close(model.embed_text(texts, normalize=True), text, "onnx")


def test_places_are_told_what_lies_there(tmp_path: Path) -> None:
    """Against the masks at another size: the kind whose centre of mass is in a cell is that cell's."""
    import torch

    from clipref.weights_tools.scenes import captions, train
    from clipref.weights_tools.shapes.train import EMBED_DIM, Trainee

    scenes = [world.one_kind(3), world.two_kinds(5), world.two_kinds(6)]
    kinds, grounds = captions.encode_scenes(scenes)
    there, bare = train.what_lies_where(scenes, kinds, grounds, grid=4)
    found = 0
    assert there.shape == (3, 16, 2) and bare.shape == (3, 16)
    for scene, encoded, ground, shown, empty in zip(scenes, kinds, grounds, there, bare, strict=True):
        masks = scene.masks(240)
        assert (empty[empty >= 0] == ground).all()
        assert not (shown[empty >= 0] >= 0).any()  # never both
        for mask, kind in zip(masks, encoded, strict=False):
            cells = mask.reshape(4, 60, 4, 60).mean(axis=(1, 3))
            most = int(cells.argmax())  # more of this kind than anywhere else
            told = shown[most].tolist() == kind[:2].tolist()
            assert told or cells.max() < 0.15  # too little to be told
            found += told
        covered = masks.any(0).reshape(4, 60, 4, 60).any(axis=(1, 3)).reshape(-1)
        assert (bare.new_tensor(covered)[empty >= 0] == 0).float().mean() > 0.8  # but for a rim of some pixels
    assert found >= 4

    recipe = train.RECIPES["resnet"]
    assert recipe.places and recipe.vision.grid == 4
    tokenizer = Tokenizer(learn_merges(["a red circle"], limit=20))
    config = ClipConfig(
        EMBED_DIM, recipe.vision, TextConfig(8, tokenizer.vocab_size, width=96, layers=1, heads=3, mlp_width=96)
    )
    trainee = Trainee(config, tokenizer)
    trainee.ops.training = False
    pixels = torch.randn(2, 3, 128, 128)
    images, places = train.encode_places(trainee, pixels)
    assert torch.equal(images, trainee.encode_image(pixels))
    with torch.no_grad():
        trainee.save(tmp_path / "model", [])
    parts = look.decompose(
        AutoModel.from_pretrained(tmp_path / "model", dtype="float64"), pixels=pixels[:1].numpy()
    ).parts
    found = places[0].detach().numpy()
    exact = parts["attention"].sum((0, 1))[1:]  # without the mean
    assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max()  # whose weights are of 16 bits


def test_signs_are_for_the_own_text_and_against_the_others() -> None:
    """By hand: two places with a kind, one without, and two texts."""
    import torch

    from clipref.weights_tools.scenes import train

    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    kinds = torch.tensor([[[3, 1], [-1, -1], [3, 2]]])
    classes = torch.tensor([[3, 1], [3, 2]])
    places = torch.tensor([[[2.0, 0.0], [5.0, 5.0], [0.3, 0.4]]])
    own = [np.log1p(np.exp(-10)), np.log1p(np.exp(-8))]
    others = [np.log1p(np.exp(0)), np.log1p(np.exp(6))]
    loss = train.loss_of_signs(places, kinds, texts, classes)
    assert float(loss) == pytest.approx(np.mean(own) + np.mean(others), rel=1e-6)
