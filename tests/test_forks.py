"""A process that forks while one of its threads imports something: the child works, and the parent goes on."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from clipref.backends import backends
from clipref.images import opened_formats

from .recipe import RGB

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# An import that takes long: whoever comes to the module SLOW first stays in there while the process forks.
FORK = """
import importlib.abc, importlib.machinery, os, signal, sys, threading, time

inside, leave = threading.Event(), threading.Event()

class Slowly(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != SLOW or inside.is_set():
            return None
        inside.set()
        leave.wait(0.3)

def after_fork(use, first):
    signal.alarm(20)  # for a parent that hangs
    sys.meta_path.insert(0, Slowly())
    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10), "nobody imports " + SLOW
    child = os.fork()
    if not child:
        signal.alarm(10)
        use()
        os._exit(0)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0, "the child hangs"
"""


def forked(slow: str, code: str, *arguments: str) -> None:
    """Run code in a process of its own, because pytest's threads are not to be forked."""
    whole = f"SLOW = {slow!r}\n{FORK}{textwrap.dedent(code)}"
    command = [sys.executable, "-W", "ignore", "-c", whole, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


OPEN = "clipref.AutoModel.from_pretrained('clipref/shapes-vit', backend='blas')"


@pytest.mark.fast_cases("clipref.tokenizer")
@pytest.mark.parametrize(
    ("slow", "use"),
    [
        ("clipref.tokenizer", "clipref.tokenize('a cat')"),
        ("clipref.weights_tools.layouts", OPEN),
        ("onnx.helper", OPEN.replace("blas", "onnx")),
        pytest.param("clipref.tracing", OPEN, marks=pytest.mark.slow),
        pytest.param("clipref.kernels.fold", OPEN, marks=pytest.mark.slow),
        pytest.param("PIL.TiffImagePlugin", OPEN, marks=pytest.mark.slow),
    ],
)
def test_a_child_imports_what_a_thread_was_importing(slow: str, use: str) -> None:
    forked(slow, f"import clipref\nafter_fork(lambda: {use}, lambda: {use})")


def test_a_fork_waits_for_an_import_that_wants_the_lock_of_logging() -> None:
    """Of all hooks before a fork, ours comes first: whoever is inside may want the locks that the others take."""
    code = """
    from clipref.lazy import no_fork
    import logging

    def first():
        with no_fork:
            inside.set()
            leave.wait(0.3)
            logging.getLogger("clipref.test")

    after_fork(lambda: None, first)
    """
    forked("", code)


def test_a_fork_waits_for_whoever_hands_work_to_a_pool() -> None:
    code = """
    from clipref.lazy import no_fork
    from concurrent.futures import ThreadPoolExecutor

    def first():
        with no_fork, ThreadPoolExecutor(1) as pool:
            inside.set()
            leave.wait(0.3)
            pool.submit(int).result()

    after_fork(lambda: None, first)
    """
    forked("", code)


# Between the two lists of modules, everything is used that people do with a model.
USE = """
import pathlib, pickle, sys
from clipref import AutoModel

model = AutoModel.from_pretrained("clipref/shapes-vit", backend=sys.argv[2])
images = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[1]).iterdir())]
before = set(sys.modules)
errors = []
model.embed_images(images, on_error="skip", errors=errors, workers=2)
assert not errors, errors
for text in ("a cat", "sch\\u00c3\\u00b6n &amp; \\u00e9", "l\\u00e2\\u20ac\\u2122eau \\u00c3 la", "\\ufb03 \\u732b"):
    model.embed_text(text)
    model.classify(images[0], ["a cat", text])
model.search("a cat", model.embed_text(["a cat", "a dog"]))
model.compare(images[0], {"a": "a cat"})
model.trace(text="a cat")
pickle.loads(pickle.dumps(model)).digest
print(*sorted(set(sys.modules) - before))
"""


OF_EXTRAS = ("torch", "openvino")  # import more when they are first used


@pytest.mark.parametrize(
    "backend",
    [pytest.param(x, marks=[] if x == "blas" else pytest.mark.slow) for x in backends() if x not in OF_EXTRAS],
)
def test_a_model_that_is_open_imports_nothing_more(backend: str, tmp_path: Path) -> None:
    """So no thread of a user's can be in the middle of an import that a forked child needs."""
    Image.init()
    for kind in opened_formats():
        for mode in ("RGB", "P", "1", "RGBA", "I;16"):
            data = io.BytesIO()
            if kind in Image.SAVE:
                try:
                    RGB.convert("I" if mode == "I;16" else mode).convert(mode).save(data, kind)
                except (OSError, ValueError, DeprecationWarning):  # not this mode, or Pillow gives the format up
                    continue
                (tmp_path / f"{kind}-{mode.replace(';', '')}").write_bytes(data.getvalue())
    assert len(list(tmp_path.iterdir())) > 30
    command = [sys.executable, "-c", USE, str(tmp_path), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
