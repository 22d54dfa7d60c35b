"""`CLIP.trace`: every activation by its name, looked at, put together, and replaced."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, BackendError, InputError, TextError, ops
from clipref.config import ViTConfig
from clipref.numerics import rms_error
from clipref.weights_tools import synthetic

from . import cases
from .conftest import pictures, pixels

TEXTS = ["a cat", "a red dog", "a"]
BLOCK = "visual.transformer.resblocks.0"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from .conftest import make_tiny

    return make_tiny(tmp_path_factory.mktemp("vit"), "vit")


def test_shapes_and_sums_inside_a_block(vit: Path) -> None:
    model = AutoModel.from_pretrained(vit, backend="reference", dtype="float64")
    vision = model.config.vision
    assert isinstance(vision, ViTConfig)
    length, heads, channels = 1 + vision.grid**2, vision.heads, vision.width // vision.heads
    seen = model.trace(pixels=pixels(2, vision.resolution).astype(np.float64))
    inside = {name: seen[f"{BLOCK}.attn.{name}"] for name in ("q", "k", "v", "weights", "heads")}
    assert all(inside[name].shape == (2, heads, length, channels) for name in ("q", "k", "v", "heads"))
    assert inside["weights"].shape == (2, heads, length, length)
    assert np.abs(inside["weights"].sum(axis=-1) - 1).max() < 1e-14
    scores = inside["q"] @ inside["k"].swapaxes(-1, -2) / channels**0.5
    assert rms_error(inside["weights"], ops.softmax(scores)) < 1e-14
    assert rms_error(inside["weights"] @ inside["v"], inside["heads"]) < 1e-13
    block = model.reference.visual()["transformer"]["resblocks"][0]
    merged = inside["heads"].swapaxes(1, 2).reshape(2, length, -1)
    assert rms_error(ops.linear(merged, **block["attn"]["out_proj"]), seen[f"{BLOCK}.attn"]) < 1e-13
    hidden = ops.linear(seen[f"{BLOCK}.ln_2"], **block["mlp"]["c_fc"])
    assert rms_error(seen[f"{BLOCK}.mlp.c_fc"], hidden) < 1e-13
    assert rms_error(seen[f"{BLOCK}.mlp.gelu"], ops.quick_gelu(hidden)) < 1e-13
    assert rms_error(ops.linear(seen[f"{BLOCK}.mlp.gelu"], **block["mlp"]["c_proj"]), seen[f"{BLOCK}.mlp"]) < 1e-13


@pytest.mark.parametrize("name", ["vit-a", "vit-b", "vit-gelu"])  # the second has a single block in its text tower
def test_all_positions_after_the_last_block(name: str, tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "checkpoint", cases.TINY[name], 3, "trained")
    model = AutoModel.from_pretrained(folder, backend="reference", dtype="float64")
    images, ids = cases.tiny_inputs(model.config)
    seen = model.trace(pixels=images[:2].astype(np.float64), ids=ids[:1])
    vision = model.config.vision
    assert isinstance(vision, ViTConfig)
    text = model.config.text
    last = f"visual.transformer.resblocks.{vision.layers - 1}"
    assert seen["visual.transformer"].shape == (2, 1 + vision.grid**2, vision.width)
    assert rms_error(seen["visual.transformer"][:, :1], seen[last]) < 1e-13
    assert seen["transformer"].shape == (1, seen["ids"].shape[1], text.width)
    assert rms_error(seen["transformer"][:, -1:], seen[f"transformer.resblocks.{text.layers - 1}"]) < 1e-13
    # A patch's is what the tower would have pooled, had it pooled that one.
    params = model.reference.visual()
    block = params["transformer"]["resblocks"][-1]
    from clipref.transformer import no_tap, resblock

    stream = seen["visual.ln_pre"] if vision.layers == 1 else seen[f"visual.transformer.resblocks.{vision.layers - 2}"]
    patch = resblock(ops, stream, vision, None, lambda x: x[:, 3:4], no_tap, "", **block)
    assert rms_error(seen["visual.transformer"][:, 3:4], patch) < 1e-13


def test_inside_the_attention_pool(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "checkpoint", cases.TINY["rn-a"], 3, "trained")
    model = AutoModel.from_pretrained(folder, backend="reference", dtype="float64")
    seen = model.trace(pixels=cases.tiny_inputs(model.config)[0][:2].astype(np.float64))
    pool, length, heads = model.reference.visual()["attnpool"], 1 + model.config.vision.grid**2, 8
    tokens = seen["visual.attnpool.positional_embedding"]
    assert tokens.shape == (2, length, 320) and seen["visual.attnpool.weights"].shape == (2, heads, 1, length)
    features = seen["visual.layer4.0"].reshape(2, 320, -1).swapaxes(1, 2)
    assert rms_error(tokens[:, 1:], features + pool["positional_embedding"][1:]) < 1e-13
    assert rms_error(tokens[:, 0], features.mean(axis=1) + pool["positional_embedding"][0]) < 1e-13
    joined = seen["visual.attnpool.heads"][:, :, 0].reshape(2, -1)
    assert rms_error(ops.linear(joined, **pool["c_proj"]), seen["visual"]) < 1e-13


@pytest.mark.parametrize("backend", ["reference", "blas", "onnx"])
def test_several_items(vit: Path, backend: str) -> None:
    model = AutoModel.from_pretrained(vit, backend=backend)
    images = pictures(3)
    seen = model.trace(images, TEXTS)
    alone = [model.trace(image, text) for image, text in zip(images, TEXTS, strict=True)]
    for i, one in enumerate(alone):
        assert list(seen) == list(one)
        for name, x in seen.items():
            part = x[i][tuple(map(slice, one[name].shape[1:]))]
            assert part.tobytes() == one[name][0].tobytes(), name
    lengths = [one["ids"].shape[1] for one in alone]
    assert seen["ids"].shape == (3, max(lengths)) and len(set(lengths)) > 1
    for ids, length, tokens in zip(seen["ids"], lengths, seen["transformer.resblocks.0"], strict=True):
        assert (ids[length:] == 0).all() and ids[length - 1] == model.config.text.end_of_text
        assert np.isnan(tokens[length:]).all() and np.isfinite(tokens[:length]).all()
    assert (seen["pixels"] == model.trace(images, only="pixels")["pixels"]).all()
    assert (model.trace(pixels=seen["pixels"], only="visual")["visual"] == seen["visual"]).all()
    assert np.isfinite(seen["text_projection"]).all()


def test_only_keeps_what_is_asked_for(vit: Path) -> None:
    model = AutoModel.from_pretrained(vit, backend="reference")
    image = pictures(1)[0]
    whole = model.trace(image)
    assert list(model.trace(image, only="*.attn.weights")) == [n for n in whole if n.endswith("attn.weights")]
    some = model.trace(image, only=["visual", f"{BLOCK}.mlp"])
    assert list(some) == [f"{BLOCK}.mlp", "visual"] and (some["visual"] == whole["visual"]).all()
    for x in whole.values():
        assert x.flags.owndata and x.flags.writeable


@pytest.mark.fast_cases("vit-blas", "resnet-reference")
# Of each activation: what makes it as it was changes nothing, what makes it zero changes what comes after it.
@pytest.mark.parametrize("backend", ["reference", "blas"])
def test_edits(tiny: Path, backend: str) -> None:
    model = AutoModel.from_pretrained(tiny, backend=backend)
    image = pictures(1)[0]
    for tower, given in (("visual", {"image": image}), ("text_projection", {"text": "a cat"})):
        whole = model.trace(**given)
        names = [name for name in whole if name not in {"pixels", "ids", "visual.transformer", "transformer"}]
        if "visual.layer1.0" in names:
            names = [name for name in names if "layer" not in name or "layer1" in name]
        for name in names:
            same = model.trace(**given, edit={name: lambda x: x}, only=tower)[tower]
            assert rms_error(same, whole[tower]) < 1e-5, name
            gone = model.trace(**given, edit={name: 0}, only=[tower, name])
            assert (gone[name] == 0).all()
            # A softmax takes away what all keys have in common, so zero queries and keys still change something.
            assert rms_error(gone[tower], whole[tower]) > 1e-4, name


def test_edits_of_several_items(vit: Path) -> None:
    model = AutoModel.from_pretrained(vit, backend="reference")
    images = pictures(3)
    whole = model.trace(images)
    name = f"{BLOCK}.mlp"
    swapped = model.trace(images, edit={name: whole[name][[1, 2, 0]]}, only=name)[name]
    assert (swapped == whole[name][[1, 2, 0]]).all()
    shapes: list[tuple[int, ...]] = []

    def look(x: np.ndarray) -> np.ndarray:
        shapes.append(x.shape)
        x[:] = 3  # a copy: what is returned counts
        return x * 0 + 2

    changed = model.trace(images, edit={name: look}, only=name)[name]
    assert shapes == [(1, *whole[name].shape[1:])] * 3 and (changed == 2).all()
    assert changed.dtype == np.float32


def test_an_ablated_head_is_what_the_embedding_loses(tmp_path: Path) -> None:
    """By hand, of the last block: without a head, the embedding is ln_post's of the stream without what it wrote."""
    folder = synthetic.write(tmp_path / "checkpoint", cases.TINY["vit-a"], 3, "plain")
    model = AutoModel.from_pretrained(folder, backend="reference", dtype="float64")
    image = cases.tiny_inputs(model.config)[0][:1].astype(np.float64)
    whole, params = model.trace(pixels=image), model.reference.visual()
    last, block = "visual.transformer.resblocks.1", params["transformer"]["resblocks"][1]

    def without(heads: np.ndarray) -> np.ndarray:
        heads[:, 2] = 0
        return heads

    found = model.trace(pixels=image, edit={f"{last}.attn.heads": without, f"{last}.mlp": whole[f"{last}.mlp"]})
    vision = model.config.vision
    assert isinstance(vision, ViTConfig)
    channels = vision.width // 3
    written = whole[f"{last}.attn.heads"][:, 2] @ block["attn"]["out_proj"]["weight"][:, 2 * channels :].T
    expected = ops.layer_norm(whole[last][:, 0] - written[:, 0], **params["ln_post"]) @ params["proj"]
    assert rms_error(found["visual"], expected) < 1e-12
    assert "visual.transformer" not in found  # the last block is edited, where it has the pooled position only


