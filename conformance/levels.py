"""All questions, level by level, and their right answers.

An engine may claim some levels and not others. Checkpoints and inputs are made from seeds; the right answers of towers
and taps are golden values of implementations that share no code with clipref, those of tokens are OpenAI's tokenizer's,
those of pixels Pillow's; operations and similarity follow their definitions in float64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from clipref import ops
from clipref.config import ClipConfig, ResNetConfig
from clipref.engine import NumpyEngine
from clipref.errors import InputError
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from . import comparison, emulation, pipeline, recipe
from .case import Array, Case, Exact, Question, Units
from .cases import FULL, SEED, TINY, full_inputs, golden_file, goldens, sample, tiny_inputs
from .units import frozen

LEVELS = {
    "describe": "the numbers of a model",
    "tokenize": "texts to ids, exactly",
    "preprocess": "images to pixels, exactly, in one profile or another",
    "operations": "single operations, against their definitions",
    "towers": "both towers on tiny models, of pairwise different dimensions",
    "taps": "the activations inside the tiny towers",
    "similarity": "cosines and logits of embeddings",
    "properties": "what doesn't depend on the batch, on the time or on the values",
    "pipeline": "image files and texts to embeddings, on two small trained models",
    "full": "both towers in the nine published sizes (--full)",
    "released": "published values of the released weights (--released)",
}
# What is asked of an engine that doesn't say what it claims.
DEFAULT = tuple(level for level in LEVELS if level not in ("full", "released"))

_BLOCK = ("BLK-1", "BLK-2", "BLK-3", "BLK-4", "BLK-5")
_OUTPUT = ("OUT-1", "OUT-2", "OUT-3")
_TEXT = (*_BLOCK, "TXT-1", "TXT-2", "TXT-3", "TXT-4", *_OUTPUT)
_VIT = (*_BLOCK, "VIT-1", "VIT-2", "VIT-3", "VIT-4", "VIT-5", "OPS-1", *_OUTPUT)
_RESNET = ("RN-1", "RN-2", "RN-3", "RN-4", "BLK-3", "OPS-1", *_OUTPUT)


def questions(levels: Sequence[str] = DEFAULT, full: Sequence[str] = (), profile: str = "openai") -> Iterator[Question]:
    """The questions of some levels; those of full sizes for the models named. Raises InputError for unknown names."""
    for given, known, what in (
        (levels, LEVELS, "level"), (full, FULL, "model"), ([profile], recipe.PROFILES, "profile"),
    ):  # fmt: skip
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"No {what} {unknown[0]!r}; there are: {', '.join(known)}.")
    makers: dict[str, Iterator[Question]] = {
        "describe": describe(),
        "tokenize": tokenize(),
        "preprocess": preprocess(profile),
        "operations": operations(),
        "towers": towers("towers", TINY),
        "taps": towers("taps", TINY),
        "similarity": similarity(),
        "properties": properties(),
        "pipeline": pipeline.questions(profile),
        "full": towers("full", {name: FULL[name] for name in full}),
    }
    for level, maker in makers.items():
        if level in levels or (level == "full" and full):
            yield from maker


# --- models -----------------------------------------------------------------------------------------------------------


def made(name: str, style: str, folder: Path) -> Path:
    """The folder of a synthetic checkpoint, made if it isn't there."""
    path = folder / f"{name.removeprefix('clip/')}-{style}"
    if not path.exists():
        synthetic.write(path, {**TINY, **FULL}[name], SEED, style)  # type: ignore[arg-type]
    return path


