"""Exact contributions are exact: sums, knockouts, float32, and mutants that must not pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import CLIP, AutoModel, InputError
from clipref.look import decompose, decomposition, direct_effect
from clipref.numerics import rms_error
from clipref.tracing import Watch
from clipref.weights_tools import synthetic
from clipref.weights_tools.shapes import world

from . import cases
from .proofs import KNOCKOUT, SUM, items, proof, sum_error

EMBEDDED = ["clipref/shapes-vit", "clipref/shapes-rn"]


def opened(folder: Path, config: Any, style: str, dtype: str) -> CLIP:
    path = folder / style
    if not path.exists():
        synthetic.write(path, config, cases.SEED, style)  # type: ignore[arg-type]
    return AutoModel.from_pretrained(path, backend="reference", dtype=dtype)  # type: ignore[arg-type]


def embedded(name: str, dtype: str) -> tuple[CLIP, np.ndarray, np.ndarray]:
    model = AutoModel.from_pretrained(name, backend="reference", dtype=dtype)  # type: ignore[arg-type]
    pixels = model.trace(image=[world.scene(seed).draw() for seed in range(2)], only="pixels")["pixels"]
    return model, pixels, model.tokenize(["three red circles on a black background", "a star"])


@pytest.mark.fast_cases("trained")
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", list(cases.TINY))
def test_sums_and_knockouts(name: str, style: str, tmp_path: Path) -> None:
    model = opened(tmp_path, cases.TINY[name], style, "float64")
    pixels, ids = cases.tiny_inputs(cases.TINY[name])
    for given in items(model, pixels.astype(np.float64), ids):
        total, knocked = proof(model, given)
        assert total <= SUM, f"{given.name}: the sum is off by {total:.1e}"
        assert knocked <= KNOCKOUT, f"{given.name}: a term is off by {knocked:.1e}"


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models(name: str) -> None:
    model, pixels, ids = embedded(name, "float64")
    for given in items(model, pixels, ids):
        total, knocked = proof(model, given)
        assert total <= SUM and knocked <= KNOCKOUT


def float32_errors(single: CLIP, exact: CLIP, pixels: np.ndarray, ids: np.ndarray, kind: str) -> tuple[float, float]:
    """The largest errors of the sums in float32, and of the forward pass itself, over all items."""
    sums, passes = [], []
    for i in range(len(pixels if kind == "pixels" else ids)):
        item = pixels[i : i + 1] if kind == "pixels" else ids[i : i + 1]
        argument: dict[str, Any] = {kind: item}
        encode = [m.encode_image if kind == "pixels" else m.encode_text for m in (exact, single)]
        right, found = (e(item)[0] for e in encode)
        sums.append(rms_error(decompose(single, **argument).total(), right))
        passes.append(rms_error(found, right))
    return max(sums), max(passes)


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", ["vit-a", "rn-a"])
def test_float32_errs_little_more_than_the_forward_pass(name: str, style: str, tmp_path: Path) -> None:
    exact, single = (opened(tmp_path, cases.TINY[name], style, dtype) for dtype in ("float64", "float32"))
    pixels, ids = cases.tiny_inputs(cases.TINY[name])
    for kind in ("pixels", "ids"):
        sums, passes = float32_errors(single, exact, pixels, ids, kind)
        assert sums <= 8 * passes


@pytest.mark.slow
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", list(cases.FULL))
def test_full_sizes(name: str, style: str, tmp_path: Path) -> None:
    config = cases.FULL[name]
    pixels, ids = (x[:1] for x in cases.full_inputs(config))
    exact = opened(tmp_path, config, style, "float64")
    given = list(items(exact, pixels.astype(np.float64), ids))
    for item in given:
        found = decompose(exact, **item.argument)
        total = sum_error(found, item)
        print(f"{name} {style} {item.name}: {total:.1e}")
        assert total <= SUM
    del exact, found
    single = opened(tmp_path, config, style, "float32")
    for item in given:
        found = decompose(single, **item.argument)
        sums, passes = (rms_error(x, item.embedding) for x in (found.total(), found.embedding))
        print(f"{name} {style} {item.name}, float32: {sums:.1e}, the forward pass {passes:.1e}")
        assert sums <= 8 * passes


def test_scores_are_the_same_by_either_way() -> None:
    for name in EMBEDDED:
        model, pixels, ids = embedded(name, "float64")
        texts = model.embed_text(["a red circle", "a blue star", "three hearts"])
        for given in items(model, pixels, ids):
            found = decompose(model, **given.argument)
            one, other = found.scores(texts), direct_effect(model, texts, **given.argument)
            unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
            cosines = unit @ given.embedding / np.linalg.norm(given.embedding)
            for scores in (one, other):
                total = sum(part.reshape(-1, 3).sum(axis=0) for part in scores.parts.values())
                assert np.abs(total - cosines).max() < 1e-13 and np.abs(scores.cosines - cosines).max() < 1e-13
            assert one.parts.keys() == other.parts.keys() == found.parts.keys()
            assert all(rms_error(other.parts[n], one.parts[n]) < 1e-12 for n in one.parts)
            if given.name == "pixels":
                grid = model.config.vision.grid
                assert one.grid == (grid, grid) and one.maps.shape == (3, grid, grid)
                assert one.maps[1, 1, 0] == one.positions[1 + grid, 1]


# What somebody might get wrong, and how.


def without_eps(x: np.ndarray, gain: np.ndarray, projection: np.ndarray) -> np.ndarray:
    scaled = gain[:, None] * projection
    wrong: np.ndarray = (scaled - scaled.mean(axis=0)) / np.sqrt(x.var())
    return wrong


def with_the_mean(x: np.ndarray, gain: np.ndarray, projection: np.ndarray) -> np.ndarray:
    wrong: np.ndarray = gain[:, None] * projection / np.sqrt(x.var() + 1e-5)
    return wrong


RIGHT_HEADS, RIGHT_PARTS, RIGHT_ATTENTION = (
    decomposition.head_parts,
    decomposition.parts,
    decomposition.pooled_attention,
)
RIGHT_WATCH = Watch.attention


def interleaved(attention: np.ndarray, values: np.ndarray, weight: np.ndarray, readout: np.ndarray) -> np.ndarray:
    heads, _, channels = values.shape
    shuffled = weight.reshape(-1, channels, heads).swapaxes(1, 2).reshape(weight.shape)
    return RIGHT_HEADS(attention, values, shuffled, readout)


def rolled(*arguments: np.ndarray) -> np.ndarray:
    return np.roll(RIGHT_HEADS(*arguments), 1, axis=0)


def reversed_positions(*arguments: np.ndarray) -> np.ndarray:
    found = RIGHT_HEADS(*arguments)
    return np.concatenate([found[:, :1], found[:, :0:-1]], axis=1)


def reversed_layers(*arguments: Any) -> dict[str, np.ndarray]:
    found = RIGHT_PARTS(*arguments)
    return {
        name: part[::-1] if name in ("attention", "mlp", "attention_bias") else part for name, part in found.items()
    }


def seeing_all(self: Watch, q: Any, k: Any, v: Any, visible: Any = None) -> Any:
    return RIGHT_WATCH(self, q, k, v, None)


def next_token(seen: Any, name: str, row: int) -> tuple[np.ndarray, np.ndarray]:
    return RIGHT_ATTENTION(seen, name, min(row + 1, seen[f"{name}.q"].shape[2] - 1))


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "eps forgotten": (decomposition, "end_readout", without_eps, "both"),
    "mean not removed": (decomposition, "end_readout", with_the_mean, "both"),
    "heads interleaved": (decomposition, "head_parts", interleaved, "both"),
    "heads rolled": (decomposition, "head_parts", rolled, "both"),
    "patches reversed": (decomposition, "head_parts", reversed_positions, "both"),
    "layers reversed": (decomposition, "parts", reversed_layers, "both"),
    "causal mask dropped": (Watch, "attention", seeing_all, "ids"),
    "class token off by one": (decomposition, "pooled_attention", next_token, "pixels"),
}


@pytest.mark.fast_cases("heads rolled", "causal mask")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(tmp_path, cases.TINY["vit-a"], "trained", "float64")
    pixels, ids = cases.tiny_inputs(cases.TINY["vit-a"])
    pool = opened(tmp_path / "rn", cases.TINY["rn-a"], "trained", "float64")
    pool_pixels = cases.tiny_inputs(cases.TINY["rn-a"])[0].astype(np.float64)
    where, name, wrong, concerns = MUTANTS[mutant]
    given = [(model, item) for item in items(model, pixels.astype(np.float64), ids)]
    in_the_pool = "heads" in mutant or "patches" in mutant
    if in_the_pool:
        given += [(pool, next(items(pool, pool_pixels, ids)))]
    monkeypatch.setattr(where, name, wrong)
    for m, item in given:
        if concerns in ("both", item.name):
            total, knocked = proof(m, item, 3)
            assert total > SUM or knocked > KNOCKOUT, f"{item.name}: not caught"


def test_what_is_given_is_checked() -> None:
    model, pixels, ids = embedded("clipref/shapes-vit", "float32")
    for wrong in ({}, {"pixels": pixels[:1], "ids": ids[:1]}, {"pixels": pixels}, {"ids": ids}, {"text": ["a", "b"]}):
        with pytest.raises(InputError, match="expected one"):
            decompose(model, **wrong)
    found = decompose(model, pixels=pixels[:1])
    for wrong_embeddings in (
        np.zeros(96),
        np.ones((2, 95)),
        np.ones((2, 96), int),
        np.full(96, np.nan),
        "a",
        [[1.0], []],
    ):
        with pytest.raises(InputError, match="text_embeddings"):
            found.scores(wrong_embeddings)
