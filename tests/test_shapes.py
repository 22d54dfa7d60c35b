"""The embedded models: their world, their captions, and what they are worth, measured from the shipped files."""

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import clipref
from clipref import AutoModel, hub
from clipref.tokenizer import Tokenizer
from clipref.weights_tools.shapes import captions, evaluate, vocabulary, world

from .tolerances import assert_close

MODELS = ("clipref/shapes-vit", "clipref/shapes-rn")  # of this world


@cache
def model(name: str, backend: str = "auto") -> clipref.CLIP:
    return AutoModel.from_pretrained(name, backend=backend)


@pytest.mark.fast_cases("vit-40]")
@pytest.mark.parametrize("scenes", [40, 600])
@pytest.mark.parametrize("name", MODELS)
def test_pairs_never_seen_are_classified(name: str, scenes: int) -> None:
    assert evaluate.held_out_accuracy(model(name), scenes) >= 0.9


@pytest.mark.fast_cases("vit-60]")
@pytest.mark.parametrize("scenes", [60, 200])
@pytest.mark.parametrize("name", MODELS)
def test_texts_find_their_scenes(name: str, scenes: int) -> None:
    assert evaluate.recall_at_1(model(name), scenes) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("scenes", [40, 100])
@pytest.mark.parametrize("name", MODELS)
def test_each_attribute_is_told_from_its_alternatives(name: str, scenes: int) -> None:
    shares = evaluate.attribute_accuracy(model(name), scenes)
    assert shares.keys() == world.ATTRIBUTES.keys() and min(shares.values()) >= 0.9, shares


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_knows_nothing_is_measured_as_such(name: str) -> None:
    class Shuffled:
        def embed_images(self, images: object, *, normalize: bool) -> np.ndarray:
            return np.roll(model(name).embed_images(images, normalize=normalize), 1, axis=0)  # type: ignore[arg-type]

        def embed_text(self, text: list[str], *, normalize: bool) -> np.ndarray:
            return model(name).embed_text(text, normalize=normalize)

    assert evaluate.recall_at_1(Shuffled(), 50) < 0.2 and evaluate.held_out_accuracy(Shuffled(), 50) < 0.4


@pytest.mark.parametrize("name", MODELS)
def test_files_are_small(name: str) -> None:
    path, _ = hub.locate(name)
    assert (path / "model.safetensors").stat().st_size < 3_000_000
    assert {p.name for p in path.iterdir()} == {"model.safetensors", "config.json", "merges.txt", "provenance.json"}


@pytest.mark.parametrize("name", MODELS)
def test_backends_agree(name: str) -> None:
    pictures = [world.scene(seed).draw() for seed in range(5)]
    texts = [captions.caption(world.scene(seed)) for seed in range(5)]
    one, other = model(name, "onnx"), model(name, "reference")
    assert_close(one.embed_images(pictures), other.embed_images(pictures), "onnx")
    assert_close(one.embed_text(texts), other.embed_text(texts), "onnx")


@pytest.mark.parametrize("name", MODELS)
def test_any_text_can_be_embedded(name: str) -> None:
    assert model(name).embed_text(["une étoile 猫 😀", "a zebra"]).shape == (2, 96)


def test_a_seed_is_a_scene() -> None:
    described = [captions.caption(world.scene(seed)) for seed in range(3)]
    assert described == [
        "four medium dotted red crosses at the bottom on a black background",
        "two large solid orange squares on the right on a white background",
        "one small solid blue triangle at the top on a black background",
    ]
    assert world.scene(5) == world.scene(5) != world.scene(6)
    assert world.scene(5).draw(64).tobytes() == world.scene(5).draw(64).tobytes()


@pytest.mark.slow
def test_held_out_pairs_are_never_trained_on() -> None:
    seen = {(s.colour, s.shape) for s in evaluate.training_scenes()}
    assert seen == set(world.CLASSES) - world.HELD_OUT
    unseen = {(s.colour, s.shape) for s in (world.scene(seed, held_out=True) for seed in range(2_000))}
    assert unseen == world.HELD_OUT
    for index in (0, 1):  # each colour and each shape is trained on in other pairs
        assert {pair[index] for pair in seen} == {pair[index] for pair in world.CLASSES}


