"""What can be said of a scene: a grammar that says the same thing in several ways, and leaves out as much as it likes.

A caption comes with the attributes it mentions, so that one can tell which scenes it is true of.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .world import ATTRIBUTES, BACKGROUNDS, COLOURS, COUNTS, PATTERNS, POSITIONS, SHAPES, SIZES, Scene

# The first way of saying something is the one that `caption` uses.
NOUNS = {
    **{shape: [(shape, f"{shape}s")] for shape in SHAPES},
    "circle": [("circle", "circles"), ("disc", "discs")],
    "cross": [("cross", "crosses"), ("plus sign", "plus signs")],
    "ring": [("ring", "rings"), ("hoop", "hoops")],
    "crescent": [("crescent", "crescents"), ("crescent moon", "crescent moons")],
}
ANY = ("shape", "shapes")
NUMBERS = {1: ["one", "a single", "a"], 2: ["two", "a pair of"], 3: ["three"], 4: ["four"]}
SIZE_WORDS = {"small": ["small", "tiny", "little"], "medium": ["medium", "medium-sized"], "large": ["large", "big"]}
PATTERN_WORDS = {
    "solid": ["solid", "plain", "filled"],
    "striped": ["striped", "stripy"],
    "dotted": ["dotted", "spotted"],
}
COLOUR_WORDS = {colour: [colour] for colour in COLOURS} | {
    "purple": ["purple", "violet"],
    "cyan": ["cyan", "turquoise"],
}
BACKGROUND_WORDS = {name: [name] for name in BACKGROUNDS} | {"grey": ["grey", "gray"], "navy": ["navy", "dark blue"]}
PLACES = {
    "left": ["on the left", "on the left side", "at the left"],
    "right": ["on the right", "on the right side", "at the right"],
    "top": ["at the top", "near the top", "in the upper part"],
    "bottom": ["at the bottom", "near the bottom", "in the lower part"],
    "middle": ["in the middle", "in the centre", "in the center"],
}
OPENINGS = ["", "", "", "a picture of ", "a drawing of ", "an image of ", "a photo of "]
EXISTS = {True: "there is ", False: "there are "}  # of one, of several

assert PATTERN_WORDS.keys() == set(PATTERNS) and SIZE_WORDS.keys() == SIZES.keys()
assert NUMBERS.keys() == COUNTS.keys() and PLACES.keys() == POSITIONS.keys()


@dataclass(frozen=True)
class Caption:
    """A text, and what it mentions: an attribute's value, or None, in the order of world.ATTRIBUTES."""

    text: str
    mentioned: tuple[object, ...]

    def is_true_of(self, scene: Scene) -> bool:
        """Whether the scene has every attribute that the caption mentions."""
        return all(said in (None, true) for said, true in zip(self.mentioned, scene.attributes, strict=True))


def caption(scene: Scene) -> str:
    """Everything there is to say, in the plainest words: "three small striped red stars at the top on a white ..."."""
    number = NUMBERS[scene.count][0]
    noun = NOUNS[scene.shape][0][scene.count > 1]
    return (
        f"{number} {scene.size} {scene.pattern} {scene.colour} {noun} {PLACES[scene.position][0]} "
        f"on a {scene.background} background"
    )


def class_prompt(colour: str, shape: str) -> str:
    """The prompt of a class of world.CLASSES: "a red circle"."""
    return f"{_article(colour)} {colour} {NOUNS[shape][0][0]}"


def sample(scene: Scene, rng: random.Random) -> Caption:
    """One of the many true captions: each attribute mentioned or not, each in one of its ways."""
    chance = rng.choice([0.25, 0.5, 1.0])  # terse, middling, complete
    mentions = {
        name: rng.random() < (max(chance, 0.8) if name in ("colour", "shape") else chance) for name in ATTRIBUTES
    }
    if not any(mentions.values()):
        mentions["shape"] = True
    words = []
    if mentions["size"]:
        words.append(rng.choice(SIZE_WORDS[scene.size]))
    if mentions["pattern"]:
        words.append(rng.choice(PATTERN_WORDS[scene.pattern]))
    if mentions["colour"]:
        words.append(rng.choice(COLOUR_WORDS[scene.colour]))
    if rng.random() < 0.15:
        rng.shuffle(words)
    several = scene.count > 1
    words.append((rng.choice(NOUNS[scene.shape]) if mentions["shape"] else ANY)[several])
    phrase = " ".join(words)
    opening = rng.choice([*OPENINGS, EXISTS[not several]])
    if mentions["count"]:
        number = rng.choice(NUMBERS[scene.count])
        phrase = f"{_article(phrase) if number == 'a' else number} {phrase}"
        mentions["count"] = number != "a"  # an article doesn't count
    elif not several and (opening or rng.random() < 0.7):
        phrase = f"{_article(phrase)} {phrase}"
    ends = []
    if mentions["position"]:
        ends.append(rng.choice(PLACES[scene.position]))
    if mentions["background"]:
        background = rng.choice(BACKGROUND_WORDS[scene.background])
        ends.append(
            rng.choice([f"on a {background} background", f"on {background}", f"against a {background} background"])
        )
    if rng.random() < 0.3:
        ends.reverse()
    text = opening + " ".join([phrase, *ends])
    said = tuple(getattr(scene, name) if mentions[name] else None for name in ATTRIBUTES)
    return Caption(text, said)


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"
