"""What somebody meets who comes with an engine and the guide: links, folders, and a word only where it is earned."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from clipref import InputError
from clipref.conformance import faults, suite
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.failures import Crashed
from clipref.conformance.engines.python import import_engine
from clipref.conformance.faults import BY_ID, FaultyEngine
from clipref.conformance.faults.diagnosis import SUBJECT
from clipref.conformance.grading.verdicts import Diagnosis, Report, Result
from clipref.conformance.protocol import Case, Outputs
from clipref.conformance.reports import terminal, words
from clipref.conformance.starting import languages, write_starter
from clipref.numerics import rms

from .engine_questions import questions

ROOM = Path(suite.__file__).parent
PAGES = sorted(page for page in ROOM.rglob("*.md") if "node_modules" not in page.parts)

# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOM)))
def test_links_of_each_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    assert not re.search(r"(?<!clipref's `)(?<![\w/.(])conformance/\S+\.md", text)  # a path that isn't right here


@pytest.mark.parametrize("language", languages())
def test_a_starter_names_the_guide_where_it_is(language: str, tmp_path: Path) -> None:
    told = write_starter(language, tmp_path)
    named = re.search(r"the guide, (\S+\.md)\.$", told)
    assert named is not None and Path(named[1]).read_text(encoding="utf-8").startswith("# Is my CLIP right?")
    assert "](" not in told and told == (tmp_path / "README.md").read_text(encoding="utf-8").rstrip()


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which `init` was called, which is the current one; the starters lie one below."""
    write_starter("python", tmp_path / "my_clip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_clip", raising=False)
    return tmp_path


def test_an_engine_one_folder_below_is_told(above: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = r"There is my_clip/my_clip\.py: go there first, cd my_clip\.$"
    with pytest.raises(InputError, match=there):  # the folder is a module, and has no such name
        import_engine("my_clip", "MyClip")
    monkeypatch.delitem(sys.modules, "my_clip")
    with pytest.raises(InputError, match=there):
        open_engine(f"python:{sys.executable}:my_clip.py:MyClip")
    (question,) = questions("describe/rn-a")
    with pytest.raises(Crashed, match=there):
        open_engine(f"exec:{sys.executable} my_clip.py").answer(question.make(above))
    (above / "my_clip" / "engine").touch()
    with pytest.raises(InputError, match=r"There is my_clip/engine: go there first, cd my_clip\.$"):
        open_engine("exec:./engine")
    (above / "my_clip" / "my_clip").touch()
    with pytest.raises(InputError, match=r"is a folder; .* There is my_clip/my_clip: go there first"):
        open_engine("exec:./my_clip")


def test_a_command_may_have_words_longer_than_any_name(above: Path) -> None:
    (question,) = questions("describe/rn-a")
    (above / "shut").mkdir(mode=0)
    with pytest.raises(Crashed, match=r"^exit code 4$"):
        open_engine(f"exec:{sys.executable} -c 'raise SystemExit(4){' ' * 5000}'").answer(question.make(above))


def test_of_what_lies_nowhere_nothing_is_told(above: Path) -> None:
    with pytest.raises(InputError, match=r"or on the PATH\.$"):
        open_engine("exec:./no_such_engine")
    with pytest.raises(InputError, match=r"runs\.$"):
        import_engine("no_such_module", "Engine")


# --- what a server has wrong ------------------------------------------------------------------------------------------


def told(*known: str, only: str) -> list[str]:
    report = suite.run(FaultyEngine(*(BY_ID[id] for id in known)), questions(f"pipeline/{only}"))
    return [diagnosis.says for diagnosis in report.diagnoses]


@pytest.mark.slow
def test_a_server_is_told_that_its_embeddings_have_length_1() -> None:
    right = "your embeddings of image files equal the reference with embeddings of length 1 already (OUT-3)"
    assert told("normalised", only="shapes-rn/image L") == [right]
    assert told(only="shapes-rn/image L") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "only", "subject", "says"),
    [
        (("relu6", "normalised"), "shapes-rn/image", "embed_image", "ReLU6 instead of ReLU (RN-1) and {}"),
        (("imagenet", "normalised"), "shapes-vit/image", "embed_image",
         "ImageNet's mean and standard deviation (IMG-6) and {}"),
        (("normalised",), "vit-words-plain/texts", "embed_text", "{}"),
        (("no-lower", "normalised"), "vit-words-plain/texts", "embed_text", "text not lower-cased (TOK-4) and {}"),
        (("dot-products",), "vit-words", "compare", "dot products of what isn't normalised (SIM-1)"),
        (("no-lower",), "vit-words-plain/image and", "compare", "text not lower-cased (TOK-4)"),
    ],
)  # fmt: skip
def test_each_step_is_searched(known: tuple[str, ...], only: str, subject: str, says: str) -> None:
    full = says.format("embeddings of length 1 already (OUT-3)")
    assert told(*known, only=only) == [f"your {SUBJECT[subject]} equal the reference with {full}"]