def test_names_that_nothing_has(vit: Path) -> None:
    model = AutoModel.from_pretrained(vit, backend="reference")
    image = pictures(1)[0]
    calls: list[Any] = [
        lambda name: model.trace(image)[name],
        lambda name: model.trace(image, edit={name: 0}),
        lambda name: model.trace(image, only=["visual", name]),
    ]
    for call in calls:
        with pytest.raises(
            InputError, match=r"No activation 'visual.transformer.resblock.0.mlp'; did you mean"
        ) as found:
            call("visual.transformer.resblock.0.mlp")
        assert f"'{BLOCK}.mlp'" in str(found.value)
    with pytest.raises(InputError, match="No activation 'zzz'; there are: "):
        model.trace(image, only="zzz")
    for name, told in (
        ("pixels", r"'pixels' is what a tower is given; .* trace\(pixels=...\)"),
        ("ids", "'ids' is what a tower is given"),
        ("visual.transformer", "'visual.transformer' is shown for all positions and used for one"),
        ("transformer", "No activation 'transformer'"),  # of the text tower, which isn't asked
    ):
        with pytest.raises(InputError, match=told):
            model.trace(image, edit={name: 0})


def test_a_backend_without_a_place_for_edits(vit: Path) -> None:
    model = AutoModel.from_pretrained(vit, backend="onnx")
    with pytest.raises(BackendError, match="backend 'onnx' runs a recorded graph.*backend='reference'"):
        model.trace(pictures(1)[0], edit={f"{BLOCK}.mlp": 0})
    assert f"{BLOCK}.attn.weights" in model.trace(pictures(1)[0])


