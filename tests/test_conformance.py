"""What the suite is made of, and that it raises no false alarm."""

import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import ops
from clipref.config import PUBLISHED
from clipref.conformance import faults, goldens, suite
from clipref.conformance import questions as levels
from clipref.conformance.engines import open_engine
from clipref.conformance.faults import FAULTS, FaultyEngine, changes, formulas
from clipref.conformance.faults.tower import Tower
from clipref.conformance.goldens import GOLDEN
from clipref.conformance.protocol import Case, Outputs, Unsupported
from clipref.conformance.questions import images, texts
from clipref.conformance.restated import preprocessing, tokenizer
from clipref.conformance.spec import claims
from clipref.errors import InputError
from clipref.kernels.runtime import onnxruntime
from clipref.weights_tools.export_onnx import export_onnx

from .conformance_engines import LEVEL, Emulated, failing, ran


def test_every_case_has_claims_and_every_claim_a_case() -> None:
    asked = list(levels.questions(levels.ASKABLE, list(PUBLISHED)))
    named = {claim for question in asked for claim in question.claims} | {"REL-1"}
    assert named == set(claims())
    assert all(question.claims for question in asked)
    assert len({question.id for question in asked}) == len(asked)
    assert {question.level for question in asked} == set(levels.LEVELS) - {"released"}


def test_every_fault_breaks_a_claim_that_its_level_covers() -> None:
    assert len(FAULTS) >= 40 and len(faults.BY_ID) == len(FAULTS)
    covered: dict[str, set[str]] = {}
    for question in levels.questions():
        covered.setdefault(question.level, set()).update(question.claims)
    for fault in FAULTS:
        for place in fault.places:
            assert fault.claim in covered[LEVEL.get(place, place)] | {"IMG-7"}, fault.id


