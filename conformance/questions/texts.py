"""Questions of the tokenizer: texts to ids, which are OpenAI's tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from ..goldens import golden_file
from ..protocol import Exact, Question
from .make import question

_TOKEN_CLAIMS = {
    "words": ("TOK-5", "TOK-6", "TOK-7", "TOK-8"),
    "numbers": ("TOK-5",),
    "scripts": ("TOK-5", "TOK-6"),
    "repaired": ("TOK-1",),
    "unescaped": ("TOK-2",),
    "spaces": ("TOK-3",),
    "upper case": ("TOK-4",),
    "whole table": ("TOK-6",),
    "last merges": ("TOK-6",),
    "id 0": ("TOK-6", "TOK-8"),
    "special": ("TOK-10",),
    "mixed": ("TOK-1", "TOK-2", "TOK-3", "TOK-4", "TOK-5", "TOK-6", "TOK-10"),
    "to the brim": ("TOK-7", "TOK-8", "TOK-9"),
    "too long": ("TOK-9",),
    "context of 20": ("TOK-8", "TOK-9"),
    "refused": ("TOK-11",),
}


@cache
def golden_tokens() -> Any:
    """Groups of texts, and the ids that OpenAI's tokenizer gives them."""
    return json.loads(golden_file("tokens.json").read_text(encoding="utf-8"))


def tokenize() -> Iterator[Question]:
    """One question for each group of texts that has golden ids."""
    for group, claims in _TOKEN_CLAIMS.items():
        found = golden_tokens()["groups"][group]
        texts = np.frombuffer(json.dumps(found["texts"]).encode(), np.uint8)
        attributes = {name: found[name] for name in ("truncate", "context_length")}
        ids = np.zeros((len(found["ids"]), found["context_length"]), np.int64)
        for row, known in zip(ids, found["ids"], strict=True):
            row[: len(known)] = known
        # Texts that are refused have no ids.
        exact = Exact({"ids": ids}) if found["ids"] else Exact({}, refused="a text of 76 tokens, untruncated")
        yield question(
            f"tokenize/{group}", claims, "tokenize", None, {"texts": texts}, attributes, lambda case, e=exact: e
        )
