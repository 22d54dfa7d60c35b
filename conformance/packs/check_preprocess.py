#!/usr/bin/env python3
"""Compares pixels with the answers of this pack: check.py FOUND

FOUND is a folder with the pixels of each image that was answered, under the name that questions.jsonl has as `out`:
little-endian float32 [3, R, R], nothing else in the file. Exits with 0 if something was answered and nothing is wrong,
with 1 if not, with 2 if the pack or the folder can't be used.
"""

import array
import hashlib
import json
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def read(path):
    """The lines of a file of JSON, by case."""
    return {line["case"]: line for line in map(json.loads, path.read_text(encoding="ascii").splitlines())}


def refuse_changed():
    """The questions and answers have to be as they were written."""
    for line in (PACK / "SHA256SUMS").read_text(encoding="ascii").splitlines():
        digest, name = line.split("  ")
        if hashlib.sha256((PACK / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{name} is not as the pack has it")


def wrong(side, right, path):
    """The problem with the pixels in a file, in words; None if they are right."""
    levels = (PACK / right["levels"]).read_bytes()[-3 * side * side :]  # behind the header, rows of R, G, B
    if path.stat().st_size != 4 * len(levels):
        return f"{path.name} has {path.stat().st_size} bytes, expected {4 * len(levels)}: float32 [3, {side}, {side}]"
    found = array.array("f", path.read_bytes())
    if sys.byteorder == "big":
        found.byteswap()
    off, worst, size = 0, 0.0, side * side
    for colour in range(3):
        for value, level in zip(found[colour * size : (colour + 1) * size], levels[colour::3], strict=True):
            difference = abs(value - (level / 255 - MEAN[colour]) / STD[colour])
            if not difference <= right["tolerance"]:  # so that NaN is wrong, too
                in_levels = difference * STD[colour] * 255
                off, worst = off + 1, worst if in_levels <= worst else in_levels
    return f"{100 * off / len(found):.2f} % of values are off, by up to {worst:.3g} levels of 255" if off else None


def main(folder):
    refuse_changed()
    pack = json.loads((PACK / "pack.json").read_text(encoding="utf-8"))
    questions, right = read(PACK / "questions.jsonl"), read(PACK / "answers.jsonl")
    known = {question["out"] for question in questions.values()}
    if unknown := sorted(path.name for path in Path(folder).iterdir() if path.name not in known):
        raise ValueError(f"no question has the answer {unknown[0]!r}")
    answered = failed = 0
    for case, question in questions.items():
        path = Path(folder, question["out"])
        problem = wrong(question["resolution"], right[case], path) if path.exists() else None
        answered, failed = answered + path.exists(), failed + (problem is not None)
        print("SKIP" if not path.exists() else "FAIL" if problem else "PASS", case, problem or "")
    counts = f"{answered - failed} of {pack['of']} questions right, {failed} wrong"
    print(f"{pack['level']} ({pack['profile']}) of {pack['suite']}, pack {pack['digest'][:12]}: {counts}")
    return 0 if answered and not failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        print(f"check.py FOUND: {type(problem).__name__}: {problem}", file=sys.stderr)
        sys.exit(2)