def test_golden_values_are_as_they_were_made() -> None:
    lines = (line.split("  ") for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
    sums = {name: digest for digest, name in lines}
    files = [path for path in GOLDEN.iterdir() if path.name != "SHA256SUMS"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == sums
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert "OpenAI" in json.loads((GOLDEN / "tokens.json").read_text())["provenance"]["oracle"]


def test_a_second_statement_of_the_tokenizer_gives_the_golden_ids() -> None:
    for group in texts.golden_tokens()["groups"].values():
        length = group["context_length"]
        if not group["ids"]:
            with pytest.raises(ValueError, match="78 tokens, with start and end; expected at most 77"):
                tokenizer.tokenize(group["texts"], length, group["truncate"])
            continue
        rows = tokenizer.tokenize(group["texts"], length, group["truncate"])
        assert [row.tolist() for row in rows] == [ids + [0] * (length - len(ids)) for ids in group["ids"]]


def test_the_golden_ids_go_to_the_brim_and_to_both_ends_of_the_table() -> None:
    groups = texts.golden_tokens()["groups"]
    assert any(len(ids) == 77 for ids in groups["to the brim"]["ids"]) and not groups["to the brim"]["truncate"]
    used = {i for group in groups.values() for ids in group["ids"] for i in ids}
    assert {0, 49405} <= used
    # Of the merges: all of the last hundred, and never far to one that is used.
    assert set(range(49306, 49406)) <= used
    assert np.diff(sorted(i for i in used if i >= 512)).max() < 100


@pytest.mark.slow
@pytest.mark.parametrize("profile", preprocessing.PROFILES)
def test_the_recipe_gives_the_golden_pixels(profile: str) -> None:
    for mode, width, height, side in images.PICTURES:
        image = preprocessing.open_png(preprocessing.png(preprocessing.picture(mode, width, height)))
        key = f"{mode} {width}x{height} to {side} {profile}"
        if key in images.goldens_pixels():
            resized = preprocessing.resize(image, side, preprocessing.PROFILES[profile])
            np.testing.assert_array_equal(resized, images.goldens_pixels()[key])
        elif key in images.golden_digests():
            assert images.golden_levels(key.rpartition(" ")[0], profile).shape == (side, side, 3)


# --- no false alarm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backend:reference", pytest.param("backend:onnx", marks=pytest.mark.slow)])
def test_what_is_right_passes(name: str) -> None:
    report = ran(open_engine(name), name=name)
    assert report.passed and report.grade == "float32" and not report.diagnoses, failing(report)
    assert report.count("PASS") > 130 and report.seconds < 60
    assert all(result.grade == "exact" for result in report.results if result.level in ("tokenize", "preprocess"))


class Quantised:
    """ONNX files in which ONNX Runtime rounds both factors of matrix products to 8 bits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, case: Case) -> Outputs:
        onnxruntime()
        from onnxruntime.quantization import QuantType, quantize_dynamic

        assert case.checkpoint is not None
        out = self.folder / case.checkpoint.name
        if not out.exists():
            whole = self.folder.parent / f"whole-{case.checkpoint.name}"
            list(export_onnx(case.checkpoint, whole, "int64"))
            out.mkdir()
            for name in ("visual.onnx", "textual.onnx"):
                quantize_dynamic(
                    whole / name, out / name, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
                )
        return open_engine(f"onnx:{self.folder}").answer(case)


@pytest.mark.slow
def test_int8_is_graded_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    asked = [q for q in levels.questions(["towers"]) if not q.id.endswith("image") or "/vit" in q.id]  # no convolutions
    report = suite.run(Quantised(tmp_path / "int8"), asked, precision="int8", diagnose=False)
    assert report.grade == "int8", [(r.case, r.grade, r.units, r.problem) for r in report.results]


@pytest.mark.extra
def test_openvino_passes() -> None:
    report = ran(open_engine("backend:openvino"), name="openvino")
    assert report.passed and report.grade == "float32", failing(report)


@pytest.mark.oracle
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_openais_code_is_graded_as_what_it_is(precision: str) -> None:
    engine = open_engine(f"openai:{precision}")
    report = ran(engine, precision=precision)
    assert report.passed and report.grade == precision, failing(report)
    if precision != "float32":
        assert not ran(engine, "towers", diagnose=False).passed


@pytest.mark.oracle
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_transformers_in_16_bits_leans_to_no_fault(precision: str) -> None:
    """Its texts in bfloat16 have 0.6 of another LayerNorm eps in their errors, which rounded weights put there."""
    report = ran(open_engine(f"transformers:{precision}"), "towers", "properties", precision=precision)
    assert report.passed and report.grade == precision and not report.diagnoses, [d.says for d in report.diagnoses]


@pytest.mark.oracle
def test_transformers_passes_in_its_own_profile_and_the_report_says_which() -> None:
    engine = open_engine("transformers:float32")
    profile = preprocessing.transformers_profile(importlib.metadata.version("transformers"))
    report = ran(engine, profile=profile)
    assert report.passed and report.grade == "float32", failing(report)
    claimed = ran(engine)
    assert {r.level for r in claimed.results if r.verdict == "FAIL"} == {"preprocess"}
    assert [d.says for d in claimed.diagnoses] == [
        f"your pixels are those of the profile {profile!r}; claim it with --profile {profile}"
    ]


@pytest.mark.parametrize(
    "precision",
    ["float32", *(pytest.param(p, marks=pytest.mark.slow) for p in ("tf32", "float16", "bfloat16", "int8"))],
)
def test_a_precision_is_graded_as_what_it_is(precision: str) -> None:
    report = ran(Emulated(precision), "towers", precision=precision)
    # TF32 has float16's digits, rounded in fewer places.
    assert report.passed and report.grade == {"tf32": "float16"}.get(precision, precision), failing(report)
    if precision != "float32":
        claimed = ran(Emulated(precision), "towers", diagnose=False)
        assert not claimed.passed and claimed.grade == report.grade


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "float16", "bfloat16"])
def test_a_fault_within_a_coarse_precision_is_told(precision: str) -> None:
    """Each of its answers would pass: it is what they have in common that is not rounding."""
    fault = faults.BY_ID["patches-columns-first" if precision == "int8" else "gelu-exact"]

    class Wrong(Emulated):
        def answer(self, case: Case) -> Outputs:
            if faults.place(case) not in fault.places:
                raise Unsupported
            right, wrong = faults.answer(case), faults.answer(case, (fault,))
            found = super().answer(case)
            return {name: (x + wrong[name] - right[name]).astype(np.float32) for name, x in found.items()}

    report = ran(Wrong(precision), "towers", precision=precision)
    assert not report.passed and {fault.id, "gelu-tanh"} >= {f for d in report.diagnoses for f in d.faults}
    if precision != "float16":  # in which most of it is outside anyway
        assert {d.says.partition(",")[0].rpartition(" ")[2] for d in report.diagnoses} == {"lean"}
        shown = "text" if precision == "bfloat16" else "image"
        found = [r for r in report.results if (r.case.endswith(shown) and "/rn" not in r.case) or r.verdict == "FAIL"]
        affected = [r for r in found if precision == "int8" or "vit-gelu" not in r.case]  # which has no QuickGELU
        assert len(affected) >= 8 and all(r.verdict == "FAIL" and "lean" in str(r.problem) for r in affected)
        assert all(r.verdict == "PASS" for r in found if r not in affected)
        assert all(fault.id in d.faults for d in report.diagnoses)


def one_layer_norm(tower: Tower) -> Tower:
    """Another eps in the first LayerNorm of the first block, and in no other."""
    changed, block = formulas.layer_norm(1e-6), tower.params["transformer"]["resblocks"][0]

    def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return (changed if weight is block["ln_1"]["weight"] else ops.layer_norm)(x, weight, bias)

    return tower.with_operations(layer_norm=layer_norm)


def ours(change: Any) -> faults.Fault:
    return faults.Fault("ours", "BLK-5", "something else", ("vit", "text"), change)


WITHOUT_RESNETS = [q for q in levels.questions(["towers"]) if "/rn" not in q.id or q.id.endswith("text")]


@pytest.mark.fast_cases("1.7 for 1.702-float16")
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("fault", "models"),
    [
        (ours(changes.operations(gelu=formulas.tanh_gelu)), {"vit-gelu"}),
        (faults.BY_ID["quick-gelu-1.7"], {"vit-a", "vit-b", "vit-c", "vit-mlp", "rn-a", "rn-b", "rn-c"}),
        (ours(one_layer_norm), set()),
    ],
    ids=["tanh for the exact GELU", "1.7 for 1.702", "eps in one LayerNorm"],
)
def test_a_wrong_formula_is_no_precision(fault: faults.Fault, models: set[str], precision: str) -> None:
    """Each of its answers would pass in a coarse precision, and others are exact to float32, as rounding gives none."""
    report = suite.run(FaultyEngine(fault), WITHOUT_RESNETS, precision=precision)
    assert not report.passed
    assert any("no precision but a mixture" in d.says for d in report.diagnoses), report.diagnoses
    failed = {r.case.split("/")[1].split(" ")[0] for r in report.results if r.verdict == "FAIL"}
    assert not models or failed == models


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_what_is_right_is_no_mixture_and_leans_to_nothing(precision: str) -> None:
    assert suite.run(FaultyEngine(), WITHOUT_RESNETS, precision=precision).passed


def test_golden_files_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.setattr(goldens, "GOLDEN", tmp_path / "golden")
    assert goldens.golden_file("tokens.json").is_file()
    (tmp_path / "golden" / "tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokens\.json has sha256 .*, expected .* Install clipref anew"):
        goldens.golden_file("tokens.json")
