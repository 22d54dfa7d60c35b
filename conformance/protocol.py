"""What an engine is asked, and the one method by which it answers, whatever it is written in.

Names of inputs and outputs, by verb:

| verb | inputs | attributes | outputs |
|---|---|---|---|
| describe | | | embed_dim, resolution, context_length, vocab_size: whole numbers, shape [] |
| tokenize | texts: a JSON list of texts, UTF-8, as uint8 | truncate, context_length | ids [N, T], any integer type |
| preprocess | image: the bytes of a PNG file, as uint8 | resolution | pixels [3, R, R] float32 |
| operation | the operation's arrays by name | name, and the operation's numbers | y |
| encode_image | pixels [N, 3, R, R] float32 | | embeddings [N, E] float32 |
| encode_text | ids [N, T] int64, T the context length | | embeddings [N, E] float32 |
| trace_image, trace_text | as encode_* | | activations by their names in the checkpoint; the last may be "embeddings" |
| embed_image | image, as preprocess | | embeddings [1, E] float32 |
| embed_text | texts, as tokenize | | embeddings [N, E] float32 |
| compare | image, and texts, as above | | similarity [N] float32, the cosines |
| similarity | image [N, E], text [M, E] float32, logit_scale [] float32 (the logarithm) | | cosines, logits [N, M] |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Outputs: TypeAlias = Mapping[str, Array]
# The errors of a correct engine: of each output by name, in each precision.
Units: TypeAlias = Mapping[str, Mapping[str, float]]
# How near pixels have to be: as they are, or with the tolerance of tolerance.py.
PIXELS = ("exact", "as-torchvision")


@dataclass(frozen=True)
class Case:
    """One question. `checkpoint` is a folder with model.safetensors and config.json, where the verb needs a model.

    Its name is that of the model, unique, and safe as a file's name: "vit-a-plain".
    """

    id: str  # "towers/vit-a plain/image"
    level: str
    verb: str
    claims: tuple[str, ...]  # ids of SPEC.md
    inputs: Mapping[str, Array]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Exact:
    """The right outputs of a case, and for each by how much a correct engine errs, by precision (units.py).

    Errors are the largest difference relative to the root mean square of what is right. An output that has no units is
    compared for equality. `bits`: what the original itself gives in float32; who gives the same is exact. `refused`:
    what the original refuses to answer; an engine passes if it raises anything that doesn't decline, or, where it is a
    program, ends with another code than 0 and 3, and fails if it answers or hangs.
    """

    outputs: Outputs
    units: Units = field(default_factory=dict)
    bits: Outputs = field(default_factory=dict)
    refused: str = ""  # "a text of 76 tokens"
    digest: str = ""  # instead of pixels: the sha256 of their levels [R, R, 3], where nothing here can make them


@dataclass(frozen=True)
class Question:
    """A case that has not been made yet: making it may write a checkpoint of gigabytes."""

    id: str
    level: str
    verb: str
    claims: tuple[str, ...]
    make: Callable[[Path], Case]  # in a folder for checkpoints, which are reused where they exist
    exact: Callable[[Case], Exact]
    model: str = ""  # the name of its checkpoint, if it has one
    # The units that Exact has of it, measured anew; None where there are none, or another question's. See units.py.
    measure: Callable[[Case, Exact], Units] | None = None


class Unsupported(Exception):
    """Raised by an engine that doesn't do what is asked; the case is skipped, and counts neither way.

    NotImplementedError counts as the same.
    """


class EngineUnderTest(Protocol):
    """Anything that answers cases: a Python object, ONNX files, a program, a folder of results, a server."""

    def answer(self, case: Case) -> Outputs:
        """The outputs by name. Raises Unsupported; anything else that is raised is the case's verdict."""
