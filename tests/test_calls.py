"""Random calls of everything public with absurd arguments: a result or a ClipError, never another exception.

`python -m tests.test_calls 10000` makes as many calls as it is told, and counts what came of them.
"""

import io
import math
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

import clipref
from clipref import CLIP, AutoModel, ClipError

from .conftest import make_tiny, pictures


class Raising:
    """Looks like anything, and raises as soon as it is touched there."""

    ndim = 1
    dtype = np.dtype("O")

    def __init__(self, where: str, kind: type[Exception]) -> None:
        self.where, self.kind = where, kind

    def _touched(self, where: str) -> None:
        if where == self.where:
            raise self.kind(where)

    def __iter__(self) -> Iterator[Any]:
        self._touched("iter")
        yield "a cat"
        self._touched("next")

    def __len__(self) -> int:
        self._touched("len")
        return 1

    def __getitem__(self, key: Any) -> Any:
        self._touched("getitem")
        return "a cat"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self._touched("array")
        return np.zeros(3)

    def __bool__(self) -> bool:
        self._touched("bool")
        return True

    def __repr__(self) -> str:
        self._touched("repr")
        return "Raising()"

    def __fspath__(self) -> str:
        self._touched("fspath")
        return "gone.png"


class Unreadable(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("gone")


class NoNumber:
    """Has an `ndim` and a `dtype` that are none, as mocks do."""

    ndim = "two"
    dtype = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(name)


def ragged() -> Any:
    return [[1.0], [1.0, 2.0]]


def endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def itself(x: Any) -> Any:
    return x


PLACES = ("iter", "next", "len", "getitem", "array", "bool", "repr", "fspath", "nowhere")
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    10**6,
    10**30,
    -(10**5000),
    10**5000,
    0.0,
    1.5,
    1e308,
    math.nan,
    math.inf,
    1j,
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "a cat",
    "a photo of a {}",
    "{}",
    "a" * 3000,
    "a b c " * 40,
    "<|endoftext|>",
    "/",
    "/dev/null",
    "~nobody/x",
    "hf:",
    "hf:x",
    "clip/",
    "image",
    "text",
    "rgb",
    "onnx",
    "&#" + "1" * 5000 + ";",
    b"",
    b"a cat",
    b"GIF89a",
    Ellipsis,
    NotImplemented,
    int,
    CLIP,
    len,
    (),
    frozenset(),
    range(3),
    range(10**12),
    np.str_("a cat"),
    np.float32(1),
    np.int64(3),
    np.uint8(255),
    np.bool_(True),
    np.datetime64("2020-01-01"),
    np.ma.masked,
    Path("gone.png"),
    Path(),
    SimpleNamespace(ndim=2, shape=(3, 3)),
    SimpleNamespace(read=None),
)
# Made anew for each call, so that none can spoil the next.
ABSURD: list[Callable[[], Any]] = [
    *(partial(itself, x) for x in VALUES),
    *(lambda w=where, k=kind: Raising(w, k) for where in PLACES for kind in (ValueError, TypeError, RuntimeError)),
    *(
        lambda a=a: a.copy()
        for a in (
            np.zeros(()),
            np.zeros(0),
            np.zeros(22, np.float32),
            np.ones(22),
            np.full((2, 22), np.nan),
            np.ones((0, 22)),
            np.ones((3, 22), np.float16),
            np.full((2, 22), 1e300),
            np.zeros((2, 3), int),
            np.array("a cat"),
            np.array(["a cat", "dog"]),
            np.array([["a cat"], ["dog"]]),
            np.array(["a cat", None], object),
            np.array([b"x"]),
            np.array([1, "x", None], object),
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((2, 4, 4, 3), np.uint8),
            np.zeros((0, 4, 4, 3), np.uint8),
            np.zeros((1, 1, 1, 1, 1), np.uint8),
            np.zeros((1, 3, 30, 30), np.float32),
            np.full((1, 3, 30, 30), np.inf),
            np.zeros((1, 3, 30, 30), int),
            np.zeros((2, 3), np.complex64),
            np.array([[519, 5, 520]]),
            np.array([[2**63]], np.uint64),
            np.zeros((3, 3), "M8[s]"),
            np.zeros(2, [("a", "f4"), ("b", "U3")]),
            np.ma.masked_array(["a", "b"], [True, False]),
            np.ones((2, 22), bool),
        )
    ),
    list,
    dict,
    set,
    object,
    endless,
    ragged,
    NoNumber,
    Unreadable,
    io.BytesIO,
    io.StringIO,
    bytearray,
    lambda: memoryview(b"a cat"),
    lambda: {"a": "a cat"},
    lambda: {"a": None},
    lambda: {"a cat"},
    lambda: {"a": "a cat"}.items(),
    lambda: [None],
    lambda: [[]],
    lambda: [[["a cat"]]],
    lambda: ["a cat", 3],
    lambda: [b"a cat"],
    lambda: ["a cat", ""],
    lambda: [math.nan],
    lambda: ["{}"],
    lambda: [10**5000],
    lambda: iter(()),
    lambda: iter(["a cat"]),
    lambda: (x for x in [3]),
    lambda: io.BytesIO(b"GIF89a"),
    lambda: io.StringIO("a cat\ndog"),
    lambda: Image.new("RGB", (5, 4)),
    lambda: Image.new("CMYK", (5, 4)),
    lambda: Image.new("I;16", (5, 4)),
    lambda: [Image.new("RGB", (5, 4)), "gone.png"],
    lambda: [pictures(1)[0], None],
    lambda: zip("ab", "cd", strict=True),
]


@cache
def model() -> CLIP:
    return AutoModel.from_pretrained(tiny(), backend="reference")


@cache
def tiny() -> Path:
    return make_tiny(Path(tempfile.mkdtemp()), "vit")


