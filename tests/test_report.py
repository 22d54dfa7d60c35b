"""`clipref verify --report`: what it measures, that it tells nothing private, ends in time, leaves nothing behind."""

import getpass
import io
import json
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import InputError
from clipref.cli import main
from clipref.config import PUBLISHED
from clipref.hub import EMBEDDED, locate
from clipref.weights import Checkpoint
from clipref.weights_tools import report as reporting
from clipref.weights_tools import samples, synthetic
from clipref.weights_tools.shapes import world

MODEL = "clipref/shapes-vit"
PAGE = Path(reporting.__file__).with_name("REPORT.md")


def few(monkeypatch: pytest.MonkeyPatch, *runs: tuple[str, str]) -> None:
    """Backends that are measured: opening all of them takes seconds."""
    monkeypatch.setattr(reporting, "_backends", lambda: iter(runs))


def measured(out: Path, *more: str, model: str = MODEL) -> dict[str, Any]:
    main(["verify", model, "--report", str(out), *more])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def put(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        world.scene(seed).draw(64).save(folder / f"secret-{seed}.png")
    return folder


def test_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few(monkeypatch, ("blas", "float32"), ("onnx-int8", "int8"))
    for label, seeds in (("my-aunt", range(2)), ("my_uncle", range(2, 5))):
        put(tmp_path / "labels" / label, seeds)
    images = put(tmp_path / "photographs", range(3))
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    found = measured(
        tmp_path / "report.json", "--images", str(images), "--labelled", str(tmp_path / "labels"), "--limit", "4"
    )
    assert capsys.readouterr().out.startswith("  ") and found["format"] == "clipref report 1"
    assert (found["model"]["id"], found["model"]["digest"]) == (MODEL, EMBEDDED[MODEL].digest)
    assert found["items"] == {
        "drawn pictures": {"measured": 4, "unread": 0}, "drawn texts": {"measured": 4, "unread": 0},
        "given pictures": {"measured": 3, "unread": 1},
    }  # fmt: skip
    exact, int8 = found["precisions"]
    for kind in found["items"]:
        assert exact[kind]["cosine"]["smallest"] > 1 - 1e-9 and exact[kind]["error"] < 1e-5
        assert 0.99 < int8[kind]["cosine"]["smallest"] <= int8[kind]["cosine"]["median"] < 1 - 1e-7
    for kind in ("drawn pictures", "given pictures"):
        duplicates = found["duplicates"][kind]
        count = duplicates["pictures"]
        assert duplicates["different pictures"]["pairs"] == count * (count - 1) // 2
        shares = [row["found"]["resized"] for row in duplicates["thresholds"]]
        assert shares == sorted(shares, reverse=True)
        assert duplicates["copies"]["resized"]["median"] > duplicates["different pictures"]["median"]
    assert found["zero-shot"]["pictures"] == "given" and found["zero-shot"]["labels"] == 2
    assert found["zero-shot"]["items"] == 4 and found["zero-shot"]["top-5"] == 1
    assert [entry["backend"] for entry in found["zero-shot"]["precisions"]] == ["onnx-int8"]
    told = (tmp_path / "report.json").read_text(encoding="utf-8")
    private = [*tmp_path.parts[1:], "secret", "aunt", "uncle", "photographs", "broken", platform.node()]
    assert not [word for word in private if len(word) > 3 and word in told]
    assert getpass.getuser() not in re.findall(r"\w+", told)
    check_page(found)
    numbers = re.findall(r"\[[^\[\]{}]*\]", told)  # of lists of numbers there are none but the configuration's
    assert all(len(numbers_of) < 8 for each in numbers if (numbers_of := re.findall(r"-?\d+\.\d+", each)))


def check_page(found: dict[str, Any]) -> None:
    """Asserts that REPORT.md says what each entry of a report is."""
    page = PAGE.read_text(encoding="utf-8")
    entries = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    assert entries == list(dict.fromkeys(entries)) and set(entries) == found.keys()
    for part in ("model", "precisions", "duplicates", "zero-shot", "machine"):
        inside = found[part][0] if isinstance(found[part], list) else found[part]
        missing = [key for key in inside if f"`{key}`" not in page and f'"{key}"' not in page]
        assert not missing, (part, missing)


@pytest.mark.slow
def test_drawn_scenes_are_told_by_a_model_that_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    found = measured(tmp_path / "report.json", "--limit", "16")
    assert found["zero-shot"]["pictures"] == "drawn" and found["zero-shot"]["labels"] == 72
    assert found["zero-shot"]["top-1"] > 0.7 and found["zero-shot"]["items"] == 16
    assert found["precisions"] == []


def test_there_is_an_end_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item of each kind, whatever time there is, and as many as it suffices for."""
    few(monkeypatch, ("blas", "float32"))
    found = measured(tmp_path / "report.json", "--time-limit", "1e-6", "--limit", "9")
    assert {kind["measured"] for kind in found["items"].values()} == {1} and found["zero-shot"]["items"] == 1
    assert found["duplicates"]["drawn pictures"]["pictures"] == 2


def test_labels_take_turns(tmp_path: Path) -> None:
    put(tmp_path / "a", range(5))
    put(tmp_path / "b_c", range(1))
    (tmp_path / "empty").mkdir()
    found = samples.given_labelled(tmp_path, 4)
    assert list(found.truth) == [0, 1, 0, 0] and list(found.labels) == ["a", "b c"]
    with pytest.raises(InputError, match="has 0 folders with pictures; expected one for each label"):
        samples.given_labelled(tmp_path / "empty", 4)
    with pytest.raises(InputError, match="is not a folder"):
        samples.given_labelled(tmp_path / "none", 4)


def test_alterations_change_what_they_say() -> None:
    image = world.scene(3).draw(100)
    sizes = {name: Image.open(io.BytesIO(samples.altered_file(image, name))).size for name in samples.ALTERATIONS}
    assert sizes == {"resized": (60, 60), "recompressed": (100, 100), "cropped": (96, 96), "grey": (100, 100),
                     "mirrored": (100, 100)}  # fmt: skip
    tiny = Image.new("RGB", (1, 1))
    assert all(samples.altered_file(tiny, name) for name in samples.ALTERATIONS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--limit", "4"], "--limit is for --report FILE"),
        (["--labelled", "."], "--labelled is for --report FILE"),
        (["--report", "{}/a.json", "--limit", "1"], "--limit is 1; expected at least 2"),
        (["--report", "{}/a.json", "--time-limit", "0"], "--time-limit is 0.0; expected seconds"),
        (["--report", "{}/a.json", "--labelled", "{}"], "has 0 folders with pictures"),
        (["--report", "{}/none/a.json"], "--report"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", MODEL, *(argument.format(tmp_path) for argument in arguments)]) == 1
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    few(monkeypatch)
    monkeypatch.setattr(reporting, "_duplicates", interrupted)
    out = tmp_path / "report.json"
    out.write_text("of an earlier run")
    assert main(["verify", MODEL, "--report", str(out), "--limit", "2"]) == 130
    assert out.read_text() == "of an earlier run" and list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_is_at_work(tmp_path: Path) -> None:
    command = "import sys; from clipref.cli import main; sys.exit(main())"
    arguments = ["verify", MODEL, "--report", str(tmp_path / "report.json"), "--limit", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, start_new_session=True
    )
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_synthetic_weights_that_pose_as_published_ones(tmp_path: Path) -> None:
    """With every backend that is there. Published values are wrong, and the report says so."""
    folder = synthetic.write(tmp_path / "model", PUBLISHED["clip/ViT-B-32"], 3, "trained")
    out = tmp_path / "report.json"
    assert main(["verify", str(folder), "--model", "clip/ViT-B-32", "--report", str(out), "--limit", "4"]) == 1
    found = json.loads(out.read_text())
    outcomes = {(finding["what"].split(" (")[0], finding["outcome"]) for finding in found["findings"]}
    assert {("visual.ln_post[1:4] of pixels all 0.5", "FAILED"), ("embedding[1:4] of pixels all 0.5", "FAILED")} <= (
        outcomes
    )
    assert found["model"]["id"] == "clip/ViT-B-32" and found["model"]["repository"] is None
    ran = {(entry["backend"], entry["precision"]): entry for entry in found["precisions"]}
    assert {("onnx", "float32"), ("onnx-int8", "int8")} <= ran.keys()
    for (_, precision), entry in ran.items():
        least = {"float32": 0.999999, "bfloat16": 0.999, "float16": 0.9999, "int8": 0.95}[precision]
        assert least < entry["drawn pictures"]["cosine"]["smallest"] <= 1 + 1e-9, entry


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models(name: str, tmp_path: Path) -> None:
    found = measured(tmp_path / "report.json", "--limit", "24", model=name)
    assert found["model"]["id"] == name and found["zero-shot"]["top-1"] > 0.5
    assert not [finding for finding in found["findings"] if finding["outcome"] == "FAILED"]
    config = Checkpoint(locate(name)[0]).config
    assert found["model"]["config"] == json.loads(json.dumps(config.to_dict()))
    assert all(np.isfinite(entry["drawn texts"]["error"]) for entry in found["precisions"])
