"""Commands given what they can't take, or ended before their time: one line that says so, an exit code, no traceback.

A table for every command; and the standard streams closed, full or cut off, Ctrl-C, and a thread other than the main
one.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

from clipref import cli
from clipref.cli import interrupts, main, streams

VIT = "clipref/shapes-vit"
COMMAND = "import sys; from clipref.cli import main; sys.exit(main())"
# Arguments, by command; the exit code; and what the line says. {} is a folder with image.png, empty, folder, pipe.
WRONG: list[tuple[str, int, str]] = [
    ("", 2, "no command ''"),
    ("embde", 2, "did you mean 'embed'?"),
    ("embed", 1, "nothing to embed"),
    ("embed --text", 2, "argument --text: expected one argument"),
    ("embed --text a --backend nope", 1, "No backend 'nope'"),
    ("embed --text a --model nope", 1, "'nope' is neither a model id nor a path"),
    ("embed --text a --model {}/image.png", 1, "image.png"),
    ("embed --text a --model {}/pipe", 1, "pipe"),
    ("embed --text a --model /dev/zero", 1, "/dev/zero"),
    ("embed --text a --activation relu", 2, "argument --activation: invalid choice: 'relu'"),
    ("embed --text a --max-pixels 0", 1, "--max-pixels is 0"),
    ("embed --text a --max-pixels many", 2, "argument --max-pixels: invalid int value: 'many'"),
    ("embed --text a --batch-size -1", 1, "--batch-size is -1"),
    ("embed --text a --out {}/folder", 1, "ends in .npy"),
    ("embed {}/folder", 1, "holds no images"),
    ("embed {}/image.png --text=", 1, "text 0 is empty"),
    ("embed {}/empty", 1, "zero bytes"),
    ("classify {}/image.png", 2, "one of the arguments --labels --labels-file is required"),
    ("classify {}/image.png --labels ,", 1, "no labels"),
    ("classify {}/image.png --labels a --labels-file b", 2, "not allowed with argument --labels"),
    ("classify {}/image.png --labels a --top-k 0", 1, "top_k is 0"),
    ("classify {}/image.png --labels a --top-k 1e5", 2, "argument --top-k: invalid int value: '1e5'"),
    ("classify {}/image.png --labels a --template b", 1, "templates are ['b']"),
    ("classify {}/folder --labels a", 1, "folder"),
    ("classify {}/none --labels a", 1, "no such file"),
    ("compare {}/image.png", 2, "the following arguments are required: prompt"),
    ("compare {}/image.png a --prompt-type video", 2, "argument --prompt-type: invalid choice: 'video'"),
    ("compare {}/image.png {}/none --prompt-type image", 1, "--keep-going"),
    ("compare a b", 1, "If it is a text, say --subject-type text."),
    ("compare {}/image.png --subject-type text --prompt-type text a --revision", 2, "argument --revision"),
    ("look {}/image.png", 2, "the following arguments are required: --text"),
    ("look {}/none --text a", 1, "If it is a text, put --text before it."),
    ("learn 9", 1, "no chapter '9'"),
    ("learn --out x.html", 1, "without a chapter"),
    ("look --text=", 1, "text 0 is empty"),
    ("look {}/image.png --text a --masks -1", 1, "--masks is -1"),
    ("look {}/image.png --text a --masks many", 2, "argument --masks: invalid int value: 'many'"),
    ("look --text a --html {}/folder", 1, "there is something else than a file"),
    ("look --text a --html {}/none/x.html", 1, "there is no folder"),
    ("tokenize", 2, "the following arguments are required: text"),
    ("tokenize a --model nope", 1, "'nope' is neither a model id nor a path"),
    ("models all", 2, "unrecognized arguments: all"),
    ("models --josn", 2, "unrecognized arguments: --josn"),
    ("kernels --check nope", 1, "No backend 'nope'"),
    ("kernels --check=", 1, "No backend ''"),
    ("convert", 2, "the following arguments are required: SRC, DST"),
    ("convert nope {}/new", 1, "'nope' is neither a model id nor a path"),
    ("convert {}/empty {}/new", 1, "empty"),
    ("convert {}/image.png {}/new", 1, "image.png"),
    ("convert {}/pipe {}/new", 1, "pipe"),
    ("convert {}/folder {}/new", 1, "folder"),
    (f"convert {VIT} {{}}/folder", 1, "folder"),
    (f"convert {VIT} /proc/new", 1, "/proc/"),
    (f"convert {VIT} {{}}/empty/new", 1, "empty"),
    (f"convert {VIT} {{}}/new --dtype int8", 2, "argument --dtype: invalid choice: 'int8'"),
    (f"convert {VIT} {{}}/new --vision-heads 0", 1, "--vision-heads is 0"),
    (f"convert {VIT} {{}}/new --config {{}}/empty", 1, "empty"),
    ("download", 2, "the following arguments are required: ID"),
    ("download nope", 1, "'nope' is neither a model id nor a path"),
    ("download hf:", 1, "'hf:' is no repository"),
    ("download hf:a/../b", 1, "is no repository"),
    ("download clip/RN50 clip/RN101 --from x", 1, "--from takes one model, got 2"),
    ("download clip/RN50 --from {}/none", 1, "none"),
    ("download clip/RN50 --from {}/image.png", 1, "clip/RN50 has"),
    (f"download {VIT}", 1, "is on this machine"),
    ("inspect", 2, "the following arguments are required: PATH"),
    ("inspect nope", 1, "'nope' is neither a model id nor a path"),
    ("inspect {}/image.png", 1, "image.png"),
    ("inspect {}/pipe", 1, "pipe"),
    (f"inspect {VIT} --text-heads -5", 1, "--text-heads is -5"),
    ("diff nope", 2, "the following arguments are required: B"),
    (f"diff {VIT} nope", 1, "'nope' is neither a model id nor a path"),
    (f"diff {VIT} {{}}/image.png", 1, "image.png"),
    (f"diff {VIT} {VIT} --limit 2", 1, "--limit is 2"),
    (f"diff {VIT} {VIT} --limit many", 2, "argument --limit: invalid int value: 'many'"),
    (f"diff {VIT} {VIT} --tensors-only --images {{}}/folder", 1, "--images is for embeddings"),
    (f"diff {VIT} {VIT} --images {{}}/none", 1, "is not a folder"),
    ("whose", 1, "VECTORS is missing"),
    ("whose {}/empty", 1, "expected --images DIR or --texts-file FILE"),
    ("whose {}/none --images {}/folder", 1, "does not exist"),
    ("whose {}/image.png --images {}/folder", 1, "expected a .npy, .parquet or .safetensors file"),
    ("whose {}/folder --images {}/folder", 1, "img_emb_0.npy"),
    ("whose {}/none --images {}/folder --texts-file {}/empty", 2, "not allowed with argument --images"),
    ("whose {}/none --images {}/folder --limit 0", 1, "--limit is 0"),
    ("whose {}/none --images {}/folder --precision int8", 1, "precision is 'int8'"),
    ("whose {}/none --images {}/folder --backend onnx", 1, "--backend is for --check"),
    ("whose --check {}/none", 1, "can't be read as a stamp"),
    ("whose --check {}/empty", 1, "can't be read as a stamp"),
    ("whose --check {}/empty --images {}/folder", 1, "draws its own pictures"),
    ("whose --check {}/empty --stamp {}/new", 2, "not allowed with argument"),
    ("verify", 2, "the following arguments are required: PATH"),
    ("verify nope", 1, "'nope' is neither a model id nor a path"),
    ("verify {}/image.png", 1, "image.png"),
    (f"verify {VIT} --images {{}}/none", 1, "is not a folder"),
    (f"verify {VIT} --model nope", 2, "argument --model: invalid choice: 'nope'"),
    ("export-onnx a", 2, "the following arguments are required: OUT"),
    ("export-onnx nope {}/new", 1, "'nope' is neither a model id nor a path"),
    (f"export-onnx {VIT} {{}}/folder", 1, "folder"),
    (f"export-onnx {VIT} /proc/new", 1, "/proc/"),
    (f"export-onnx {VIT} {{}}/caf\udce9", 1, "caf\\udce9' is not UTF-8"),
    (f"export-onnx {VIT} {{}}/new --ids int8", 2, "argument --ids: invalid choice: 'int8'"),
    ("demo --scenes 0", 1, "--scenes is 0"),
    ("demo --scenes many", 2, "argument --scenes: invalid int value: 'many'"),
    ("demo --backend nope --out {}/x.html", 1, "No backend 'nope'"),
    ("demo --model clip/RN50", 2, "argument --model: invalid choice: 'clip/RN50'"),
    ("demo --out=", 1, "expected the name of a file"),
    ("demo --out {}/none/x.html", 1, "there is no folder"),
    ("demo --out {}/folder", 1, "something else than a file"),
    ("demo --out /dev/full", 1, "something else than a file"),
    ("demo --out /proc/x.html", 1, "can't be written"),
    ("conformance", 2, "the following arguments are required: init|run|export|check|pack|list|explain"),
    ("conformance rnu", 2, "invalid choice: 'rnu'"),
    ("conformance run", 2, "the following arguments are required: ENGINE"),
    ("conformance run nope", 1, "The engine is 'nope'"),
    ("conformance run backend:nope", 1, "No backend 'nope'"),
    ("conformance run backend:reference --precision float8", 1, "No precision 'float8'"),
    ("conformance run backend:reference --levels nope", 1, "No level 'nope'"),
    ("conformance run backend:reference --only nope", 1, "No case has 'nope' in its id"),
    ("conformance run backend:reference --expected-failures {}/none", 1, "none"),
    ("conformance check {}/folder", 1, "folder"),
    ("conformance export {}/folder", 1, "folder"),
    ("conformance explain nope", 1, "'nope'"),
    ("index", 2, "the following arguments are required: DIR"),
    ("index {}/image.png", 1, "is not a folder"),
    ("index {}/folder --errors", 1, "There is no index in"),
    ("index {}/folder --forget --compact", 2, "not allowed with argument"),
    ("index {}/folder --export gif out", 1, "--export gif: expected one of"),
    ("index {}/folder --shard 0/2", 1, "are for --tars"),
    ("index {}/folder --batch-size 0", 1, "--batch-size is 0"),
    ("index {}/folder --index /proc/none", 1, "No index can be made in"),
    ("search {}/folder", 1, "nothing to search for"),
    ("search {}/none a", 1, "is not a folder"),
    ("search {}/folder a --no-update", 1, "There is no index in"),
    ("search {}/folder a --after tomorrow", 1, "expected a date"),
    ("search {}/folder a -n 0", 1, "--top-k is 0"),
    ("search {}/folder --plus 0 a", 2, "expected a number that isn't zero"),
    ("search {}/folder --plus a b", 2, "expected [WEIGHT] and one value"),
    ("search {}/folder a --paths-from {}/none", 1, "can't be read"),
    ("search {}/folder a --json --csv", 2, "not allowed with argument"),
    ("duplicates {}/folder --cosine 2", 1, "cosine is 2.0"),
    ("duplicates {}/folder --exact --no-update", 1, "There is no index in"),
    ("label {}/folder", 2, "the following arguments are required: --classes"),
    ("label {}/folder --classes {}/empty", 1, "has no classes"),
    ("cluster {}/folder -k 0", 1, "--clusters is 0"),
    ("cluster {}/folder --outliers -1", 1, "--outliers is -1"),
    ("serve --port many", 2, "argument --port: invalid int value: 'many'"),
    ("serve --port 70000", 1, "--port is 70000; expected 0 to 65535"),
    ("serve --items 0", 1, "--items is 0; expected more than 0"),
    ("serve --api-key-file {}/empty", 1, "has no key"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wrong")
    Image.new("RGB", (9, 8)).save(path / "image.png")
    (path / "empty").touch()
    (path / "folder").mkdir()
    (path / "folder" / "notes.txt").touch()
    os.mkfifo(path / "pipe")
    return path


@pytest.mark.parametrize(("line", "code", "message"), WRONG, ids=[line.replace("\udce9", "?") for line, *_ in WRONG])
def test_one_line_and_an_exit_code(
    line: str,
    code: int,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main([word.replace("{}", str(folder)) for word in line.split(" ")]) == code
    out, err = capsys.readouterr()
    *notes, last, end = err.split("\n")
    assert last.startswith("clipref: error: ") and message in last and end == "" and out == ""
    assert all(note.startswith("clipref: no --model was given") for note in notes)
    assert sorted(folder.rglob("*")) == before


def test_every_command_has_its_table() -> None:
    assert {line.partition(" ")[0] for line, *_ in WRONG} >= {e.name for e in entry_points(group=cli.GROUP)}


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--text", "a", "--model", "\x1b[31mred\nline\u2028\x9b"]) == 1
    assert re.fullmatch(r"[ -~]+\n", capsys.readouterr().err)
    assert streams.printable("\u00e9\U0001f600\t") == "\u00e9\U0001f600\\t"


@pytest.mark.fast_cases("/dev/full")
@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("models >/dev/full", 1, "No space left on device"),
        ("models >&-", 1, "Bad file descriptor"),
        ("embed --text red --out e.npy >&-", 0, "1 embedded, in e.npy"),
        ("tokenize - <&-", 1, "standard input can't be read: Bad file descriptor"),
    ],
)
def test_standard_streams_that_are_full_or_closed(command: str, code: int, message: str, tmp_path: Path) -> None:
    line = f"'{sys.executable}' -c '{COMMAND}' {command}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["e.names.json", "e.npy"] * (code == 0)


@pytest.mark.fast_cases("[2]")
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_at_once_and_leaves_nothing(number: int, tiny_vit: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (1000, 1000)).save(tmp_path / "in" / "0.png")
    for i in range(1, 500):
        (tmp_path / "in" / f"{i}.png").hardlink_to(tmp_path / "in" / "0.png")
    arguments = ["embed", "in", "--out", "x.npy", "--model", str(tiny_vit), "--batch-size", "1000"]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".*")) and process.poll() is None:  # the scratch of what it is going to write
        time.sleep(0.01)
    time.sleep(0.2)
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == b"" and time.monotonic() - started < 5
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_native_code_is_imported_to_its_end() -> None:
    """onnx ends the process with a segmentation fault if an exception is raised in the middle."""
    steps = []

    class Loader(ExtensionFileLoader):
        def create_module(self, spec: object) -> None:  # type: ignore[override]
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("made")

    with pytest.raises(KeyboardInterrupt), interrupts.interruptible():
        Loader("native", "native.so").create_module(None)
        time.sleep(5)
        steps.append("not interrupted")
    assert steps == ["made"]
    with interrupts.interruptible(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_command_outside_of_the_main_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["tokenize", "cat"])))
    thread.start()
    thread.join()
    assert codes == [0] and capsys.readouterr().out.startswith("49406 ")


def test_memory_that_isn_t_there_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(arguments: object) -> int:
        raise MemoryError("Unable to allocate 1. TiB")

    monkeypatch.setattr(cli, "_run", run)
    assert main(["models"]) == 1
    assert "there is not enough memory for it. Unable to allocate 1. TiB" in capsys.readouterr().err
