"""What an engine is asked, and the one method by which it answers, whatever it is written in.

Names of inputs and outputs, by verb:

| verb | inputs | attributes | outputs |
|---|---|---|---|
| describe | | | embed_dim, resolution, context_length, vocab_size: whole numbers, shape [] |
| tokenize | texts: a JSON list of texts, UTF-8, as uint8 | truncate, context_length | ids [N, T], any integer type |
| preprocess | image: the bytes of a PNG file, as uint8 | resolution | pixels [3, R, R] float32 |
| operation | the operation's arrays by name | name, and the operation's numbers | y |
| encode_image | pixels [N, 3, R, R] float32 | | embeddings [N, E] float32 |
| encode_text | ids [N, T] int64 | | embeddings [N, E] float32 |
| trace_image, trace_text | as encode_* | | the activations that the engine has, by their names in the checkpoint |
| similarity | image [N, E], text [M, E] float32, logit_scale [] float32 (the logarithm) | | cosines, logits [N, M] |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Outputs: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True)
class Case:
    """One question. `checkpoint` is a folder with model.safetensors and config.json, where the verb needs a model."""

    id: str  # "towers/vit-a plain/image"
    level: str
    verb: str
    claims: tuple[str, ...]  # ids of SPEC.md
    inputs: Mapping[str, Array]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None


class Unsupported(Exception):
    """Raised by an engine that doesn't do what is asked; the case is skipped, and counts neither way."""


class EngineUnderTest(Protocol):
    """Anything that answers cases: a Python object, ONNX files, a program, a folder of results, a server."""

    def answer(self, case: Case) -> Outputs:
        """The outputs by name. Raises Unsupported; anything else that is raised is the case's verdict."""