@pytest.mark.slow
def test_in_another_profile_and_of_length_1() -> None:
    class Theirs:
        def answer(self, case: Case) -> Outputs:
            return faults.answer(case, (BY_ID["normalised"],), "float32", "transformers-5")

    report = suite.run(Theirs(), questions("pipeline/shapes-rn/image RGBA"))
    assert [d.says for d in report.diagnoses] == [
        "your embeddings of image files are those of the profile 'transformers-5' with embeddings of length 1 already "
        "(OUT-3)"
    ]


def test_the_kind_of_tower_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "diagnose", lambda *given: ())
    report = suite.run(FaultyEngine(BY_ID["relu6"]), questions("image L", "shapes-rn/image RGB"))
    said = "Of the embeddings of image files, only those of models with a ResNet fail: 3 of 4 answers."
    assert said in report.shared


# --- a word only where it is earned -----------------------------------------------------------------------------------


def failing(count: int) -> list[Result]:
    units = {"float32": 900.0, "float16": 20.0, "tf32": 15.0, "bfloat16": 9.0, "int8": 1.0}
    return [Result(f"towers/{i}", "towers", (), "FAIL", "int8", 0.1, 900.0, units_of=units) for i in range(count)]


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (1, "; one answer is too little to tell whether a coarser precision is all that it is"),
        (7, "; 7 answers are too little to tell whether a coarser precision is all that it is"),
        (8, "; as it is, int8-conformant, by 8 answers"),
    ],
)
def test_a_coarser_precision_takes_answers(count: int, says: str) -> None:
    report = Report("an engine", "float32", "openai", failing(count))
    assert report.grade == "int8"
    assert words.summary(report) == f"Not float32-conformant: {count} of {count} answers fail{says}"


def test_cases_that_are_not_listed_are_more_only_of_what_is(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(explained: int, count: int) -> str:
        results = failing(count)
        diagnosis = Diagnosis(("relu",), ("BLK-5",), "x", 0.0, tuple(r.case for r in results[:explained]), of=count)
        report = Report("an engine", "float32", "openai", results, [diagnosis] if explained else [])
        terminal.tell(report)
        return capsys.readouterr().out

    assert "1 more case fails; --verbose shows every case." in shown(0, 3)
    assert "1 more case fails; --verbose" in shown(1, 3)
    assert "\n3 cases fail, which are explained above; --verbose shows every case." in shown(3, 3)
    assert "\n1 case fails, which is explained above;" in shown(1, 1)
    assert np.isfinite(failing(1)[0].units)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_noise_from_a_file_on_is_named_nothing(precision: str) -> None:
    """A coarse precision has room for much, and there are few numbers."""
    rng = np.random.default_rng(3)

    class Noise:
        def answer(self, case: Case) -> Outputs:
            ((name, x),) = faults.answer(case, (), "float32").items()
            return {name: (x + rms(x) * rng.normal(size=x.shape)).astype(np.float32)}

    report = suite.run(Noise(), questions("pipeline/vit-words", "pipeline/shapes-vit/image L"), precision=precision)
    assert report.count("FAIL") == 3 and not report.diagnoses
