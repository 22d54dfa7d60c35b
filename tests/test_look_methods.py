"""Occlusion, RISE, the logit lens, rollout, patching, TextSpan and words, each against a statement of its own."""

from typing import Any

import numpy as np
import pytest

from clipref import CLIP, AutoModel, InputError, look, ops, vision_transformer
from clipref.look.perturbation import soft_masks
from clipref.numerics import rms_error, unit_rows
from clipref.weights_tools.shapes import world

TEXTS = ["an orange square", "a blue triangle"]
IMAGE, OTHER = world.scene(1).draw(), world.scene(2).draw()


@pytest.fixture(scope="module", params=["clipref/shapes-vit", "clipref/shapes-rn"])
def model(request: pytest.FixtureRequest) -> CLIP:
    return AutoModel.from_pretrained(request.param, backend="reference", dtype="float64")


@pytest.fixture(scope="module")
def vit() -> CLIP:
    return AutoModel.from_pretrained("clipref/shapes-vit", backend="reference", dtype="float64")


def cosines(model: CLIP, pixels: np.ndarray) -> np.ndarray:
    found: np.ndarray = unit_rows(model.encode_image(pixels)) @ model.embed_text(TEXTS, normalize=True).T
    return found


@pytest.mark.fast_cases("vit]")
def test_occlusion_is_the_loss_where_a_cell_is_hidden(model: CLIP) -> None:
    found = look.occlusion(model, TEXTS, image=IMAGE, stride=12, window=12, batch_size=5)
    pixels = model.trace(IMAGE, only="pixels")["pixels"]
    cells = pixels.shape[-1] // 12
    assert found.maps.shape == (2, cells, cells) and found.passes == 1 + cells**2
    assert np.abs(found.cosines - cosines(model, pixels)[0]).max() < 1e-14
    hidden = pixels.copy()
    hidden[0, :, 24:36, 12:24] = pixels[0].mean(axis=(1, 2))[:, None, None]
    expected = cosines(model, pixels)[0] - cosines(model, hidden)[0]
    assert np.abs(found.maps[:, 2, 1] - expected).max() < 1e-14
    wider = look.occlusion(model, TEXTS, pixels=pixels, stride=12, window=20)
    hidden[0, :, 20:40, 8:28] = pixels[0].mean(axis=(1, 2))[:, None, None]
    assert np.abs(wider.maps[:, 2, 1] - (found.cosines - cosines(model, hidden)[0])).max() < 1e-14
    assert np.isfinite(wider.maps).all()
    default = look.occlusion(model, TEXTS, pixels=pixels)
    cell, window = (12, 12) if "transformer" in model.reference.visual() else (8, 24)
    same = look.occlusion(model, TEXTS, pixels=pixels, stride=cell, window=window)
    assert default.maps.tobytes() == same.maps.tobytes()


def test_rise_weighs_masks_by_what_is_seen_through_them(model: CLIP) -> None:
    pixels = model.trace(IMAGE, only="pixels")["pixels"]
    side = pixels.shape[-1]
    found = look.rise(model, TEXTS, pixels=pixels, masks=9, cells=5, seed=3)
    masks = np.stack(list(soft_masks(9, 5, side, 3, np.float64)))
    assert masks.shape == (9, side, side) and masks.min() >= 0 and masks.max() <= 1 and masks.std() > 0.2
    weights = cosines(model, pixels * masks[:, None])
    expected = np.einsum("nt,nij->tij", weights - weights.mean(axis=0), masks) / masks.sum(axis=0)
    assert rms_error(found.maps, expected) < 1e-12 and found.passes == 10
    again = look.rise(model, TEXTS, pixels=pixels, masks=9, cells=5, seed=3, batch_size=2)
    other = look.rise(model, TEXTS, pixels=pixels, masks=9, cells=5, seed=4)
    assert rms_error(again.maps, found.maps) < 1e-12 and rms_error(other.maps, found.maps) > 0.1


def test_the_lens_ends_where_the_model_does(vit: CLIP) -> None:
    for given in ({"image": IMAGE}, {"text": "a red ring"}):
        lens, scores = look.logit_lens(vit, TEXTS, **given), look.direct_effect(vit, TEXTS, **given)
        assert np.abs(lens.cosines[-1] - scores.cosines).max() < 1e-14
        layers = len(scores.parts["mlp"])
        assert lens.cosines.shape == (1 + layers, 2)
    params = vit.reference.visual()
    stream = vit.trace(IMAGE, only="visual.transformer.resblocks.1")["visual.transformer.resblocks.1"][0, 0]
    early = ops.layer_norm(stream, **params["ln_post"]) @ params["proj"]
    texts = vit.embed_text(TEXTS, normalize=True)
    assert (
        np.abs(look.logit_lens(vit, TEXTS, image=IMAGE).cosines[2] - texts @ (early / np.linalg.norm(early))).max()
        < 1e-14
    )


