"""The world of one or two kinds of object: its drawings, its captions and what they are true of, and its measures."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from PIL import Image

from clipref import AutoModel, InputError, hub
from clipref.weights_tools.scenes import captions, evaluate, world
from clipref.weights_tools.shapes.captions import class_prompt
from clipref.weights_tools.shapes.world import CLASSES, HELD_OUT

from .plain_drawings import drawings

MODELS = ("clipref/scenes-vit", "clipref/scenes-rn")  # of this world
SCENES = [make(seed) for seed in range(150) for make in (world.one_kind, world.two_kinds)]


def test_a_seed_is_a_scene() -> None:
    assert world.two_kinds(5) == world.two_kinds(5) != world.two_kinds(6)
    assert world.two_kinds(5).draw(64).tobytes() == world.two_kinds(5).draw(64).tobytes()
    assert [captions.caption(make(4)) for make in (world.one_kind, world.two_kinds)] == EXPECTED


EXPECTED = [
    "one small striped orange star in the middle on a grey background",
    "one large striped brown ring left of one large striped yellow circle on a beige background",
]


def test_a_kind_has_values_that_there_are() -> None:
    with pytest.raises(InputError, match="colour is 'redd'; expected one of red, green, "):
        world.Kind("redd", "circle", "large", 1, "middle", "solid")
    with pytest.raises(InputError, match="count is 5; expected one of 1, 2, 3, 4"):
        world.Kind("red", "circle", "large", 5, "middle", "solid")


def test_training_never_shows_a_pair_that_is_held_out() -> None:
    shown = {(k.colour, k.shape) for seed in range(3_000) for k in world.one_kind(seed, held_out=False).kinds}
    assert shown == set(CLASSES) - HELD_OUT
    for seed in range(500):
        assert not any(v.is_held_out for v in world.two_kinds(seed, held_out=False).variants)
        assert world.two_kinds(seed, held_out=True).is_held_out and world.one_kind(seed, held_out=True).is_held_out


def test_measuring_seeds_are_not_training_seeds() -> None:
    trained = max(evaluate.TRAINING_ONES.stop, evaluate.TRAINING_TWOS.stop)
    assert trained <= min(evaluate.HELD_OUT_SEEDS.start, evaluate.SEARCH_SEEDS.start)


def _enlarged(seed: int) -> world.Scene:
    return world.one_kind(seed).enlarge(1.4)


@pytest.mark.fast_cases("two_kinds")
@pytest.mark.parametrize("make", [world.one_kind, world.two_kinds, _enlarged])
def test_masks_are_where_the_objects_are(make: Callable[[int], world.Scene]) -> None:
    """Inside a mask the picture has the kind's colour, outside all masks the background, edges left out."""
    for seed in range(25):
        scene = make(seed)
        pixels = np.asarray(scene.draw(160)).astype(int)
        masks = scene.masks(160)
        assert len(masks) == len(scene.kinds) and masks.any((1, 2)).all()
        assert len(masks) < 2 or not (_grown(masks[0], 3) & masks[1]).any()
        background = ~_grown(np.asarray(masks.any(0)), 6)
        assert np.ptp(pixels[background], axis=0).max() <= 2
        for kind, mask in zip(scene.kinds, masks, strict=True):
            inside = ~_grown(~mask, 6)
            if kind.pattern == "solid" and inside.any():
                (low, high) = np.min(world.TONES[kind.colour], 0) - 6, np.max(world.TONES[kind.colour], 0) + 6
                assert ((low <= pixels[inside]) & (pixels[inside] <= high)).all()


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    for _ in range(by):
        padded = np.pad(mask, 1)
        mask = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | mask
    return mask


def test_places_are_where_words_say() -> None:
    for seed in range(200):
        scene = world.two_kinds(seed)
        centres = [np.argwhere(mask).mean(0) for mask in scene.masks(80)]
        axis = 1 if scene.kinds[0].place == "left" else 0
        assert {k.place for k in scene.kinds} in ({"left", "right"}, {"top", "bottom"})
        assert centres[0][axis] + 20 < centres[1][axis]


def test_only_what_is_large_and_single_is_enlarged() -> None:
    changed = 0
    for scene in SCENES:
        larger = scene.enlarge(1.4)
        if {(k.size, k.count) for k in scene.kinds} == {("large", 1)} and len(scene.kinds) == 1:
            size, grown = scene.masks(160).sum(), larger.masks(160).sum()
            assert size <= grown < 1.4**2 * 1.02 * size
            assert not larger.masks(160)[:, [0, -1]].any() and not larger.masks(160)[:, :, [0, -1]].any()
            changed += grown > 1.2 * size
        else:
            assert larger == scene
    assert changed > 10


def test_captions_are_true_of_their_scenes() -> None:
    rng = random.Random(0)
    for scene in SCENES:
        for _ in range(5):
            assert captions.sample(scene, rng).is_true_of(scene)


