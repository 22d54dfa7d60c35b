"""What can be said of a scene: one kind or both, where they are, what is left out; and which scenes that is true of.

A caption mentions up to two kinds, each by some of its attributes. It is true of a scene when different kinds of the
scene have them, one for each mention. A relation says where both are: "a red circle left of a blue star" mentions a red
circle that is left and a blue star that is right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..shapes.captions import (
    ANY,
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    NOUNS,
    NUMBERS,
    OPENINGS,
    PATTERN_WORDS,
    PLACES,
    SIZE_WORDS,
    class_prompt,
)
from .world import BACKGROUNDS, KIND, Kind, Scene

# Relations: where the kind that is named first is, and the words between the two.
RELATIONS = {
    "left": ["left of", "to the left of"],
    "right": ["right of", "to the right of"],
    "top": ["above", "over"],
    "bottom": ["below", "under"],
}


@dataclass(frozen=True)
class Caption:
    """A text and what it mentions: for each kind the values in the order of KIND, and the background; None for what
    is left out.
    """

    text: str
    mentions: tuple[tuple[object, ...], ...]
    background: str | None

    def is_true_of(self, scene: Scene) -> bool:
        """Whether the scene shows all that is mentioned."""
        return bool(truth(encode_scenes([scene]), encode_captions([self]))[0, 0])


def caption(scene: Scene) -> str:
    """Everything there is to say, in the plainest words."""
    phrases = []
    for kind in scene.kinds:
        noun = NOUNS[kind.shape][0][kind.count > 1]
        phrases.append(f"{NUMBERS[kind.count][0]} {kind.size} {kind.pattern} {kind.colour} {noun}")
    place = scene.kinds[0].place
    if len(phrases) == 1:
        return f"{phrases[0]} {PLACES[place][0]} on a {scene.background} background"
    return f"{phrases[0]} {RELATIONS[place][0]} {phrases[1]} on a {scene.background} background"


def binding_captions(scene: Scene) -> tuple[str, str, str, str]:
    """Captions of a scene of two kinds, and of each of its variants: "a red circle left of a blue star"."""
    said = []
    for variant in scene.variants:
        first, second = (class_prompt(kind.colour, kind.shape) for kind in variant.kinds)
        said.append(f"{first} {RELATIONS[variant.kinds[0].place][0]} {second}")
    return said[0], said[1], said[2], said[3]


def sample(scene: Scene, rng: random.Random, alone: float = 0.15) -> Caption:
    """One of the many true captions.

    `alone` is how often one that mentions a single kind leaves out its colour, and how often its shape, but not both.
    """
    chance = rng.choice((0.0, 0.25, 0.5, 1.0))  # from the bare class to everything
    mentions, words = [], []
    both = len(scene.kinds) > 1 and rng.random() < 0.8
    kinds = rng.sample(scene.kinds, 2 if both else 1)
    related = both and rng.random() < 0.75
    for kind in kinds:
        mentioned = {name: rng.random() < chance for name in KIND}
        for name in ("colour", "shape"):
            mentioned[name] = rng.random() < (0.95 if both else 1 - alone)
        mentioned["shape"] |= not mentioned["colour"]
        if both:
            mentioned["place"], mentioned["count"] = False, mentioned["count"] and not related
        phrase, counted = _sample_phrase(kind, mentioned, rng)
        mentioned["count"] = counted
        mentioned["place"] |= related
        if mentioned["place"] and not related:
            phrase = f"{phrase} {rng.choice(PLACES[kind.place])}"
        words.append(phrase)
        mentions.append(tuple(getattr(kind, name) if mentioned[name] else None for name in KIND))
    text = words[0]
    if both:
        between = rng.choice(RELATIONS[kinds[0].place]) if related else rng.choice(("and", "and", "with"))
        text = f"{words[0]} {between} {words[1]}"
    background = scene.background if rng.random() < chance else None
    if background:
        named = rng.choice(BACKGROUND_WORDS[background])
        ground = rng.choice((f"on a {named} background", f"on {named}", f"against a {named} background"))
        text = f"{text} {ground}"
    return Caption(rng.choice((*OPENINGS, "there is ")) + text, tuple(mentions), background)


def _sample_phrase(kind: Kind, mentioned: dict[str, bool], rng: random.Random) -> tuple[str, bool]:
    """One kind in some words, and whether they count its objects (an article doesn't)."""
    adjectives = []
    if mentioned["size"]:
        adjectives.append(rng.choice(SIZE_WORDS[kind.size]))
    if mentioned["pattern"]:
        adjectives.append(rng.choice(PATTERN_WORDS[kind.pattern]))
    if mentioned["colour"]:
        adjectives.append(rng.choice(COLOUR_WORDS[kind.colour]))
    noun = (rng.choice(NOUNS[kind.shape]) if mentioned["shape"] else ANY)[kind.count > 1]
    phrase = " ".join([*adjectives, noun])
    if mentioned["count"]:
        number = rng.choice(NUMBERS[kind.count])
        return f"{_article(phrase) if number == 'a' else number} {phrase}", number != "a"
    return (phrase if kind.count > 1 else f"{_article(phrase)} {phrase}"), False


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


# Attributes as numbers, so that a batch of captions is compared with a batch of scenes at once.
_INDEX = [{value: i for i, value in enumerate(values)} for values in KIND.values()]
_GROUND = {name: i for i, name in enumerate(BACKGROUNDS)}
ABSENT = -2  # the second kind of a scene or of a caption that has one
UNSAID = -1

Array = np.ndarray[Any, np.dtype[np.int64]]


def encode_scenes(scenes: Sequence[Scene]) -> tuple[Array, Array]:
    """The kinds' attributes [N, 2, 6], ABSENT where there is no second kind, and the backgrounds [N]."""
    kinds = np.full((len(scenes), 2, len(KIND)), ABSENT)
    for n, scene in enumerate(scenes):
        for k, kind in enumerate(scene.kinds):
            kinds[n, k] = [index[value] for index, value in zip(_INDEX, kind.attributes, strict=True)]
    return kinds, np.array([_GROUND[scene.background] for scene in scenes])


def encode_captions(said: Sequence[Caption]) -> tuple[Array, Array]:
    """Captions' attributes, coded as by `encode_scenes`: UNSAID where nothing is said."""
    kinds = np.full((len(said), 2, len(KIND)), ABSENT)
    for n, caption in enumerate(said):
        for k, mention in enumerate(caption.mentions):
            kinds[n, k] = [UNSAID if v is None else index[v] for index, v in zip(_INDEX, mention, strict=True)]
    return kinds, np.array([UNSAID if one.background is None else _GROUND[one.background] for one in said])


def truth(scenes: tuple[Array, Array], said: tuple[Array, Array]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which captions are true of which scenes: [scenes, captions]."""
    kinds, grounds = scenes
    mentions, said_grounds = said
    shown, wanted = kinds[:, None, :, None], mentions[None, :, None]  # [N, 1, 2, 1, 6], [1, M, 1, 2, 6]
    fits = ((shown == wanted) | (wanted == UNSAID)).all(-1)  # [N, M, kind, mention]
    fits &= (shown != ABSENT).any(-1)
    fits |= (wanted == ABSENT).all(-1)
    straight = fits[:, :, 0, 0] & fits[:, :, 1, 1]
    crossed = fits[:, :, 0, 1] & fits[:, :, 1, 0]
    true: np.ndarray[Any, np.dtype[np.bool_]] = (straight | crossed) & (
        (grounds[:, None] == said_grounds) | (said_grounds == UNSAID)
    )
    return true