def test_a_resnet_has_no_lens() -> None:
    model = AutoModel.from_pretrained("clipref/shapes-rn", backend="reference")
    with pytest.raises(InputError, match="no stream of tokens"):
        look.logit_lens(model, TEXTS, image=IMAGE)
    assert look.logit_lens(model, TEXTS, text="a red ring").cosines.shape[1] == 2


def test_rollout_is_the_product_of_layers(model: CLIP) -> None:
    found = look.rollout(model, image=IMAGE)
    grid = model.config.vision.grid
    assert found.is_blind_to_the_text and found.map.shape == (grid, grid) and abs(found.weights.sum() - 1) < 1e-12
    seen = model.trace(IMAGE, only="*.weights")
    means = [x[0].mean(axis=0) for x in seen.values()]
    if len(means) == 1:
        assert np.abs(found.weights - means[0][0]).max() < 1e-14
        return
    length = 1 + grid**2
    whole = np.eye(length)
    for mean in means[:-1]:
        whole = (mean + np.eye(length)) / 2 @ whole
    last = (means[-1][0] + np.eye(length)[0]) / 2
    assert np.abs(found.weights - last @ whole).max() < 1e-14
    text = look.rollout(model, text="a red ring")
    assert text.weights.shape == (5,) and abs(text.weights.sum() - 1) < 1e-12
    with pytest.raises(InputError, match="no map"):
        _ = text.map


def test_patching_recovers_all_where_all_is_patched(model: CLIP) -> None:
    found = look.patching(model, TEXTS, source=IMAGE, target=OTHER)
    assert len(found.names) == len(found.patched) and np.isfinite(found.recovered).all()
    pixels = model.trace([IMAGE, OTHER], only="pixels")["pixels"]
    right = cosines(model, pixels)
    assert np.abs(found.source - right[0]).max() < 1e-14 and np.abs(found.target - right[1]).max() < 1e-14
    last = "visual.ln_post" if "transformer" in model.reference.visual() else "visual.layer4.0"
    whole = look.patching(model, TEXTS, source=IMAGE, target=OTHER, names=[last])
    assert np.abs(whole.recovered - 1).max() < 1e-12
    edit = {found.names[1]: model.trace(IMAGE, only=found.names[1])[found.names[1]]}
    expected = (
        unit_rows(model.trace(OTHER, edit=edit, only="visual")["visual"]) @ model.embed_text(TEXTS, normalize=True).T
    )
    assert np.abs(found.patched[1] - expected[0]).max() < 1e-14
    same = look.patching(model, TEXTS, source=IMAGE, target=IMAGE, names=[last])
    assert np.isnan(same.recovered).all()
    with pytest.raises(InputError, match="did you mean"):
        look.patching(model, TEXTS, source=IMAGE, target=OTHER, names=[f"{last}s"])


def test_text_span_finds_the_directions_that_were_put_in() -> None:
    generator = np.random.default_rng(0)
    texts = unit_rows(generator.normal(size=(6, 20)))
    strength = generator.normal(size=(200, 2)) * (5, 2)
    outputs = strength @ texts[[4, 1]] + 7  # the mean says nothing
    span = look.text_span(outputs, texts, steps=3)
    assert span.chosen[:2].tolist() == [4, 1]
    assert 0.5 < span.explained[0] < 0.999 and span.explained[1] > 1 - 1e-9
    # What is explained is what a projection on the span leaves out.
    noisy = outputs + generator.normal(size=outputs.shape)
    span = look.text_span(noisy, texts, steps=3)
    basis = np.linalg.qr(texts[span.chosen].T)[0]
    centred = noisy - noisy.mean(axis=0)
    assert abs(span.explained[2] - ((centred @ basis) ** 2).sum() / (centred**2).sum()) < 1e-12
    assert (np.diff(span.explained) > 0).all()
    repeated = look.text_span(noisy, np.repeat(texts[:1], 4, axis=0), steps=3)
    assert repeated.chosen.tolist() == [0]


