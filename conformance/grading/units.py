"""By how much correct engines err in each question: measured once by measure.py, and kept in golden/units.json.

Measured with several of OpenBLAS's kernels, which add in different orders; the largest counts. So no verdict depends on
the machine that grades.
"""

from __future__ import annotations

import json
from functools import cache

from ..goldens import golden_file
from ..protocol import Units

FILE = "units.json"


@cache
def table() -> dict[str, Units]:
    """All units, by the keys of their questions."""
    units: dict[str, Units] = json.loads(golden_file(FILE).read_text(encoding="ascii"))["units"]
    return units


def frozen_units(id: str, profile: str = "openai") -> Units:
    """The units of a question in a profile of preprocessing."""
    return table()[key(id, profile)]


def key(id: str, profile: str) -> str:
    """What a question is called in units.json: where pixels are made, it depends on the profile."""
    depends = (id.startswith(("preprocess/", "pipeline/")) or id.endswith("/file")) and profile != "openai"
    return f"{id} in {profile}" if depends else id
