"""What failures have in common: the kind of model or of picture, the items of a batch, the activation that goes wrong.

Nothing here is searched in the catalogue of faults, so it is there where no known fault explains a failure, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipref.config import ClipConfig
from clipref.numerics import rms
from clipref.weights import read_config

from .. import faults
from ..grading.verdicts import MARGIN, Result
from ..protocol import Array, Case
from .diagnosis import SUBJECT, by_place
from .evidence import Answered
from .fault import WHOLE

# Failures that may share something by chance.
_BY_CHANCE = 1
_STYLES = {"plain": "with random weights", "trained": "with weights as training leaves them"}


def find_shared(
    failed: Sequence[Answered], passed: Sequence[Answered], results: Mapping[str, Result], precision: str
) -> Iterator[str]:
    """A sentence for each thing that all failures of a place share, and no answer that passed there has.

    `results` by case, of the traces among them.
    """
    failures, others = by_place(failed), by_place(passed)
    for where, found in failures.items():
        right = others.get(where, ())
        if len(found) > _BY_CHANCE and right and (kind := _kind(found, right)):
            said = SUBJECT.get(where, f"results of {where}")
            count = f"{len(found)} of {len(found) + len(right)} answers"
            yield f"Of the {said}, only those of {kind} fail: {count}."
        if where in ("vit", "resnet", "text") and (items := _items(found, where, precision)):
            yield items
    yield from _departures([answer for answer in (*failed, *passed) if answer.case.verb.startswith("trace")], results)


# --- kinds of models and of pictures ----------------------------------------------------------------------------------


def _kind(failed: Sequence[Answered], passed: Sequence[Answered]) -> str | None:
    """In words, which kinds fail, if none of these kinds passes; the first way of telling kinds apart that does it."""
    traits = [_traits(answer) for answer in failed]
    right = [_traits(answer) for answer in passed]
    for way in traits[0]:
        wrong = dict.fromkeys(trait[way] for trait in traits if way in trait)
        if not wrong.keys() & {trait.get(way) for trait in right} and all(way in trait for trait in traits):
            return " or ".join(wrong)
    return None


def _traits(answer: Answered) -> dict[str, str]:
    """What a case is like, by ways of telling cases apart, the most telling first."""
    case = answer.case
    if case.verb == "preprocess":
        return _traits_of_picture(case.id.partition("/")[2])
    if case.checkpoint is None:
        return {}
    config = read_config(case.checkpoint / "config.json")
    if case.verb in WHOLE:
        return _traits_from_a_file(config, case)
    style = case.checkpoint.name.rpartition("-")[2]
    (x,) = case.inputs.values()
    return {
        **_traits_of_tower(config, case.verb.rpartition("_")[2]),
        **({"style": f"models {_STYLES[style]}"} if style in _STYLES else {"style": f"models that are {style}"}),
        "batch": "single items" if len(x) == 1 else "batches",
        "model": f"the model {case.checkpoint.name.rpartition('-')[0]}",
    }


def _traits_of_tower(config: ClipConfig, kind: str) -> dict[str, str]:
    tower: Any = config.vision if kind == "image" else config.text
    if not hasattr(tower, "activation"):
        return {}
    activation = {"quick_gelu": "QuickGELU", "gelu": "the exact GELU"}[tower.activation]
    ratio = "4 times as wide as the model" if tower.mlp_width == 4 * tower.width else "not 4 times as wide"
    return {
        "activation": f"models with {activation}",
        "mlp": f"models whose MLP is {ratio}",
        "depth": f"models of {'one block' if tower.layers == 1 else 'several blocks'}",
    }


def _traits_from_a_file(config: ClipConfig, case: Case) -> dict[str, str]:
    if case.verb != "embed_image":
        return {}
    mode = case.id.rpartition("/image ")[2].partition(" ")[0]
    return {
        "tower": f"models with a {'ResNet' if config.vision.family == 'resnet' else 'ViT'}",
        **({"mode": f"mode {mode}"} if case.level == "pipeline" else {}),
    }


def _traits_of_picture(name: str) -> dict[str, str]:
    """Of "RGB with EXIF 50x40 to 24"."""
    mode, _, size = name.rpartition(" to ")[0].rpartition(" ")
    width, height = (int(side) for side in size.split("x"))
    side = int(name.rpartition(" to ")[2])
    short = min(width, height)
    grows = "grow" if short < side else "keep their size" if short == side else "shrink"
    return {
        "mode": f"mode {mode}",
        "size": f"pictures that {grows}",
        "shape": f"pictures that are {'square' if width == height else 'wide' if width > height else 'high'}",
        "side": f"pictures for a side of {side}",
    }


# --- items of a batch -------------------------------------------------------------------------------------------------


def _items(failed: Sequence[Answered], where: str, precision: str) -> str | None:
    """In words, which items of a batch are wrong, if in all failing batches the same of several are."""
    wrong = [_wrong_rows(answer, precision) for answer in failed]
    batches = [(answer, rows) for answer, rows in zip(failed, wrong, strict=True) if rows is not None and len(rows) > 1]
    if len(batches) <= _BY_CHANCE or any(rows.all() or not rows.any() for _, rows in batches):
        return None
    told = f"Of the {SUBJECT[where]}, only some items of each batch are wrong"
    if all(rows[1:].all() and not rows[0] for _, rows in batches):
        return f"{told}: all but the first."
    if all(rows[0] and not rows[1:].any() for _, rows in batches):
        return f"{told}: the first."
    if where != "text":
        return None
    kinds = [
        kind
        for kind, rows_of in _TEXTS.items()
        if all((rows == rows_of(answer.case.inputs["ids"])).all() for answer, rows in batches)
    ]
    return f"{told}: {', or '.join(kinds)}." if kinds else None


def _wrong_rows(answer: Answered, precision: str) -> Any:
    """Which items are off, [N] bool; None if the shapes differ."""
    found, exact = answer.outputs["embeddings"], answer.exact.outputs["embeddings"]
    if found.shape != exact.shape:
        return None
    return np.abs(found - exact).max(axis=1) / rms(exact) > MARGIN * answer.exact.units["embeddings"][precision]


def _ends(ids: Array) -> Array:
    return np.asarray(ids.argmax(axis=1))


_TEXTS: dict[str, Callable[[Array], Array]] = {
    "texts that fill the context": lambda ids: _ends(ids) >= ids.shape[1] - 2,
    "texts with padding": lambda ids: _ends(ids) < ids.shape[1] - 2,
    "texts with an id 0 among their words": lambda ids: (
        (ids == 0) & (np.arange(ids.shape[1]) < _ends(ids)[:, None])
    ).any(axis=1),
    "texts with two end-of-text tokens": lambda ids: (ids == ids.max()).sum(axis=1) > 1,
    "the shortest text": lambda ids: _ends(ids) == _ends(ids).min(),
    "all but the longest text": lambda ids: _ends(ids) < _ends(ids).max(),
}


# --- activations ------------------------------------------------------------------------------------------------------


def _departures(traces: Sequence[Answered], results: Mapping[str, Result]) -> Iterator[str]:
    """Where traces leave the band first, by tower; of blocks with their number where it is the same in all."""
    places: dict[str, list[Result]] = {}
    for answer in traces:
        if (result := results[answer.case.id]).taps:
            places.setdefault(str(faults.place(answer.case)), []).append(result)
    for where, found in places.items():
        firsts = [tap for result in found if (tap := result.departure) is not None]
        if not firsts:
            continue
        names = [tap.name for tap in firsts]
        if len({name.rpartition(".resblocks.")[2].partition(".")[0] for name in names}) > 1:
            names = [re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names]
        (name, most), *_ = Counter(names).most_common()
        # The right activations of some models are known of whole blocks only.
        whole = sum(name.startswith(f"{known}.") for known in names)
        count, others = most + whole, [n for n in names if n != name and not name.startswith(f"{n}.")]
        known = all(tap.input_known for tap, n in zip(firsts, names, strict=True) if n == name)
        right = "whose input is right" if known else "of whose input no activation is known"
        right += f" ({whole} in its block)" if whole else ""
        one, several = {"vit": ("a ViT", "ViTs"), "resnet": ("a ResNet", "ResNets"), "text": ("texts", "texts")}[where]
        of = f"{count} of the {len(found)}" if count < len(found) else f"all {count}"
        said = f"the trace of {one} leaves" if len(found) == 1 else f"{of} traces of {several} leave"
        rest = f"; {len(others)} elsewhere, such as {others[0]}" if others else ""
        yield f"{said[0].upper()}{said[1:]} the band first at {name}, {right}{rest}."
