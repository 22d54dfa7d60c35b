"""Writes a pack: questions, answers, a checker of one page, and what all of it is.

    questions.jsonl   a line a question, JSON in ASCII
    answers.jsonl     a line an answer, in the same order
    images/ levels/   of preprocess: the images as PNG, the right levels as PPM
    SHA256SUMS        of all of these, for `sha256sum -c`
    pack.json         format, suite, profile, source, and the pack's digest, which is the sha256 of SHA256SUMS
    check.py          compares what somebody's program gave with the answers; Python's standard library
    README.md LICENSE

The answers are the frozen golden ones (goldens.py). The same questions in the same format have the same digest,
whichever machine wrote them; FORMAT counts up when a reader of packs has to change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipref import __version__
from clipref.errors import InputError
from clipref.numerics import rms
from clipref.weights_tools.folder import new_folder, write_json

from ..goldens import golden_file
from ..grading.verdicts import MARGIN
from ..protocol import Array, Case, Exact, Question
from ..questions import questions as levels
from ..questions.images import golden_levels

FORMAT = 1
_HERE = Path(__file__).parent
# The files that answers come from, of which the first has their provenance.
SOURCES = {"tokenize": ("tokens.json",), "preprocess": ("pixels.json", "pixels.safetensors", "units.json")}


def write_pack(
    level: str,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    profile: str = "openai",
    of: int | None = None,
) -> str:
    """Write a new folder with the questions, which are of one level; returns the pack's digest.

    `profile`: of preprocessing. `of`: how many questions the level has, if these aren't all.
    Raises InputError if `out` exists, if there are no questions, or if Pillow, which makes some of the answers of
    preprocess, isn't there or makes others than the golden ones.
    """
    if not questions:
        raise InputError(f"There are no questions of {level} to pack; see clipref conformance list.")
    with new_folder(out) as root:
        cases = [(question.make(root), question) for question in questions]
        pairs = [
            _tokens(case, question.exact(case)) if level == "tokenize"
            else _pixels(root, case, question.exact(case), golden_levels(case.id.partition("/")[2], profile))
            for case, question in cases
        ]  # fmt: skip
        for name, lines in zip(("questions.jsonl", "answers.jsonl"), zip(*pairs, strict=True), strict=True):
            (root / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="ascii")
        digest = _write_sums(root)
        for source, name in ((f"check_{level}.py", "check.py"), (f"{level}.md", "README.md"), ("LICENSE", "LICENSE")):
            shutil.copyfile(_HERE / source, root / name)
        write_json(
            root / "pack.json",
            {
                "format": FORMAT,
                "level": level,
                "profile": profile if level == "preprocess" else None,
                "questions": len(questions),
                "of": len(questions) if of is None else of,
                "suite": f"clipref {__version__}",
                "digest": digest,
                "licence": "MIT",
                "source": _source(level),
            },
        )
    return digest


def pack(level: str, out: str, profile: str, is_meant: Callable[[str], bool]) -> int:
    """The command: a pack is written of the cases that are meant, by their ids; returns the exit code."""
    every = list(levels([level], profile=profile))
    chosen = [question for question in every if is_meant(question.id)]
    digest = write_pack(level, chosen, out, profile, len(every))
    print(f"{len(chosen)} of {len(every)} questions of {level} in {out}, digest {digest}.")
    return 0


def _tokens(case: Case, exact: Exact) -> tuple[Any, Any]:
    """A group of texts, and the ids [N, T] of each, padded; of what is refused, only that it is."""
    known = {"case": case.id, "claims": list(case.claims)}
    asked = {**known, **case.attributes, "texts": json.loads(case.inputs["texts"].tobytes())}
    answer: dict[str, Any] = {"refused": True} if exact.refused else {"ids": exact.outputs["ids"].tolist()}
    return asked, {"case": case.id, **answer}


def _pixels(root: Path, case: Case, exact: Exact, levels: Array) -> tuple[Any, Any]:
    """An image and its right levels [R, R, 3] as files, and how far a float32 may be off."""
    side = case.attributes["resolution"]
    stem = case.id.partition("/")[2].replace(" ", "-").replace(";", "")
    image, answer = f"images/{stem}.png", f"levels/{stem}.ppm"
    for file, data in (
        (image, case.inputs["image"].tobytes()),
        (answer, f"P6\n{side} {side}\n255\n".encode("ascii") + levels.tobytes()),
    ):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_bytes(data)
    known = {"case": case.id, "claims": list(case.claims), "image": image, "resolution": side, "out": f"{stem}.f32"}
    tolerance = MARGIN * exact.units["pixels"]["float32"] * rms(exact.outputs["pixels"])
    return known, {"case": case.id, "levels": answer, "tolerance": float(f"{tolerance:.3g}")}


def _source(level: str) -> dict[str, Any]:
    """The answers' source: what they were made with, and the golden files that they are from, with their sha256."""
    first, *others = SOURCES[level]
    provenance: dict[str, Any] = json.loads(golden_file(first).read_text(encoding="utf-8"))["provenance"]
    files = {name: hashlib.sha256(golden_file(name).read_bytes()).hexdigest() for name in (first, *others)}
    return {**provenance, "files": files}


def _write_sums(root: Path) -> str:
    """SHA256SUMS of the questions and answers, which are all that is there yet; the digest of that file."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    lines = "".join(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (root / "SHA256SUMS").write_bytes(lines.encode("ascii"))
    return hashlib.sha256(lines.encode("ascii")).hexdigest()