def test_measuring_seeds_are_not_training_seeds() -> None:
    assert evaluate.TRAINING_SEEDS.stop <= min(evaluate.HELD_OUT_SEEDS.start, evaluate.SEARCH_SEEDS.start)


def test_objects_are_inside_and_apart() -> None:
    for seed in range(500):
        scene = world.scene(seed)
        radius, centres = scene._layout(200)
        assert len(centres) == scene.count
        for i, (x, y) in enumerate(centres):
            assert radius <= x + 1e-9 and x <= 200 - radius + 1e-9 and radius <= y + 1e-9 and y <= 200 - radius + 1e-9
            for u, v in centres[:i]:
                assert (x - u) ** 2 + (y - v) ** 2 > (2 * radius) ** 2


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("pattern", world.PATTERNS)
def test_a_drawing_shows_its_colours(shape: str, pattern: str) -> None:
    scene = world.Scene("red", shape, "large", 1, "middle", pattern, "navy", seed=3)
    pixels = np.asarray(scene.draw(100)).astype(int)
    assert (np.abs(pixels[0, 0] - world.BACKGROUNDS["navy"]) <= 1).all()
    red = (pixels[..., 0] > 150) & (pixels[..., 2] < 80)
    assert 0.03 < red.mean() < 0.4


def test_patterns_differ() -> None:
    share = {}
    for pattern in world.PATTERNS:
        pixels = np.asarray(world.Scene("red", "square", "large", 1, "middle", pattern, "black", 3).draw(200))
        share[pattern] = (pixels[..., 0] > 120).mean()
    assert share["dotted"] < share["striped"] < share["solid"]


def test_captions_are_true_and_complete() -> None:
    rng = random.Random(0)
    for seed in range(500):
        scene, other = world.scene(seed), world.scene(seed + 1000)
        said = captions.sample(scene, rng)
        assert said.is_true_of(scene) and any(v is not None for v in said.mentioned)
        words = said.text.split()
        for name, value in zip(world.ATTRIBUTES, said.mentioned, strict=True):
            ways = {
                "colour": captions.COLOUR_WORDS,
                "shape": {k: [n[scene.count > 1] for n in v] for k, v in captions.NOUNS.items()},
                "size": captions.SIZE_WORDS,
                "count": captions.NUMBERS,
                "position": captions.PLACES,
                "pattern": captions.PATTERN_WORDS,
                "background": captions.BACKGROUND_WORDS,
            }[name]
            if value is not None:
                assert any(way in said.text for way in ways[value]), (said.text, name)  # type: ignore[index]
        assert said.is_true_of(other) == all(
            v in (None, w) for v, w in zip(said.mentioned, other.attributes, strict=True)
        )
        assert len(words) <= 22


def test_a_caption_without_number_says_no_count() -> None:
    scene = world.Scene("red", "star", "small", 1, "top", "solid", "black", 0)
    rng = random.Random(1)
    count = list(world.ATTRIBUTES).index("count")
    for _ in range(300):
        said = captions.sample(scene, rng)
        assert (said.mentioned[count] is not None) == ("one " in said.text or "a single " in said.text)


def test_vocabulary_learns_the_most_frequent_pair_first() -> None:
    merges = vocabulary.learn_merges(["abab ab", "ab b"], 2)
    assert merges == [("a", "b</w>"), ("a", "b")] and vocabulary.learn_merges(["a"], 5) == []


@pytest.mark.parametrize("name", MODELS)
def test_every_word_of_the_grammar_is_one_token(name: str) -> None:
    path, _ = hub.locate(name)
    tokenizer = Tokenizer.from_file(Path(path) / "merges.txt")
    rng = random.Random(2)
    for seed in range(200):
        text = captions.sample(world.scene(seed), rng).text
        assert len(tokenizer.encode(text)) == len(text.replace("-", " - ").split())