def test_truth_is_that_some_kinds_have_what_is_mentioned() -> None:
    """Against the definition, kind by kind, on scenes and captions that often fit by chance."""
    rng = random.Random(1)
    scenes = [v for seed in range(30) for v in world.two_kinds(seed).variants] + SCENES[::2]
    said = [captions.sample(scene, rng) for scene in scenes]
    found = captions.truth(captions.encode_scenes(scenes), captions.encode_captions(said))
    wanted = [[_is_true(caption, scene) for caption in said] for scene in scenes]
    np.testing.assert_array_equal(found, wanted)
    assert 0.01 < found.mean() < 0.5


def _is_true(caption: captions.Caption, scene: world.Scene) -> bool:
    def fits(mention: tuple[object, ...], kind: world.Kind) -> bool:
        return all(said in (None, shown) for said, shown in zip(mention, kind.attributes, strict=True))

    if caption.background not in (None, scene.background):
        return False
    ways = itertools.permutations(scene.kinds, len(caption.mentions))
    return any(all(map(fits, caption.mentions, way)) for way in ways)


def test_two_things_are_not_one() -> None:
    nothing = (None,) * len(world.KIND)
    caption = captions.Caption("a shape and a shape", (nothing, nothing), None)
    assert caption.is_true_of(world.two_kinds(0)) and not caption.is_true_of(world.one_kind(0))


def test_binding_captions_tell_the_variants_apart() -> None:
    assert captions.binding_captions(world.two_kinds(4)) == (
        "a brown ring left of a yellow circle",
        "a yellow ring left of a brown circle",
        "a brown circle left of a yellow ring",
        "a yellow circle left of a brown ring",
    )


def test_related_kinds_are_said_in_either_order() -> None:
    rng = random.Random(2)
    scene = world.two_kinds(4)
    said = {captions.sample(scene, rng).text for _ in range(500)}
    assert any("left of" in text for text in said) and any("right of" in text for text in said)


class Constant:
    """A model to which all is the same, or that is told the truth."""

    def embed_images(self, images: Iterable[object], *, normalize: bool) -> np.ndarray:
        return np.ones((len(list(images)), 2))

    def embed_text(self, text: list[str], *, normalize: bool) -> np.ndarray:
        return np.ones((len(text), 2))


def test_a_model_that_knows_nothing_scores_nothing() -> None:
    assert evaluate.held_out_accuracy(Constant(), 30) < 0.2
    assert all(share == 0 and low <= 0 for share, low in evaluate.binding(Constant(), 10).values())


def test_the_lower_bound_is_wilsons() -> None:
    """Against Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion" (2001), equation 4, solved by
    bisection: the bound is the share p at which the one observed lies 1.96 standard deviations of p above.
    """
    for share, n in [(0.9, 100), (0.65, 500), (1.0, 50)]:
        low, high = 0.0, share
        for _ in range(60):
            p = (low + high) / 2
            low, high = (p, high) if share - p > 1.96 * (p * (1 - p) / n) ** 0.5 else (low, p)
        assert evaluate.lower_bound(share, n) == pytest.approx(low, abs=1e-9)


@pytest.mark.fast_cases("vit-40]")
@pytest.mark.parametrize("n", [40, 600])
@pytest.mark.parametrize("name", MODELS)
def test_pairs_never_seen_are_classified(name: str, n: int) -> None:
    assert evaluate.held_out_accuracy(AutoModel.from_pretrained(name), n) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("n", [40, 500])
@pytest.mark.parametrize("name", MODELS)
def test_what_belongs_to_what_is_told(name: str, n: int) -> None:
    assert all(low > 0.9 for _, low in evaluate.binding(AutoModel.from_pretrained(name), n).values())


@pytest.mark.fast_cases("vit-4]")
@pytest.mark.parametrize("n", [4, 50])
@pytest.mark.parametrize("name", MODELS)
def test_maps_show_what_a_text_names(name: str, n: int) -> None:
    areas = evaluate.localisation(AutoModel.from_pretrained(name), n)
    assert areas["occlusion"] >= 0.95 and areas["direct effect"] >= 0.95, areas


@pytest.mark.slow
def test_a_model_that_never_saw_two_kinds_cannot_tell_what_belongs_to_what() -> None:
    assert all(low < 0.6 for _, low in evaluate.binding(AutoModel.from_pretrained("clipref/shapes-rn"), 200).values())


@pytest.mark.parametrize("name", MODELS)
def test_files_are_small(name: str) -> None:
    path, _ = hub.locate(name)
    assert (path / "model.safetensors").stat().st_size < 3_000_000
    assert {p.name for p in path.iterdir()} == {"model.safetensors", "config.json", "merges.txt", "provenance.json"}
    assert json.loads((path / "provenance.json").read_text())["digest"] == hub.EMBEDDED[name].digest


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("clipref/shapes-rn", 0.85), *((name, 0.95) for name in MODELS)])
def test_drawings_by_other_code_are_recognised(name: str, share: float) -> None:
    model = AutoModel.from_pretrained(name)
    prompts = model.embed_text([class_prompt(*pair) for pair in CLASSES], normalize=True)
    pictures, *shown = zip(*drawings(72, size=120), strict=True)
    images = model.embed_images([Image.fromarray(picture) for picture in pictures], normalize=True)
    best = [CLASSES[i] for i in (images @ prompts.T).argmax(1)]
    assert np.mean([found == pair for found, pair in zip(best, zip(*shown, strict=True), strict=True)]) > share
