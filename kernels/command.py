"""The backends there are: what each computes with, whether it can run here, and if not, why.

`auto` marks what `from_pretrained` takes when no backend is named. kernels/README.md shows how to add one; --check NAME
then compares each of its operations with the definitions in clipref/ops.py.
"""

from __future__ import annotations

import argparse
from typing import Any

from clipref.cli.common import add_json_argument, print_json, print_table
from clipref.engine import FASTEST_FIRST, backends, described

from .check import BUDGET, check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--check", metavar="NAME", help="check this backend's operations; 1 if one is off")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print a table, or one line of JSON."""
    return _list(args.json) if args.check is None else _check(args.check, args.json)


def _list(json: bool) -> int:
    found: list[dict[str, Any]] = [{"name": name, **described(name)} for name in sorted(backends())]
    auto = next(name for name in FASTEST_FIRST if any(e["name"] == name and e["runs"] for e in found))
    if json:
        print_json([{**entry, "auto": entry["name"] == auto} for entry in found])
        return 0
    rows = [("backend", "runs here", "module", "overrides")]
    for entry in found:
        name = f"{entry['name']} (auto)" if entry["name"] == auto else entry["name"]
        rows.append((name, "yes" if entry["runs"] else f"no: {entry['why not']}", entry["module"], entry["overrides"]))
    print_table(rows)
    return 0


def _check(name: str, json: bool) -> int:
    found = check(name)
    wrong = [operation for operation, units in found.items() if not max(units.values()) <= BUDGET]
    if json:
        print_json({"budget": BUDGET, "units": found, "wrong": wrong})
        return 1 if wrong else 0
    rows = [("operation", *next(iter(found.values())), "")]
    for operation, units in found.items():
        rows.append((operation, *(f"{value:.2g}" for value in units.values()), "WRONG" if operation in wrong else "ok"))
    print_table(rows)
    print(f"Largest difference from float64, in units of the dtype's epsilon times the RMS; up to {BUDGET:g} is right.")
    return 1 if wrong else 0
