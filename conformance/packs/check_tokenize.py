#!/usr/bin/env python3
"""Compares ids with the answers of this pack: check.py FOUND.jsonl

FOUND.jsonl has a line of JSON for each question that was answered: {"case": "tokenize/words", "ids": [[49406, ...]]}, a
row a text, padded as README.md says, or {"case": "tokenize/refused", "refused": true}. Exits with 0 if something was
answered and nothing is wrong, with 1 if not, with 2 if the pack or FOUND.jsonl can't be used.
"""

import hashlib
import json
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent


def read(path):
    """The lines of a file of JSON, by case."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    found = {line["case"]: line for line in lines}
    if len(found) < len(lines):
        raise ValueError("a case is there twice")
    return found


def refuse_changed():
    """The questions and answers have to be as they were written."""
    for line in (PACK / "SHA256SUMS").read_text(encoding="ascii").splitlines():
        digest, name = line.split("  ")
        if hashlib.sha256((PACK / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{name} is not as the pack has it")


def wrong(question, right, found):
    """The problem with an answer, in words; None if it is right."""
    if right.get("refused"):
        return None if found.get("refused") is True else "answered what is to be refused"
    ids = found.get("ids")
    if not isinstance(ids, list) or len(ids) != len(right["ids"]):
        return f"gave no list of {len(right['ids'])} rows of ids"
    rows = zip(question["texts"], ids, right["ids"], strict=True)
    bad = [row for row in rows if row[1] != row[2] or any(type(i) is not int for i in row[1])]
    if not bad:
        return None
    text, given, expected = min(bad, key=lambda row: len(row[0]))
    return f"{len(bad)} of {len(ids)} texts: {text[:60]!r} gave {given}, expected {expected}"


def main(path):
    refuse_changed()
    pack = json.loads((PACK / "pack.json").read_text(encoding="utf-8"))
    questions, right, found = read(PACK / "questions.jsonl"), read(PACK / "answers.jsonl"), read(path)
    if unknown := sorted(found.keys() - questions.keys()):
        raise ValueError(f"there is no case {unknown[0]!r}")
    failed = 0
    for case, question in questions.items():
        problem = wrong(question, right[case], found[case]) if case in found else None
        failed += problem is not None
        print("SKIP" if case not in found else "FAIL" if problem else "PASS", case, problem or "")
    counts = f"{len(found) - failed} of {pack['of']} questions right, {failed} wrong"
    print(f"{pack['level']} of {pack['suite']}, pack {pack['digest'][:12]}: {counts}")
    return 0 if found and not failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        print(f"check.py FOUND.jsonl: {type(problem).__name__}: {problem}", file=sys.stderr)
        sys.exit(2)
