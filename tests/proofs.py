"""What proves a decomposition right: its sum against the forward pass, and each term against a pass without it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipref import CLIP
from clipref.look import Decomposition, decompose
from clipref.numerics import rms, rms_error

# Of the embedding's RMS.
SUM, KNOCKOUT = 1e-13, 1e-10


@dataclass(frozen=True)
class Given:
    """One item: pixels [1, 3, R, R] or ids [1, T], the argument's name, and its embedding without any looking inside."""

    name: str
    value: np.ndarray
    embedding: np.ndarray

    @property
    def argument(self) -> dict[str, np.ndarray]:
        return {self.name: self.value}


def items(model: CLIP, pixels: np.ndarray, ids: np.ndarray) -> Iterator[Given]:
    """An image and a text."""
    yield Given("pixels", pixels[:1], model.encode_image(pixels[:1])[0])
    yield Given("ids", ids[:1], model.encode_text(ids[:1])[0])


def sum_error(found: Decomposition, given: Given) -> float:
    """How far everything together is from the embedding."""
    return rms_error(found.total(), given.embedding)


def knockout_error(model: CLIP, found: Decomposition, given: Given, positions: int = 2) -> float:
    """The largest difference between a term and what is lost where a pass is made without it, of the embedding's RMS.

    For every layer and head, and some positions of each: its value is made zero, and what the attention's result loses
    goes through the last LayerNorm and projection as they are defined, with the deviation of the whole pass. MLPs and
    what the stream began with likewise.
    """
    readout = end_of_tower(model, given)
    generator = np.random.default_rng(0)
    terms = found.parts["attention"]
    worst = 0.0
    for layer, head in np.ndindex(terms.shape[:2]):
        for position in generator.permutation(terms.shape[2])[:positions]:

            def without(v: np.ndarray, at: tuple[int, int] = (head, int(position))) -> np.ndarray:
                v[0, at[0], at[1]] = 0
                return v

            lost = difference(model, given, layer, "v", "attn", without)
            worst = max(worst, float(np.abs(readout(lost) - terms[layer, head, position]).max()))
    for layer in range(len(found.parts.get("mlp", ()))):
        for part in ("mlp", "attn"):
            lost = difference(model, given, layer, part, "", lambda x: x * 0)
            term = found.parts["mlp"][layer]
            if part == "attn":
                # The whole attention: all heads and positions, and the bias. Its block's MLP then changes as well.
                lost = difference(model, given, layer, part, part, lambda x: x * 0)
                term = terms[layer].sum(axis=(0, 1)) + found.parts["attention_bias"][layer]
            worst = max(worst, float(np.abs(readout(lost) - term).max()))
    return worst / rms(given.embedding)


def module(given: Given, layer: int) -> str:
    """A block's name."""
    return f"{'visual.' if given.name == 'pixels' else ''}transformer.resblocks.{layer}"


def is_pool(model: CLIP, given: Given) -> bool:
    """Whether the item goes through a ResNet."""
    return given.name == "pixels" and "attnpool" in model.reference.visual()


def difference(
    model: CLIP, given: Given, layer: int, edited: str, seen: str, edit: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What an activation of the pooled token loses by an edit: [W]; of a ResNet, what the embedding does: [E]."""
    if is_pool(model, given):
        name, edited = "visual", f"visual.attnpool.{edited}"
    else:
        block = module(given, layer)
        name = f"{block}.{seen}".rstrip(".")
        edited = f"{block}.attn.v" if edited == "v" else f"{block}.{edited}"
    before = model.trace(**given.argument, only=name)[name]
    after = model.trace(**given.argument, only=name, edit={edited: edit})[name]
    lost = (before - after)[0]
    if lost.ndim == 1:
        return lost
    return lost[0 if given.name == "pixels" else -1]


def end_of_tower(model: CLIP, given: Given) -> Callable[[np.ndarray], np.ndarray]:
    """What the embedding has of a summand of the pooled token's stream, by the definition of LayerNorm."""
    if is_pool(model, given):
        return lambda x: x
    image = given.name == "pixels"
    params = model.reference.visual() if image else model.reference.text()
    norm, projection = (params[n] for n in (("ln_post", "proj") if image else ("ln_final", "text_projection")))
    name = module(given, len(params["transformer"]["resblocks"]) - 1)
    stream = model.trace(**given.argument, only=name)[name][0, 0]
    sigma = np.sqrt(stream.var() + 1e-5)

    def readout(x: np.ndarray) -> np.ndarray:
        y: np.ndarray = ((x - x.mean()) / sigma * norm["weight"]) @ projection
        return y

    return readout


def proof(model: CLIP, given: Given) -> tuple[float, float]:
    """Both errors."""
    found = decompose(model, **given.argument)
    return sum_error(found, given), knockout_error(model, found, given)