def _sharpened(name: str, folder: Path) -> Path:
    """A plain checkpoint whose queries are so long that exp(score) is more than float32 holds."""
    from safetensors.numpy import load_file, save_file

    path = folder / f"{name}-sharp"
    if not path.exists():
        shutil.copytree(made(name, "plain", folder), path)
        tensors = load_file(path / "model.safetensors")
        for key, x in tensors.items():
            if key.endswith(("in_proj_weight", "in_proj_bias")):
                x[: len(x) // 3] *= _SHARP
        save_file(tensors, path / "model.safetensors")
    return path


_SHARP = 256


def describe() -> Iterator[Question]:
    for name, config in TINY.items():
        numbers = {
            "embed_dim": config.embed_dim, "resolution": config.vision.resolution,
            "context_length": config.text.context_length, "vocab_size": config.text.vocab_size,
        }  # fmt: skip
        exact = Exact({key: np.asarray(value) for key, value in numbers.items()})
        yield _question(f"describe/{name}", ("DESC-1",), "describe", (name, "plain"), {}, {}, lambda case, e=exact: e)


def towers(level: str, models: Mapping[str, ClipConfig]) -> Iterator[Question]:
    """Both towers of models in both styles of weights: embeddings, or activations where the level is "taps"."""
    verb = "trace" if level == "taps" else "encode"
    for name, config in models.items():
        for style in synthetic.STYLES:
            for tower, claims in (("image", _image_claims(config)), ("text", _TEXT)):
                yield _question(
                    f"{level}/{name.removeprefix('clip/')} {style}/{tower}", claims, f"{verb}_{tower}", (name, style),
                    partial(_inputs, name, tower), {}, partial(_encoded, name, style), _measured,
                )  # fmt: skip


def _image_claims(config: ClipConfig) -> tuple[str, ...]:
    return _RESNET if isinstance(config.vision, ResNetConfig) else _VIT


def _inputs(name: str, tower: str) -> dict[str, Array]:
    pixels, ids = tiny_inputs(TINY[name]) if name in TINY else full_inputs(FULL[name])
    return {"pixels": pixels} if tower == "image" else {"ids": ids}


@cache
def _tower(name: str, style: str, tower: str) -> tuple[Exact, Exact]:
    """The right embeddings and the right activations of a tower on its inputs, with their units."""
    tiny = name in TINY
    golden = goldens("tiny" if tiny else "full")[0][f"{name} {style}"]
    key = f"{name.removeprefix('clip/')} {style}/{tower}"
    embeddings = Exact({"embeddings": golden[tower]}, frozen(f"{'towers' if tiny else 'full'}/{key}"))
    if not tiny:
        return embeddings, Exact({})
    taps = {
        key: x for key, x in golden.items()
        if key not in ("image", "text", "logits") and key.startswith("visual") == (tower == "image")
    }  # fmt: skip
    taps["visual" if tower == "image" else "text_projection"] = sample(golden[tower])
    return embeddings, Exact(taps, frozen(f"taps/{key}"))


def _encoded(name: str, style: str, case: Case) -> Exact:
    verb, _, tower = case.verb.partition("_")
    embeddings, taps = _tower(name, style, tower)
    return embeddings if verb == "encode" else taps


def _measured(case: Case, exact: Exact) -> Units:
    """The units of what a tower answers: embeddings or activations."""
    assert case.checkpoint is not None
    (x,) = case.inputs.values()
    orders = emulation.FEW_ORDERS if case.level == "full" else emulation.ORDERS
    verb = case.verb.replace("trace", "encode")
    return emulation.units(Checkpoint(case.checkpoint), verb, x, exact.outputs, orders)


def tap_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The activations that the reference has in a case of taps, in order, and their shapes."""
    assert case.checkpoint is not None
    key = case.checkpoint.name, case.verb
    if key not in _shapes:
        shapes = _shapes.setdefault(key, {})

        def tap(name: str, x: Array) -> Array:
            shapes[name] = x.shape
            return x

        (x,) = case.inputs.values()
        encode = case.verb.replace("trace", "encode")
        getattr(NumpyEngine(Checkpoint(case.checkpoint), "float32"), encode)(x, tap)
    return _shapes[key]


_shapes: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}


# --- what comes before and behind the towers --------------------------------------------------------------------------

_TOKEN_CLAIMS = {
    "words": ("TOK-5", "TOK-6", "TOK-7", "TOK-8"),
    "numbers": ("TOK-5",),
    "scripts": ("TOK-5", "TOK-6"),
    "repaired": ("TOK-1",),
    "unescaped": ("TOK-2",),
    "spaces": ("TOK-3",),
    "upper case": ("TOK-4",),
    "whole table": ("TOK-6",),
    "last merges": ("TOK-6",),
    "id 0": ("TOK-6", "TOK-8"),
    "special": ("TOK-10",),
    "mixed": ("TOK-1", "TOK-2", "TOK-3", "TOK-4", "TOK-5", "TOK-6", "TOK-10"),
    "to the brim": ("TOK-7", "TOK-8", "TOK-9"),
    "too long": ("TOK-9",),
    "context of 20": ("TOK-8", "TOK-9"),
    "refused": ("TOK-11",),
}


@cache
def golden_tokens() -> Any:
    """Groups of texts, and the ids that OpenAI's tokenizer gives them."""
    return json.loads(golden_file("tokens.json").read_text(encoding="utf-8"))


def tokenize() -> Iterator[Question]:
    for group, claims in _TOKEN_CLAIMS.items():
        found = golden_tokens()["groups"][group]
        texts = np.frombuffer(json.dumps(found["texts"]).encode(), np.uint8)
        attributes = {name: found[name] for name in ("truncate", "context_length")}
        ids = np.zeros((len(found["ids"]), found["context_length"]), np.int64)
        for row, known in zip(ids, found["ids"], strict=True):
            row[: len(known)] = known
        # Of texts that are refused, there are no ids.
        exact = Exact({"ids": ids}) if found["ids"] else Exact({}, refused="a text of 76 tokens, untruncated")
        yield _question(
            f"tokenize/{group}", claims, "tokenize", None, {"texts": texts}, attributes, lambda case, e=exact: e
        )


# Mode, width, height, side: halves that are rounded to either side, images that grow, stay and shrink, long and thin,
# long sides whose fraction depends on the order of arithmetic, metadata that the original ignores, a large one.
PICTURES = (
    ("RGB", 50, 40, 24), ("RGB", 40, 53, 24), ("RGB", 53, 40, 24), ("RGB", 49, 40, 24), ("RGB", 67, 67, 24),
    ("RGB", 24, 24, 24), ("RGB", 37, 24, 24), ("RGB", 9, 7, 24), ("RGB", 5, 23, 24), ("RGB", 1, 1, 24),
    ("RGB", 90, 19, 24), ("RGB", 321, 227, 48), ("RGB", 500, 400, 224), ("RGBA", 50, 40, 24), ("RGBA", 41, 53, 24),
    ("RGBA", 9, 7, 24), ("LA", 50, 40, 24), ("LA", 41, 53, 24), ("P", 50, 40, 24), ("P", 41, 53, 24), ("P", 9, 7, 24),
    ("L", 50, 40, 24), ("L", 41, 53, 24), ("1", 50, 40, 24), ("I;16", 50, 40, 24), ("RGB", 44, 55, 24),
    ("RGB", 35, 28, 24), ("RGB", 56, 61, 56), ("RGB", 200, 13, 24), ("RGB with EXIF", 50, 40, 24),
    ("RGB with tRNS", 50, 40, 24), ("P with tRNS", 50, 40, 24), ("RGB", 1400, 1100, 32),
)  # fmt: skip
_MODES = {
    "RGB": (),
    "RGBA": ("IMG-4",),
    "LA": ("IMG-4",),
    "P": ("IMG-4",),
    "L": (),
    "1": ("IMG-4",),
    "I;16": ("IMG-8",),
    "RGB with EXIF": ("IMG-9",),
    "RGB with tRNS": ("IMG-10",),
    "P with tRNS": ("IMG-4", "IMG-10"),
}
# Not asked in other profiles: what they make of 16 bits differs from one version of Pillow to the next, and
# transformers turns images as EXIF says if it loads them itself, and not if it is given them.
_OPENAI_ONLY = ("I;16", "RGB with EXIF")


def preprocess(profile: str) -> Iterator[Question]:
    for mode, width, height, side in PICTURES:
        if mode in _OPENAI_ONLY and profile != "openai":
            continue
        claims = ("IMG-1", "IMG-2", "IMG-3", *_MODES.get(mode, ()), "IMG-5", "IMG-6", "IMG-7")
        yield _question(
            f"preprocess/{mode} {width}x{height} to {side}", claims, "preprocess", None,
            lambda m=mode, w=width, h=height: {"image": _png(m, w, h)},
            {"resolution": side}, partial(_pixels, profile), partial(_measured_pixels, profile),
        )  # fmt: skip


@cache
def _png(mode: str, width: int, height: int) -> Array:
    """The file of a picture, read-only; the large one takes half a second."""
    return recipe.png(recipe.picture(mode, width, height))


def _pixels(profile: str, case: Case) -> Exact:
    return pixels_of(case.id.partition("/")[2], profile)


@cache
def pixels_of(name: str, profile: str) -> Exact:
    """The golden pixels of a picture."""
    levels = goldens_pixels()[f"{name} {profile}"]
    exact = {"pixels": recipe.normalised(levels, dtype=np.float64)}
    return Exact(exact, frozen(f"preprocess/{name}", profile), {"pixels": recipe.normalised(levels)})


def _measured_pixels(profile: str, case: Case, exact: Exact) -> Units:
    """The units of the arithmetic that makes floats of levels, in any order."""
    levels = goldens_pixels()[f"{case.id.partition('/')[2]} {profile}"]
    mean, std = (np.array(x)[:, None, None] for x in (recipe.Recipe.mean, recipe.Recipe.std))
    x = levels.transpose(2, 0, 1)

    def computed(precision: str, order: int) -> dict[str, Array]:
        rounded = emulation.rounding(precision)
        dtype = np.float64 if precision == "float64" else np.float32
        m, s, u = (rounded(np.asarray(a, dtype)) for a in (mean, std, x))
        if order == 0:
            y = rounded(rounded(rounded(u / dtype(255)) - m) / s)
        elif order == 1:
            y = rounded(rounded(rounded(u * rounded(dtype(1 / 255))) - m) / s)
        else:
            y = rounded(rounded(u * rounded(1 / (255 * s))) - rounded(m / s))
        return {"pixels": y}

    return emulation.units_of(computed, exact.outputs)


@cache
def goldens_pixels() -> dict[str, Array]:
    """The golden pixels before they are normalised, [R, R, 3] uint8, by picture and profile."""
    from safetensors.numpy import load_file

    return load_file(golden_file("pixels.safetensors"))


def similarity() -> Iterator[Question]:
    # A scale above the 100 that training stops at, and embeddings so short that nothing may be added to their lengths.
    for images, texts, width, scale, factor in (
        (3, 5, 11, 100.0, 1), (4, 2, 64, 14.3, 1), (1, 7, 512, 100.0, 1), (2, 6, 17, 150.0, 1), (5, 3, 29, 100.0, 2e-5),
    ):  # fmt: skip
        key = f"similarity {images} {texts} {width}"
        image = (synthetic.normal(f"{key} image", images * width) * 3).reshape(images, width).astype(np.float32)
        text = synthetic.normal(f"{key} text", texts * width).reshape(texts, width).astype(np.float32)
        text[0] = image[0] * 0.5  # a cosine of 1
        image, text = (x * np.float32(factor) for x in (image, text))
        inputs = {"image": image, "text": text, "logit_scale": np.asarray(np.log(scale), np.float32)}
        yield _question(
            f"similarity/{images} images {texts} texts of {width}", ("SIM-1", "SIM-2", "SIM-3"), "similarity", None,
            inputs, {}, _compared, _measured_similarity,
        )  # fmt: skip


def _compared(case: Case) -> Exact:
    image, text, logit_scale = (case.inputs[name].astype(np.float64) for name in ("image", "text", "logit_scale"))
    return Exact(comparison.compared(image, text, logit_scale), frozen(case.id))


def _measured_similarity(case: Case, exact: Exact) -> Units:
    def computed(precision: str, order: int) -> dict[str, Array]:
        rounded = emulation.rounding(precision)
        dtype = np.float64 if precision == "float64" else np.float32
        image, text, logit_scale = (case.inputs[name].astype(dtype) for name in ("image", "text", "logit_scale"))
        # Another order of float64's sums, always, as in emulation.py.
        shuffled = emulation.permutation(image.shape[1], order + (precision == "float64"))
        return comparison.compared(image, text, logit_scale, comparison.Steps(), rounded, shuffled)

    return emulation.units_of(computed, exact.outputs)


# --- single operations ------------------------------------------------------------------------------------------------


def _operations() -> Iterator[tuple[str, str, tuple[str, ...], dict[str, tuple[int, ...]], dict[str, Any]]]:
    """Name, what is special, claims, shapes of the arguments, attributes. No two axes of one are equally long."""
    yield "linear", "", ("BLK-2",), {"x": (2, 5, 12), "weight": (7, 12), "bias": (7,)}, {}
    yield "linear", "without bias", ("BLK-2",), {"x": (2, 5, 129), "weight": (7, 129)}, {}
    for special in ("", "nearly constant", "far from zero"):
        yield "layer_norm", special, ("BLK-1",), {"x": (2, 5, 12), "weight": (12,), "bias": (12,)}, {}
    for name in ("quick_gelu", "gelu"):
        for special in ("", "large"):
            yield name, special, ("BLK-5",), {"x": (2, 5, 12)}, {}
    yield "softmax", "", ("OPS-2",), {"x": (2, 3, 5, 7)}, {}
    yield "softmax", "large", ("OPS-2",), {"x": (2, 3, 5, 7)}, {}
    attention: dict[str, tuple[int, ...]] = {"q": (2, 3, 5, 7), "k": (2, 3, 11, 7), "v": (2, 3, 11, 7)}
    yield "attention", "", ("BLK-3",), attention, {}
    causal: dict[str, tuple[int, ...]] = {"q": (2, 3, 5, 7), "k": (2, 3, 5, 7), "v": (2, 3, 5, 7), "visible": (2, 5, 5)}
    yield "attention", "causal", ("BLK-3", "TXT-2"), causal, {}
    yield "conv2d", "of patches", ("OPS-1", "VIT-1"), {"x": (2, 3, 20, 20), "weight": (7, 3, 5, 5)}, {"stride": 5}
    yield "conv2d", "", ("OPS-1",), {"x": (2, 5, 9, 8), "weight": (7, 5, 3, 3)}, {"padding": 1}
    yield "conv2d", "strided", ("OPS-1", "RN-1"), {"x": (2, 3, 10, 8), "weight": (7, 3, 3, 3)}, {
        "stride": 2, "padding": 1,
    }  # fmt: skip
    norms = {name: (5,) for name in ("weight", "bias", "running_mean", "running_var")}
    yield "batch_norm", "", ("RN-3",), {"x": (2, 5, 6, 7), **norms}, {}
    yield "batch_norm", "of little variance", ("RN-3",), {"x": (2, 5, 6, 7), **norms}, {}
    yield "avg_pool", "", ("RN-2",), {"x": (2, 5, 6, 8)}, {"size": 2}


def operations() -> Iterator[Question]:
    for name, special, claims, shapes, settings in _operations():
        case = f"operations/{name}{f' {special}' if special else ''}"
        inputs = {key: _argument(case, key, shape, special) for key, shape in shapes.items()}
        yield _question(
            case, claims, "operation", None, inputs, {"name": name, **settings}, _operated, _measured_operation
        )


def _argument(case: str, key: str, shape: tuple[int, ...], special: str) -> Array:
    if key == "visible":
        return np.array(np.broadcast_to(np.tri(shape[-1], dtype=bool), shape))
    x: Array = synthetic.normal(f"{case} {key}", int(np.prod(shape))).reshape(shape)
    if key == "running_var":
        x = np.abs(x) * (1e-5 if special else 1) + 1e-6
    if key == "x":
        x = {"large": x * 90, "nearly constant": x * 2e-3 + 1, "far from zero": x + 50}.get(special, x)
    return np.asarray(x, np.float32)


def _arguments(case: Case) -> tuple[str, dict[str, Any], dict[str, Array]]:
    """An operation's name, its numbers, and its arrays in float64."""
    settings = {key: value for key, value in case.attributes.items() if key != "name"}
    arrays = {key: x.astype(np.float64) if x.dtype != bool else x for key, x in case.inputs.items()}
    return case.attributes["name"], settings, arrays


def _operated(case: Case) -> Exact:
    name, settings, arrays = _arguments(case)
    return Exact({"y": getattr(ops, name)(**arrays, **settings)}, frozen(case.id))


def _measured_operation(case: Case, exact: Exact) -> Units:
    name, settings, arrays = _arguments(case)

    def computed(precision: str, order: int) -> dict[str, Array]:
        operation = getattr(emulation.operations(precision, order)[0], name)
        return {"y": operation(**(arrays if precision == "float64" else case.inputs), **settings)}

    return emulation.units_of(computed, exact.outputs)


# --- properties -------------------------------------------------------------------------------------------------------


def properties() -> Iterator[Question]:
    for name in ("vit-a", "rn-a"):
        for tower in ("image", "text"):
            golden = goldens("tiny")[0][f"{name} plain"][tower]
            pieces = {
                "alone": ([2], ("PROP-1",)),
                "in reverse": (list(range(len(golden)))[::-1], ("PROP-1", "OUT-1")),
                "many": ([i % len(golden) for i in range(33)], ("PROP-1", "OUT-1")),
                "once": ([0, 1, 3], ("PROP-1", "PROP-3", "OUT-2")),
                "again": ([0, 1, 3], ("PROP-2",)),
            }
            for what, (rows, claims) in pieces.items():
                repeats = {"repeats": f"properties/{name} once/{tower}"} if what == "again" else {}
                yield _question(
                    f"properties/{name} {what}/{tower}", claims, f"encode_{tower}", (name, "plain"),
                    partial(_some_inputs, name, tower, rows), repeats, partial(_some, name, tower, rows),
                )  # fmt: skip
            if name == "vit-a":
                sharp = f"properties/{name} large scores/{tower}"
                yield Question(
                    sharp, "properties", f"encode_{tower}", ("OPS-2",),
                    partial(_sharp_case, sharp, name, tower), _by_the_reference, f"{name}-sharp", _measured,
                )  # fmt: skip
            yield _question(
                f"properties/{name} extremes/{tower}", ("PROP-4", "OUT-2"), f"encode_{tower}", (name, "plain"),
                partial(_extreme_inputs, name, tower), {}, _by_the_reference, _measured,
            )  # fmt: skip


def _sharp_case(id: str, name: str, tower: str, folder: Path) -> Case:
    checkpoint = _sharpened(name, folder)
    return Case(id, "properties", f"encode_{tower}", ("OPS-2",), _inputs(name, tower), {}, checkpoint)


def _some_inputs(name: str, tower: str, rows: list[int]) -> dict[str, Array]:
    return {key: x[rows] for key, x in _inputs(name, tower).items()}


def _some(name: str, tower: str, rows: list[int], case: Case) -> Exact:
    whole = _tower(name, "plain", tower)[0]
    return Exact({"embeddings": whole.outputs["embeddings"][rows]}, whole.units)


def _extreme_inputs(name: str, tower: str) -> dict[str, Array]:
    """Black, white, grey, and a checkerboard; or the shortest text, and the longest of one word only."""
    config = TINY[name]
    if tower == "text":
        text = config.text
        ids = np.zeros((2, text.context_length), np.int64)
        ids[:, 0], ids[0, 1], ids[1, 1:-1], ids[1, -1] = (
            text.vocab_size - 2,
            text.vocab_size - 1,
            1,
            text.vocab_size - 1,
        )
        return {"ids": ids}
    side = config.vision.resolution
    levels = np.zeros((4, side, side, 3))
    levels[1], levels[2], levels[3] = 255, 128, np.indices((side, side)).sum(0)[..., None] % 2 * 255
    return {"pixels": np.stack([recipe.normalised(x) for x in levels])}


def _by_the_reference(case: Case) -> Exact:
    """No golden values: the float64 reference, which the towers' golden values hold."""
    assert case.checkpoint is not None
    (x,) = case.inputs.values()
    exact = getattr(NumpyEngine(Checkpoint(case.checkpoint), "float64"), case.verb)(x)
    return Exact({"embeddings": exact}, frozen(case.id))


def _question(
    id: str,
    claims: tuple[str, ...],
    verb: str,
    model: tuple[str, str] | None,
    inputs: Any,
    attributes: Mapping[str, Any],
    exact: Any,
    measure: Callable[[Case, Exact], Units] | None = None,
) -> Question:
    """`inputs`: the arrays, or a function that makes them."""
    level = id.partition("/")[0]

    def make(folder: Path) -> Case:
        checkpoint = None if model is None else made(*model, folder)
        return Case(id, level, verb, claims, inputs() if callable(inputs) else inputs, attributes, checkpoint)

    return Question(id, level, verb, claims, make, exact, "" if model is None else "-".join(model), measure)
