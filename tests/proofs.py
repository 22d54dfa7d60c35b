"""What proves a decomposition right: its sum against the forward pass, and each term against a pass without it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipref import CLIP
from clipref.look import Decomposition, decompose
from clipref.numerics import rms, rms_error
from clipref.tracing import Trace

# Of the embedding's RMS.
SUM, KNOCKOUT = 1e-13, 1e-10


@dataclass(frozen=True)
class Given:
    """One item: pixels [1, 3, R, R] or ids [1, T], the argument's name, and its embedding by a plain pass."""

    name: str
    value: np.ndarray
    embedding: np.ndarray

    @property
    def argument(self) -> dict[str, Any]:
        return {self.name: self.value}


def items(model: CLIP, pixels: np.ndarray, ids: np.ndarray) -> Iterator[Given]:
    """An image and a text."""
    yield Given("pixels", pixels[:1], model.encode_image(pixels[:1])[0])
    yield Given("ids", ids[:1], model.encode_text(ids[:1])[0])


def sum_error(found: Decomposition, given: Given) -> float:
    """How far everything together is from the embedding."""
    return rms_error(found.total(), given.embedding)


def knockout_error(model: CLIP, found: Decomposition, given: Given, positions: int = 1) -> float:
    """The largest difference between a term and what is lost where a pass is made without it, of the embedding's RMS.

    For every layer and head, and some positions of each: its value is made zero, and what attention's result loses goes
    through the last LayerNorm and projection as they are defined, with the deviation of the whole pass. So do a layer's
    whole attention, whose bias goes too, and its MLP.
    """
    whole = model.trace(**given.argument)
    readout = end_of_tower(model, given, whole)
    terms, mlps = found.parts["attention"], found.parts.get("mlp", np.empty((0, 0)))
    generator = np.random.default_rng(0)
    errors = []

    def compare(seen: str, edited: str, edit: Any, term: np.ndarray) -> None:
        lost = whole[seen] - model.trace(**given.argument, only=seen, edit={edited: edit})[seen]
        errors.append(np.abs(readout(pooled(lost, given)) - term).max())

    for layer, head in np.ndindex(terms.shape[:2]):
        attention = "visual.attnpool" if is_pool(model, given) else f"{block(given, layer)}.attn"
        for position in generator.permutation(terms.shape[2])[:positions]:

            def without(v: np.ndarray, head: int = head, position: int = position) -> np.ndarray:
                v[0, head, position] = 0
                return v

            seen = "visual" if is_pool(model, given) else attention
            compare(seen, f"{attention}.v", without, terms[layer, head, position])
    for layer in range(len(mlps)):
        name = block(given, layer)
        compare(name, f"{name}.mlp", 0, mlps[layer])
        bias = found.parts["attention_bias"][layer]
        compare(f"{name}.attn", f"{name}.attn", 0, terms[layer].sum(axis=(0, 1)) + bias)
    return float(max(errors)) / rms(given.embedding)


def block(given: Given, layer: int) -> str:
    """A block's name."""
    return f"{'visual.' if given.name == 'pixels' else ''}transformer.resblocks.{layer}"


def pooled(x: np.ndarray, given: Given) -> np.ndarray:
    """The pooled token [W] of an activation [1, L, W]: the class token, or the end of a text."""
    pooled: np.ndarray = x[0] if x.ndim == 2 else x[0, 0 if given.name == "pixels" else -1]
    return pooled


def is_pool(model: CLIP, given: Given) -> bool:
    """Whether the item goes through a ResNet."""
    return given.name == "pixels" and "attnpool" in model.reference.visual()


def end_of_tower(model: CLIP, given: Given, whole: Trace) -> Callable[[np.ndarray], np.ndarray]:
    """What the embedding has of a summand of the pooled token's stream, by the definition of LayerNorm."""
    if is_pool(model, given):
        return lambda x: x
    image = given.name == "pixels"
    params = model.reference.visual() if image else model.reference.text()
    norm, projection = (params[n] for n in (("ln_post", "proj") if image else ("ln_final", "text_projection")))
    stream = pooled(whole[block(given, len(params["transformer"]["resblocks"]) - 1)], given)
    sigma = np.sqrt(stream.var() + 1e-5)

    def readout(x: np.ndarray) -> np.ndarray:
        y: np.ndarray = ((x - x.mean()) / sigma * norm["weight"]) @ projection
        return y

    return readout


def proof(model: CLIP, given: Given, positions: int = 1) -> tuple[float, float]:
    """Both errors."""
    found = decompose(model, **given.argument)
    return sum_error(found, given), knockout_error(model, found, given, positions)
