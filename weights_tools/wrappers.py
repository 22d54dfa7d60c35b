"""What training puts around a model's tensors, taken off again: dicts that hold the state dict, and prefixes of names.

A training script saves `{"model": ..., "optimizer": ..., "epoch": ...}`, and what trains a model in parallel, compiles
it or averages it puts `module.`, `_orig_mod.` or `ema.` before its names. None of these words needs to be known: names
of a CLIP are found by their endings, and whatever stands before them is the wrapper. What isn't below it is left out,
such as an optimizer's state, a loss, a counter; what is below it, and no tensor of a CLIP, is refused later by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from clipref.errors import ConfigError, WeightsError

T = TypeVar("T")

# Parts that torch puts into names in the middle, where it has wrapped a part of a model: data parallelism, compilation,
# sharding, activation checkpointing.
_INSIDE = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


class Doubt(ConfigError):
    """Something that decides the result can't be known from the checkpoint."""


def unwrap(tensors: Mapping[str, T], landmarks: Iterable[str], prefix: str | None = None) -> dict[str, T]:
    """The tensors of the one model that is there, by their own names.

    `landmarks` are names by which a model is known. `prefix` is what stands before its names, if there are several.
    Raises Doubt if there are several and none is chosen, WeightsError if there isn't the one that is.
    """
    found = sorted({before for name in tensors if (before := before_landmark(name, landmarks)) is not None})
    if prefix is not None:
        prefix = f"{prefix.rstrip('.')}." if prefix else ""
        if prefix not in found:
            raise WeightsError(f"No model is under {prefix!r}; there are: {_quote(found) or 'none'}.")
    elif len(found) > 1:
        raise Doubt(
            f"There are several models in it, under {_quote(found)}. Convert the one that you mean: clipref convert "
            f"FILE FOLDER --prefix {found[0].rstrip('.') or repr('')}; then open FOLDER."
        )
    else:
        prefix = found[0] if found else ""
    unwrapped: dict[str, T] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            own = ".".join(part for part in name[len(prefix) :].split(".") if part not in _INSIDE)
            if own in unwrapped:
                raise WeightsError(f"It has {own[:80]!r} twice, with and without what torch wraps around a module.")
            unwrapped[own] = tensor
    return unwrapped


def before_landmark(name: str, landmarks: Iterable[str]) -> str | None:
    """The part of a name before a landmark that it ends with, up to its last dot; None if it ends with none of them.

    Of two landmarks the longer one counts.
    """
    parts = name.split(".")
    found = None
    for landmark in landmarks:
        rest = _without(parts, landmark.split("."))
        if rest is not None and (found is None or len(rest) < len(found)):
            found = rest
    return None if found is None else "".join(f"{part}." for part in found)


def _without(parts: list[str], ending: list[str]) -> list[str] | None:
    """The parts before an ending that may have wrappers between its own parts."""
    rest = list(parts)
    for part in reversed(ending):
        while rest and rest[-1] in _INSIDE:
            rest.pop()
        if not rest or rest.pop() != part:
            return None
    return rest


def _quote(prefixes: Iterable[str]) -> str:
    return ", ".join(repr(prefix[:60].rstrip(".")) for prefix in list(prefixes)[:6])
