"""What a conversion writes, and what an interrupted one leaves: nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel, InputError, WeightsError
from clipref.cli import main
from clipref.config import PUBLISHED, tensor_shapes
from clipref.weights import Checkpoint
from clipref.weights_tools import convert as module
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import cast, convert

from . import layouts
from .conftest import MERGES, TINY


def test_merges(trained_vit: Path, tmp_path: Path) -> None:
    source = layouts.put(tmp_path / "theirs", layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config))
    (source / "merges.txt").write_text(MERGES)
    with pytest.raises(WeightsError, match="gives 521 tokens, but the model has 547. Is it another model's"):
        convert(source, tmp_path / "out")
    tiny = synthetic.write(tmp_path / "tiny", TINY["vit"])
    (tiny / "merges.txt").write_text(MERGES)
    assert (convert(tiny, tmp_path / "out") / "merges.txt").read_text() == MERGES
    config = dataclasses.replace(TINY["vit"], text=dataclasses.replace(TINY["vit"].text, vocab_size=49408))
    converted = convert(synthetic.write(tmp_path / "full", config), tmp_path / "full ours")
    assert AutoModel.from_pretrained(converted).embed_text("a photo of a cat").shape == (1, 22)
    assert (converted / "merges.txt").is_file()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_casting(dtype: str, trained_vit: Path, tmp_path: Path) -> None:
    converted = convert(trained_vit, tmp_path / "out", dtype=dtype)
    assert set(Checkpoint(converted).file.dtypes.values()) == {module.DTYPES[dtype]}
    spacing = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8, "float64": 0.0}[dtype]
    for name, shape in tensor_shapes(Checkpoint(trained_vit).config).items():
        before, after = (Checkpoint(path).file.read(name, "float64") for path in (trained_vit, converted))
        assert after.shape == shape and (np.abs(after - before) <= spacing * np.abs(before) + 2**-24).all(), name
    assert json.loads((converted / "provenance.json").read_text())["cast to"] == dtype


def test_bfloat16_is_rounded_to_even() -> None:
    # 1 + 2**-8 lies between two values of bfloat16, and so does 1 + 3 * 2**-8; just above it, up.
    value = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8], np.float32)
    rounded = (cast(value, "F32", "BF16").astype(np.uint32) << 16).view(np.float32)
    assert rounded.tolist() == [1, 1, 1 + 2**-6, 1 + 2**-7, -1]
    assert np.array_equal(cast(cast(value, "F32", "BF16"), "BF16", "F32"), rounded)


@pytest.mark.parametrize(("value", "wanted"), [(70000.0, "F16"), (3.4e38, "BF16"), (1e300, "F32")])
def test_what_overflows_is_refused(value: float, wanted: str) -> None:
    given = "F64" if value > 1e39 else "F32"
    with pytest.raises(WeightsError, match=f"a tensor has values too large for {wanted}"):
        cast(np.array([value], "f8" if given == "F64" else "f4"), given, wanted)


def test_a_folder_that_exists_is_left_alone(trained_vit: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already; remove it, or choose another path"):
        convert(trained_vit, tmp_path / "out")
    with pytest.raises(InputError, match="dtype is 'int8'; expected one of"):
        convert(trained_vit, tmp_path / "other", dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# A conversion that waits in the middle of writing.
CODE = """
import signal, sys, time
from clipref.cli import main
from clipref.weights_tools import convert
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
slow, digest = [], convert.tensor_digest
def waits(value):
    slow.append(value)
    if len(slow) == 20:
        print("ready", flush=True)
        time.sleep(60)
    return digest(value)
convert.tensor_digest = waits
sys.exit(main(["convert", *sys.argv[1:]]))
"""


def conversion_that_waits(source: Path, destination: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE, str(source), str(destination)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.fast_cases("[2]")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(how: signal.Signals, tmp_path: Path, trained_vit: Path) -> None:
    process = conversion_that_waits(trained_vit, tmp_path / "deep" / "out")
    assert len(list((tmp_path / "deep").iterdir())) == 1  # half of it is there
    process.send_signal(how)
    process.communicate(timeout=20)
    assert process.returncode == 130 and list((tmp_path / "deep").iterdir()) == []


@pytest.mark.slow
def test_what_killed_runs_leave_is_removed_by_the_next_one(tmp_path: Path, trained_vit: Path) -> None:
    killed = [conversion_that_waits(trained_vit, tmp_path / "out" / name) for name in ("one", "two")]
    at_work = conversion_that_waits(trained_vit, tmp_path / "out" / "three")
    for process in killed:
        process.kill()
        process.communicate()
    assert len(list((tmp_path / "out").iterdir())) == 3
    layouts.assert_same(convert(trained_vit, tmp_path / "out" / "four"), trained_vit)
    assert len(list((tmp_path / "out").iterdir())) == 2  # the new one, and that of the run at work
    at_work.kill()
    at_work.communicate()
    layouts.assert_same(convert(trained_vit, tmp_path / "out" / "one"), trained_vit)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "four"}


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_permissions_are_what_the_umask_leaves(umask: int, tmp_path: Path, trained_vit: Path) -> None:
    before = os.umask(umask)
    try:
        folder = convert(trained_vit, tmp_path / "out" / "converted")
    finally:
        os.umask(before)
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


@pytest.mark.slow
def test_the_largest_model_needs_little_memory(tmp_path: Path) -> None:
    """RN50x64 is 1.35 GB in float16; its largest tensor 202 MB. Measured: 256 MB, of which 37 before it begins."""
    synthetic.write(tmp_path / "source", PUBLISHED["clip/RN50x64"])
    code = """
import sys
from clipref.weights_tools.convert import convert
convert(sys.argv[1], sys.argv[2])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path / "out")]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 600_000


def test_command(trained_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(trained_vit), str(tmp_path / "out"), "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert main(["convert", str(trained_vit), str(tmp_path / "out")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "gone"), str(tmp_path / "o")]) == 1
    assert "gone' is neither a model id nor a path that exists" in capsys.readouterr().err
    assert main(["convert", str(trained_vit), str(tmp_path / "o"), "--text-heads", "0"]) == 1
    assert "--text-heads is 0; expected at least 1" in capsys.readouterr().err