def test_heads_sum_to_what_attention_gives(model: CLIP) -> None:
    scenes = [world.scene(seed).draw() for seed in range(4)]
    outputs = look.head_outputs(model, scenes)
    split = look.decompose(model, image=scenes[2])
    assert np.abs(outputs[2] - split.parts["attention"].sum(axis=2)).max() < 1e-13
    roles = look.head_roles(model, scenes, ["red", "blue", "a star", "large"], steps=2)
    layers, heads = outputs.shape[1:3]
    assert roles.chosen.shape == roles.explained.shape == (layers, heads, 2)
    assert abs(roles.spread.sum() - 1) < 1e-12 and (roles.explained[..., 1] >= roles.explained[..., 0]).all()


def test_words_sum_to_the_cosine(vit: CLIP) -> None:
    text, image = "three yellow circles on grey", vit.embed_image(IMAGE)
    found = look.word_effects(vit, image, text)
    assert found.words == text.split() and [t.piece for t in found.tokens[1:-1]] == text.split()
    total = found.direct.sum(axis=0) + found.start + found.end + found.rest
    assert np.abs(total - found.cosines).max() < 1e-14
    unit = image[0] / np.linalg.norm(image)
    assert abs(found.cosines[0] - (vit.embed_text(text, normalize=True) @ unit)[0]) < 1e-14
    shorter = vit.embed_text("three circles on grey", normalize=True) @ unit
    assert abs(found.left_out[1, 0] - (found.cosines[0] - shorter[0])) < 1e-13
    positions = look.direct_effect(vit, image, text=text).positions
    assert np.abs(found.direct - positions[1:-1]).max() < 1e-15
    # A word of several tokens is one word.
    tokens = look.tokens_of(vit, "zebra star")
    assert len(tokens) > 4 and [t.word for t in tokens] == [None, *[0] * (len(tokens) - 3), 1, None]
    assert look.word_effects(vit, image, "zebra star").words == ["zebra", "star"]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("occlusion", {"toward": TEXTS}, "0 things are given"),
    ("occlusion", {"toward": TEXTS, "image": [IMAGE, IMAGE]}, "2 items are given"),
    ("occlusion", {"toward": TEXTS, "image": IMAGE, "stride": 0}, "stride is 0"),
    ("occlusion", {"toward": TEXTS, "image": IMAGE, "stride": 100}, "at most the image's 48 pixels"),
    ("occlusion", {"toward": TEXTS, "image": IMAGE, "window": 49}, "at most the image's 48 pixels"),
    ("occlusion", {"toward": np.zeros((2, 96)), "image": IMAGE}, "text_embeddings"),
    ("rise", {"toward": TEXTS, "image": IMAGE, "masks": 0}, "masks is 0"),
    ("rise", {"toward": TEXTS, "image": IMAGE, "seed": -1}, "seed is -1"),
    ("rise", {"toward": TEXTS, "image": IMAGE, "batch_size": 0}, "batch_size is 0"),
    ("rollout", {}, "0 things are given"),
    ("rollout", {"image": IMAGE, "text": "a"}, "2 things are given"),
    ("head_outputs", {"images": []}, "No images"),
    ("head_roles", {"images": [IMAGE, OTHER], "texts": ["a"]}, "at least as many as steps"),
    ("head_roles", {"images": [IMAGE], "texts": TEXTS, "steps": 2}, "outputs"),
    ("word_effects", {"toward": TEXTS, "text": ["a"]}, "expected one text"),
    ("word_effects", {"toward": TEXTS, "text": " "}, "no words"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), WRONG)
def test_refusals(vit: CLIP, name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(look, name)(vit, **arguments)


def test_span_refusals() -> None:
    texts = np.eye(3)
    for wrong in (np.zeros(3), np.zeros((1, 3)), np.zeros((2, 3), int), np.full((2, 3), np.nan), "x"):
        with pytest.raises(InputError, match="outputs are"):
            look.text_span(wrong, texts)
    assert look.text_span(np.zeros((2, 3)), texts).explained.tolist() == [0, 0, 0]


def test_a_tower_that_pools_several_positions_is_refused(vit: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tower does whose embedding is the mean of its patches."""
    monkeypatch.setattr(vision_transformer, "class_token", lambda x: x[:, 1:])
    for name in ("decompose", "rollout"):
        with pytest.raises(InputError, match="made of 16 positions"):
            getattr(look, name)(vit, image=IMAGE)
    with pytest.raises(InputError, match="made of 16 positions"):
        look.logit_lens(vit, TEXTS, image=IMAGE)
