"""Measures by how much correct engines err: `python -m clipref.conformance.measure` writes golden/units.json.

Each of OpenBLAS's kernels that a machine can run has a process of its own, because it is chosen when numpy is imported.
What is not measured this time, such as other levels or full sizes, stays as it is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from clipref.config import PUBLISHED
from clipref.files import scratch_folder
from clipref.weights_tools.sources import sha256

from .goldens import GOLDEN
from .grading import units as units_file
from .protocol import Question, Units
from .questions import ASKABLE, questions
from .restated.preprocessing import PROFILES

# Each a generation of processors; those that numpy's OpenBLAS has own matrix products for.
KERNELS = ("SkylakeX", "Haswell", "Sandybridge", "Nehalem", "Prescott")

MODULE = "clipref.conformance.measure"


def measure(questions: Sequence[Question], profile: str) -> Iterator[tuple[str, Units]]:
    """The units of questions, measured in this process; each of them with its key in the file."""
    with scratch_folder() as scratch:
        for question in questions:
            if question.measure is not None:
                case = question.make(scratch)
                yield units_file.key(question.id, profile), question.measure(case, question.exact(case))


@cache
def known_keys() -> set[str]:
    """The keys of all questions that have units."""
    every = [(q, profile) for profile in PROFILES for q in questions(ASKABLE, list(PUBLISHED), profile)]
    return {units_file.key(q.id, profile) for q, profile in every if q.measure is not None}


def largest(found: Sequence[Units]) -> Units:
    """The largest of several measurements of one question, to three digits."""
    return {
        name: {p: float(f"{max(units[name][p] for units in found):.3g}") for p in by} for name, by in found[0].items()
    }


class _Unmeasured(dict[str, Units]):
    """Units of questions that are yet to be measured: none, but of every question."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> Units:
        return {}


def _print_measured(levels: Sequence[str], models: Sequence[str], profiles: Sequence[str], only: str) -> None:
    """Measure in this process, where no question has units yet."""
    units_file.table = _Unmeasured  # type: ignore[assignment]
    for profile in profiles:
        chosen = [q for q in questions(levels, models, profile) if only in q.id]
        known = [q for q in chosen if profile == "openai" or units_file.key(q.id, profile) != q.id]
        for key, found in measure(known, profile):
            print(json.dumps([key, found]), flush=True)


def _measured_with(kernel: str, arguments: Sequence[str]) -> Iterator[tuple[str, Units]]:
    """What a process of its own measures with one of OpenBLAS's kernels."""
    command = [sys.executable, "-m", MODULE, "--here", *arguments]
    environment = {**os.environ, "OPENBLAS_CORETYPE": kernel}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{kernel}: the measurement ended with {process.returncode}")


def write_sums() -> None:
    """Write SHA256SUMS anew, so that an edit by hand shows."""
    files = sorted(path for path in GOLDEN.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{sha256(path)}  {path.name}\n" for path in files]
    (GOLDEN / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


def main() -> None:
    """Measure, and write units.json; what is not measured this time stays as it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--levels", nargs="*", default=ASKABLE)
    parser.add_argument("--full", nargs="*", default=[])
    parser.add_argument("--profiles", nargs="*", default=[*PROFILES])
    parser.add_argument("--kernels", nargs="*", default=KERNELS)
    parser.add_argument("--only", default="", metavar="TEXT", help="questions whose id has this in it")
    parser.add_argument("--here", action="store_true", help="print what this process measures")
    args = parser.parse_args()
    if args.here:
        _print_measured(args.levels, args.full, args.profiles, args.only)
        return
    given = ["--levels", *args.levels, "--full", *args.full, "--profiles", *args.profiles, "--only", args.only]
    found: dict[str, list[Units]] = {}
    for kernel in args.kernels:
        for key, units in _measured_with(kernel, given):
            found.setdefault(key, []).append(units)
    path = GOLDEN / units_file.FILE
    kept: dict[str, Any] = json.loads(path.read_text(encoding="ascii")) if path.is_file() else {"units": {}}
    measured: dict[str, Units] = {**kept["units"], **{key: largest(several) for key, several in found.items()}}
    measured = {key: by for key, by in measured.items() if key in known_keys()}
    provenance = {
        "made by": f"python -m {MODULE}",
        "units": "the largest error, relative to the root mean square of what is right, of clipref's reference with "
        "every result rounded to a precision, its sums in several orders, over several kernels of OpenBLAS",
        "kernels": "SkylakeX, Haswell, Sandybridge, Nehalem, Prescott; of embedded models the first three, "
        "of full sizes SkylakeX alone",
        "numpy": np.__version__,
    }  # fmt: skip
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(measured[key])}" for key in sorted(measured))
    path.write_text(f'{{"provenance": {json.dumps(provenance)},\n"units": {{\n{lines}\n}}}}\n', encoding="ascii")
    write_sums()
    print(f"{path}: {len(measured)} questions, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
