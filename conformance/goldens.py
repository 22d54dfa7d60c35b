"""Golden values: what implementations that share no code with clipref computed, in float64; `golden/` has them.

tests/make_goldens.py makes them; their provenance is in the files' metadata.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from clipref.errors import InputError

from .protocol import Array

GOLDEN = Path(__file__).parent / "golden"


def golden_file(name: str) -> Path:
    """A file of golden values, which is as it was made. Raises InputError if it isn't."""
    sums = (line.split("  ") for line in (GOLDEN / "SHA256SUMS").read_text(encoding="ascii").splitlines())
    expected = {file: digest for digest, file in sums}[name]
    found = hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest()
    if found != expected:
        raise InputError(f"{GOLDEN / name} has sha256 {found}, expected {expected}. Install clipref anew.")
    return GOLDEN / name


@cache
def goldens(which: str) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """The right answers for the "tiny" or "full" cases, by "NAME STYLE", and what was noted of how they were made."""
    arrays: dict[str, dict[str, Array]] = {}
    with safe_open(golden_file(f"{which}.safetensors"), framework="numpy") as file:
        notes: dict[str, Any] = json.loads(file.metadata()["provenance"])["cases"]
        for key in file.keys():  # noqa: SIM118 (not a dict)
            name, style, array = key.split(" ")
            arrays.setdefault(f"{name} {style}", {})[array] = file.get_tensor(key)
    return arrays, notes


def sample(x: Array, values: int = 48) -> Array:
    """What is kept of an activation: values evenly spread over it, and last its root mean square."""
    flat = np.asarray(x).reshape(-1)
    chosen: Array = flat[np.linspace(0, flat.size - 1, values).round().astype(int)]
    kept: Array = np.append(chosen, np.sqrt(np.square(flat, dtype=np.float64).mean()).astype(flat.dtype))
    return kept
