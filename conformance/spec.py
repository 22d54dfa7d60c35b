"""The claims of SPEC.md, by id."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

SPEC = Path(__file__).parent / "SPEC.md"


@cache
def claims() -> dict[str, str]:
    """What each says, in one line."""
    found = re.findall(r"^- \*\*([A-Z]+-\d+)\*\* (.+(?:\n  .+)*)", SPEC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {identity: " ".join(text.split()) for identity, text in found}
