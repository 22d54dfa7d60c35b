"""Commands that write, each killed at some of the steps at which it makes or moves a file, and then run to its end.

    python -m tests.killed_runs FOLDER

Prints a line of JSON for each: how many steps it has, at which it was killed, the most scratch that lay there then,
what stood in a result's place that is neither the old file nor the new one (figures apart, such as seconds), its last
exit code, and what scratch is left after that run.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipref import files
from clipref.cli import main

VIT = "clipref/shapes-vit"
# {} is the folder of what it writes, < what every command may read: pictures, their index, and their embeddings.
RUNS = {
    "embed to .npy": "embed --text red --text blue --out {}/x.npy",
    "embed to .safetensors": "embed --text red --out {}/x.safetensors",
    "convert": f"convert {VIT} {{}}/model",
    "export-onnx": f"export-onnx {VIT} {{}}/model",
    "look": f"look --text red --model {VIT} --html {{}}/x.html",
    "demo": "demo --scenes 1 --backend reference --out {}/x.html",
    "learn": "learn 1 --out {}/x.html",
    "whose": f"whose </v.npy --texts-file </texts --models {VIT} --limit 1 --stamp {{}}/x.json",
    "verify": f"verify {VIT} --attest {{}}/x.json",
    "index --export npy": "index </pictures --export npy {}/x.npy",
    "index --export jsonl": "index </pictures --export jsonl {}/x.jsonl",
    "search": f"search </pictures red --model {VIT} --html {{}}/x.html",
    "duplicates": f"duplicates </pictures --model {VIT} --html {{}}/x.html",
    "cluster": f"cluster </pictures -k 2 --model {VIT} --html {{}}/x.html",
    "label": f"label </pictures --classes </texts --model {VIT} --sort-into {{}} --copy",
    "conformance run": "conformance run backend:reference --levels towers --only vit-a --junit {}/x.xml",
    "conformance export": "conformance export {}/cases --levels similarity",
}
STEPS = ((files, "_new_scratch"), (os, "replace"), (os, "rename"), (os, "link"))


def killed_at(count: int) -> Callable[[], int]:
    """From now on, end this process without a word at that step: after a scratch was made, or before a file moves.

    What is returned tells how many steps there were.
    """
    steps = itertools.count()

    def stepped(step: Callable[..., Any]) -> Callable[..., Any]:
        def killed(*args: Any, **kwargs: Any) -> Any:
            made = step(*args, **kwargs) if step.__module__ == files.__name__ else None
            if next(steps) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs) if made is None else made

        return killed

    for where, name in STEPS:
        setattr(where, name, stepped(getattr(where, name)))
    return lambda: next(steps)


def status(line: str, folder: Path, kill: int = -1) -> tuple[int, int]:
    """The exit code of a command in a forked process, negative if it was killed; and its steps, if it wasn't."""
    said, say = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            steps = killed_at(kill)
            code = main(line.replace("{}", str(folder)).replace("<", str(folder.parent / "read")).split())
            os.write(say, b"%d" % steps())
        finally:
            os._exit(code)
    os.close(say)
    with os.fdopen(said, "rb") as told:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(told.read() or 0)


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder without their figures, but for scratch."""
    found = (path for path in folder.rglob("*") if path.is_file() and files.SCRATCH_SUFFIX not in str(path))
    return {str(path.relative_to(folder)): re.sub(rb"\d", b"", path.read_bytes()) for path in found}


def scratch(folder: Path, temporary: Path) -> list[str]:
    """Scratch below a folder, and whatever lies in the one for temporary files."""
    return [str(path) for path in (*folder.rglob(f"*{files.SCRATCH_SUFFIX}"), *temporary.iterdir())]


def killed(name: str, folder: Path, temporary: Path) -> dict[str, Any]:
    """The command run in another folder, where its steps are counted; killed in this one; and run again."""
    code, steps = status(RUNS[name], folder.with_name(f"{folder.name}-counted"))
    assert code == 0, name
    for path in ("x.npy", "x.safetensors", "x.html", "x.json", "x.jsonl", "x.xml"):
        (folder / path).write_bytes(b"old")
    old, most = contents(folder), 0
    seen: list[dict[str, bytes]] = []
    for step in sorted({0, steps // 2, steps - 2, steps - 1}):
        code, _ = status(RUNS[name], folder, step)
        assert code in (-signal.SIGKILL, 0 if seen else None), (name, step, code)  # 0: what is there isn't made again
        seen.append(contents(folder))
        most = max(most, len(scratch(folder, temporary)))
    code, _ = status(RUNS[name], folder)
    left, last = scratch(folder, temporary), contents(folder)
    wrong = {path for found in seen for path, data in found.items() if data not in (old.get(path), last.get(path))}
    return {"name": name, "steps": steps, "most": most, "wrong": sorted(wrong), "code": code, "left": left}


def prepare(folder: Path) -> None:
    """What the commands read."""
    from clipref.weights_tools.shapes import world

    (folder / "pictures").mkdir(parents=True)
    (folder / "texts").write_text("red\nblue\n")
    for seed in range(3):
        world.scene(seed).draw(64).save(folder / "pictures" / f"{seed}.png")
    embed = f"embed --texts-file {folder}/texts --model {VIT} --backend reference --out {folder}/v.npy"
    for line in (embed, f"index {folder}/pictures --model {VIT}"):
        assert status(line, folder)[0] == 0


if __name__ == "__main__":
    root = Path(sys.argv[1])
    temporary = root / "temporary"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    prepare(root / "read")
    for number, run in enumerate(sys.argv[2:] or RUNS):
        for folder in (f"{number}", f"{number}-counted"):
            (root / folder).mkdir()
        print(json.dumps(killed(run, root / f"{number}", temporary)), flush=True)