def test_refusals(vit: Path) -> None:
    model = AutoModel.from_pretrained(vit, backend="reference")
    image, one = pictures(1)[0], pixels(1, model.config.vision.resolution)
    ids = model.tokenize("a cat")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "Nothing to trace"),
        ({"image": image, "pixels": one}, "Both an image and pixels"),
        ({"text": "a", "ids": ids}, "Both a text and ids"),
        ({"image": []}, "No images"),
        ({"pixels": one[:, :2]}, "pixels have shape"),
        ({"ids": ids[0]}, "ids are"),
        ({"image": image, "edit": "visual"}, "expected a dict"),
        ({"image": image, "edit": {"visual": "x"}}, "The edit of 'visual'"),
        ({"image": image, "edit": {"visual": lambda x: None}}, "The edit of 'visual'"),
        (
            {"image": image, "edit": {"visual": np.zeros((1, 3))}},
            r"has shape \(1, 3\); expected numbers of shape \(1, 22\)",
        ),
        ({"image": image, "only": []}, "only"),
        ({"image": image, "only": 3}, "only"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InputError, match=message):
            model.trace(**arguments)
    with pytest.raises(TextError, match="text 1"):
        model.trace(text=["a", b"cat"])


@pytest.mark.oracle
def test_torch_traces_and_edits_as_the_reference_does(tiny: Path) -> None:
    given: dict[str, Any] = {"image": pictures(1)[0], "text": "a cat"}
    exact, found = (AutoModel.from_pretrained(tiny, backend=b, dtype="float64") for b in ("reference", "torch"))
    whole, traced = exact.trace(**given), found.trace(**given)
    assert list(whole) == list(traced)
    assert all(rms_error(traced[name], x) < 1e-12 for name, x in whole.items())
    for name in [name for name in whole if ".attn" in name]:
        end = "visual" if name.startswith("visual") else "text_projection"
        one, other = (m.trace(**given, edit={name: lambda x: x / 2}, only=end)[end] for m in (exact, found))
        assert rms_error(other, one) < 1e-12, name
