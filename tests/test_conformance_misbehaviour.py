"""Engines that misbehave, and answers that are wrong beside their values, have their verdict."""

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.engines.failures import Crashed, Garbage, Hung
from clipref.conformance.faults import FaultyEngine
from clipref.conformance.protocol import Case, Outputs, Unsupported
from clipref.conformance.restated import tokenizer

from .conformance_engines import Spoilt, embeddings, ran, zeroed


def crash(case: Case, outputs: Outputs) -> Outputs:
    raise RuntimeError("no\nmemory")


def overwrite(case: Case, outputs: Outputs) -> Outputs:
    for x in case.inputs.values():
        x[...] = 0
    return outputs


def not_a_number(x: np.ndarray) -> np.ndarray:
    x[1, 2] = np.nan
    return x


def leave(case: Case, outputs: Outputs) -> Outputs:
    sys.exit(0)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def unprintable(case: Case, outputs: Outputs) -> Outputs:
    raise Unprintable


def reshaped(case: Case, outputs: Outputs) -> Outputs:
    pixels = case.inputs["pixels"]
    pixels.resize(pixels.size, refcheck=False)  # in place
    return outputs


def emptied(case: Case, outputs: Outputs) -> Outputs:
    case.inputs.clear()  # type: ignore[attr-defined]
    return outputs


class Lazy(dict[str, Any]):
    def items(self) -> Any:
        raise OSError("the server is gone")


MISBEHAVED: dict[str, tuple[Callable[[Case, Outputs], Any], str]] = {
    "NaN": (embeddings(not_a_number), "1 values that are not finite"),
    "one row for all": (embeddings(lambda x: x[:1]), "of shape [1, 22], expected [7, 22]"),
    "transposed": (embeddings(lambda x: x.T), "of shape [22, 7]"),
    "float64": (embeddings(lambda x: x.astype(np.float64)), "in float64, expected float32"),
    "float16": (embeddings(lambda x: x.astype(np.float16)), "in float16, expected float32"),
    "in reverse": (embeddings(lambda x: x[::-1]), "in the order [6, 5, 4, 3, 2, 1, 0]"),
    "a list": (embeddings(lambda x: x.tolist()), "a list as 'embeddings'"),
    "nothing": (lambda case, outputs: {}, "gave no 'embeddings', but nothing"),
    "another name": (lambda case, outputs: {"y": outputs["embeddings"]}, "gave no 'embeddings', but ['y']"),
    "a crash": (crash, "raised RuntimeError: no memory"),
    "an input overwritten": (overwrite, "changed its input 'pixels'"),
    "an input of another shape": (reshaped, "changed its input 'pixels'"),
    "an input removed": (emptied, "changed its input 'pixels'"),
    "other weights": (zeroed, "changed the files of the checkpoint"),
    "an exit": (leave, "raised SystemExit: 0"),
    "an exception without words": (unprintable, "raised Unprintable: (which can't be shown)"),
    "arrays that come later": (lambda case, outputs: Lazy(outputs), "raised OSError: the server is gone"),
    "masked": (embeddings(lambda x: np.ma.masked_array(x, x > 0)), "a MaskedArray as 'embeddings'"),
    "objects": (embeddings(lambda x: x.astype(object)), "'embeddings' in object, expected numbers"),
    "strings": (embeddings(lambda x: x.astype(str)), "expected numbers"),
    "complex": (embeddings(lambda x: x.astype(np.complex64)), "in complex64, expected float32"),
    "a number as a name": (lambda case, outputs: {0: outputs["embeddings"]}, "by the name of 0"),
}


class Careless(FaultyEngine):
    """Right, but it changes the settings of the process that it is in, and gives views of odd strides."""

    def answer(self, case: Case) -> Outputs:
        outputs = super().answer(case)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        os.chdir("/")
        return {name: np.asfortranarray(x.astype(">f4"))[::-1][::-1] for name, x in outputs.items()}


def test_what_an_engine_does_to_the_process_is_undone() -> None:
    before = np.geterr(), os.getcwd()
    asked = [q for q in levels.questions(["towers", "properties"]) if "vit-a plain" in q.id or "vit-a extremes" in q.id]
    assert suite.run(Careless(), asked).passed
    assert (np.geterr(), os.getcwd()) == before


def test_a_spoilt_checkpoint_is_made_again_for_the_next_question() -> None:
    asked = [q for q in levels.questions(["towers"]) if "vit-a plain" in q.id]
    spoilt: Iterator[Callable[[Case, Outputs], Outputs]] = iter([zeroed, lambda case, outputs: outputs])
    first, second = suite.run(Spoilt(lambda case, outputs: next(spoilt)(case, outputs)), asked).results
    assert first.verdict == "FAIL" and second.verdict == "PASS"


def test_wrong_numbers_are_shown_beside_the_right_ones() -> None:
    question = next(iter(levels.questions(["describe"])))

    class Told:
        def answer(self, case: Case) -> Outputs:
            return {**question.exact(case).outputs, "vocab_size": np.array(9)}

    (result,) = suite.run(Told(), [question]).results
    assert result.verdict == "FAIL" and result.instead == "gave 'vocab_size' 9, expected 521"
    report = ran(FaultyEngine(faults.BY_ID["no-lower"]), "tokenize")
    found = [r.instead for r in report.results if r.verdict == "FAIL" and r.problem is None]
    assert found and all(
        re.fullmatch(r"\d+ of \d+ items are wrong: gave 'ids' \[.*\] of the text .*, expected \[49406, .*\]", str(x))
        for x in found
    )