def sound(name: str) -> Any:
    """A right argument of this name."""
    arguments: dict[str, Callable[[], Any]] = {
        "image": lambda: pictures(1)[0],
        "images": lambda: pictures(2),
        "pixels": lambda: np.zeros((1, 3, 30, 30), "f4"),
        "text": lambda: "a cat",
        "texts": lambda: ["a cat", "dog"],
        "ids": lambda: np.array([[519, 5, 520]]),
        "labels": lambda: ["cat", "dog"],
        "templates": lambda: ["a {}"],
        "query": lambda: "dog",
        "embeddings": lambda: np.ones((3, 22), "f4"),
        "subject": lambda: pictures(1)[0],
        "prompt": lambda: ["a cat", "dog"],
        "x": lambda: pictures(2),
        "y": lambda: ["a cat", "dog"],
        "name": lambda: str(tiny()),
        "dtype": lambda: "float32",
        "backend": lambda: "reference",
        "context_length": lambda: 77,
    }
    return arguments[name]()


# Every public function: its arguments that have to be given, then those that may be.
CALLS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "embed_image": (lambda **a: model().embed_image(**a), "image", "normalize input_color_format max_pixels"),
    "embed_images": (
        lambda **a: model().embed_images(**a),
        "images",
        "normalize input_color_format batch_size workers max_pixels on_error errors",
    ),
    "embed_text": (lambda **a: model().embed_text(**a), "text", "texts normalize truncate"),
    "tokenize": (lambda **a: model().tokenize(**a), "texts", "truncate"),
    "clipref.tokenize": (lambda **a: clipref.tokenize(**a), "texts", "context_length truncate"),
    "clipref.preprocess": (
        lambda **a: clipref.preprocess(**a),
        "image",
        "resolution input_color_format mean std interpolation resize_mode max_pixels upright",
    ),
    "encode_image": (lambda **a: model().encode_image(**a), "pixels", ""),
    "encode_text": (lambda **a: model().encode_text(**a), "ids", ""),
    "compare": (
        lambda **a: model().compare(**a),
        "subject prompt",
        "subject_type prompt_type input_color_format",
    ),
    "compare_embeddings": (lambda **a: model().compare_embeddings(**a), "x y", "x_type y_type input_color_format"),
    "classify": (lambda **a: model().classify(**a), "image labels", "templates top_k input_color_format"),
    "classifier": (lambda **a: model().classifier(**a), "labels", "templates"),
    "classifier.classify": (
        lambda **a: model().classifier(["cat"]).classify(**a),
        "image",
        "top_k input_color_format",
    ),
    "label_embeddings": (lambda **a: model().label_embeddings(**a), "labels", "templates"),
    "search": (lambda **a: model().search(**a), "query embeddings", "top_k query_type input_color_format"),
    "trace": (lambda **a: model().trace(**a), "", "image text pixels ids edit only input_color_format"),
    "from_pretrained": (
        lambda **a: AutoModel.from_pretrained(**a),
        "name",
        "model_id_or_path backend dtype config activation upright max_pixels revision digest threads device api_key",
    ),
    "AutoModel": (lambda **a: AutoModel(**a), "", "name"),
    "CLIP": (lambda **a: CLIP(**a), "", "checkpoint backend dtype"),
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A function's name and arguments, of which at least one is absurd."""
    name = draw(st.sampled_from(sorted(CALLS)))
    _, needed, possible = CALLS[name]
    every = [*needed.split(), *possible.split()]
    absurd = draw(st.sets(st.sampled_from(every), min_size=1, max_size=2))
    arguments = {key: draw(st.sampled_from(ABSURD))() for key in every if key in absurd}
    arguments |= {key: sound(key) for key in needed.split() if key not in absurd}
    if name == "CLIP":
        arguments.setdefault("checkpoint", "x")
    return name, arguments


def outcome(name: str, arguments: dict[str, Any]) -> str:
    """What came of a call. Raises whatever is neither a result nor a ClipError."""
    try:
        CALLS[name][0](**arguments)
    except ClipError as error:
        assert str(error) and "\0" not in str(error)
        return type(error).__name__
    return "result"


def never_touches_the_network(name: str, arguments: dict[str, Any]) -> bool:
    """Whether a call asks for no repository: those that these values name don't exist, but would be looked for."""
    names = (arguments.get("name"), arguments.get("model_id_or_path"))
    return name != "from_pretrained" or not any(isinstance(x, str) and x.startswith("hf:") for x in names)


FAST = settings(
    max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@FAST
@given(calls().filter(lambda call: never_touches_the_network(*call)))
def test_a_call_gives_a_result_or_a_clip_error(call: tuple[str, dict[str, Any]]) -> None:
    outcome(*call)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_right_arguments_give_a_result(name: str) -> None:
    if name not in ("AutoModel", "CLIP", "trace"):
        assert outcome(name, {key: sound(key) for key in CALLS[name][1].split()}) == "result"


def main(count: int) -> int:
    """Make that many calls, and print what came of them, and where each other exception was raised."""
    found: Counter[str] = Counter()

    @seed(count)
    @settings(FAST, max_examples=count, derandomize=False)
    @given(calls().filter(lambda call: never_touches_the_network(*call)))
    def run(call: tuple[str, dict[str, Any]]) -> None:
        try:
            found[outcome(*call)] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            frame = [frame for frame in frames if Path(clipref.__file__).parent in Path(frame.filename).parents][-1]
            found[f"{type(error).__name__} in {call[0]} at {frame.filename}:{frame.lineno}"] += 1

    run()
    print(f"{found.total()} calls")
    for name, times in found.most_common():
        print(f"{times:8} {name}")
    return int(any(" at " in name for name in found))


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