# Their causes are looked for among all pairs of faults.
LONG_SOUGHT = ("one row for all", "transposed")


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) if how in LONG_SOUGHT else how for how in MISBEHAVED]
)
def test_what_is_wrong_beside_the_values_is_told(how: str) -> None:
    spoil, told = MISBEHAVED[how]
    question = next(q for q in levels.questions(["towers"]) if q.id == "towers/vit-a plain/image")
    report = suite.run(Spoilt(spoil), [question])
    (result,) = report.results
    assert result.verdict == "FAIL" and told in str(result.problem) and not report.passed


def test_what_is_not_supported_or_claimed_is_skipped_and_is_no_pass() -> None:
    class Nothing:
        def answer(self, case: Case) -> Outputs:
            raise Unsupported("not here")

    report = suite.run(Nothing(), levels.questions(["similarity"]), unclaimed=levels.questions(["describe"]))
    assert not report.passed and report.count("SKIP") == len(report.results) == 13
    assert {result.problem for result in report.results} == {"not here", "not claimed"}


def test_what_is_not_implemented_is_declined() -> None:
    class Partly:
        def answer(self, case: Case) -> Outputs:
            raise NotImplementedError("no ResNets yet" if "rn-" in case.id else "")

    asked = [q for q in levels.questions(["towers"]) if "vit-a plain" in q.id or "rn-a plain" in q.id]
    report = suite.run(Partly(), asked)
    assert {(r.verdict, r.problem) for r in report.results} == {("SKIP", "no ResNets yet"), ("SKIP", "not implemented")}
    assert not report.passed


def ended_by_zero(texts: list[str], length: int, truncate: bool) -> np.ndarray:
    ids = tokenizer.tokenize(texts, length, truncate)
    return np.where(np.logical_and.accumulate(ids != 0, axis=1), ids, 0)


# Of texts, the context length, and whether to truncate: ids. And which cases must fail.
TOKENIZERS: dict[str, tuple[Callable[[list[str], int, bool], np.ndarray], set[str]]] = {
    "right": (tokenizer.tokenize, set()),
    "truncating always": (lambda texts, length, truncate: tokenizer.tokenize(texts, length, True), {"refused"}),
    "taking 76 tokens": (
        lambda texts, length, truncate: tokenizer.tokenize(texts, length + (not truncate), truncate)[:, :length],
        {"refused"},
    ),
    "refusing 75 tokens": (
        lambda texts, length, truncate: np.pad(
            tokenizer.tokenize(texts, length - (not truncate), truncate), ((0, 0), (0, not truncate))
        ),
        {"to the brim"},
    ),
    "ended by id 0": (ended_by_zero, {"id 0"}),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_wrong_tokenizers_are_caught(kind: str) -> None:
    tokenize, wrong = TOKENIZERS[kind]

    class Tokenizes:
        def answer(self, case: Case) -> Outputs:
            texts = json.loads(case.inputs["texts"].tobytes())
            return {"ids": tokenize(texts, case.attributes["context_length"], case.attributes["truncate"])}

    report = suite.run(Tokenizes(), levels.questions(["tokenize"]), diagnose=False)
    assert {r.case.removeprefix("tokenize/") for r in report.results if r.verdict == "FAIL"} == wrong


@pytest.mark.parametrize(
    ("problem", "verdict"),
    [
        (RuntimeError("too long for context length 77"), "PASS"),
        (Crashed("exit code 1"), "PASS"),
        (Unsupported("not here"), "SKIP"),
        (NotImplementedError("no truncation"), "SKIP"),
        (Hung("stopped after 60 s"), "FAIL"),
        (Garbage("nothing was written"), "FAIL"),
    ],
)
def test_a_refusal_is_an_error_and_nothing_else(problem: Exception, verdict: str) -> None:
    class Refuses:
        def answer(self, case: Case) -> Outputs:
            raise problem

    question = next(q for q in levels.questions(["tokenize"]) if q.id == "tokenize/refused")
    (result,) = suite.run(Refuses(), [question]).results
    assert result.verdict == verdict


def test_an_answer_that_depends_on_the_batch_or_the_time_is_caught() -> None:
    rng = np.random.default_rng(1)

    def batch(x: np.ndarray) -> np.ndarray:
        return np.asarray(x + 1e-3 * x.mean(axis=0, keepdims=True))

    def first_eight(x: np.ndarray) -> np.ndarray:
        x[8:] = 0
        return x

    def time(x: np.ndarray) -> np.ndarray:
        return (x * (1 + 1e-7 * rng.standard_normal(x.shape))).astype(np.float32)

    report = suite.run(Spoilt(embeddings(batch)), levels.questions(["properties"]), diagnose=False)
    assert not report.passed
    report = suite.run(Spoilt(embeddings(first_eight)), levels.questions(["properties"]), diagnose=False)
    assert [r.case for r in report.results if r.verdict == "FAIL"] == [
        f"properties/{model} many/{tower}" for model in ("vit-a", "rn-a") for tower in ("image", "text")
    ]
    report = suite.run(Spoilt(embeddings(time)), levels.questions(["properties"]), diagnose=False)
    assert [r.case for r in report.results if r.verdict == "FAIL"] == [
        f"properties/{model} again/{tower}" for model in ("vit-a", "rn-a") for tower in ("image", "text")
    ]
    assert "other bits" in str(next(r.problem for r in report.results if r.verdict == "FAIL"))
