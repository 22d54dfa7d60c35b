"""The fast path: the recorded towers as ONNX Runtime executes them.

ONNX Runtime's own optimiser fuses the standard operators of recording.py; `OnnxRuntimeOps` has one of its own besides.
Weights are handed to the session beside the graph: those that lie in the checkpoint's file as they are needed, as a
place in that file; the others in memory. So there is no temporary file, and no protobuf near its 2 GiB.
Refuses float64, which ONNX Runtime's CPU kernels only partly have.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from clipref.backends import Traits
from clipref.errors import BackendError
from clipref.lazy import available_threads, no_fork, once, once_a_process
from clipref.weights import Checkpoint, DType, SafetensorsFile

from .batching import check_options, images_at_a_time, in_parts, positions_at_a_time, text_inputs, texts_in_parts
from .recording import Record, RecordingOps, Symbol, build, record_image, record_tree
from .runtime import onnxruntime

Array: TypeAlias = NDArray[Any]

CPU = "CPUExecutionProvider"

TRAITS = Traits(
    {"float32": "graded float32"},
    dtypes=("float32",),
    speed=lambda precision, kind, features: 2.6 if kind == "resnet" else 2.2,
)


class OnnxRuntimeOps(RecordingOps):
    """With ONNX Runtime's own operators where they save what the standard ones cost."""

    def linear(self, x: Symbol, weight: Array, bias: Array | None = None) -> Symbol:
        # Gemm takes the weight as it lies in the checkpoint; MatMul would need a transposed copy of every one.
        shape = (*x.shape[:-1], weight.shape[0])
        y = x.graph.emit("FusedMatMul", [x, weight], shape, domain="com.microsoft", transB=1)
        return y if bias is None else y + bias


@dataclass(frozen=True)
class Settings:
    """How ONNX Runtime runs sessions.

    `spinning` lets threads wait busily for the next call, which takes a core from whatever runs beside and makes the
    next call start sooner. `arena` keeps the memory of the largest call so far for the next ones; without it, memory
    is given back after every call.
    """

    threads: int
    providers: Sequence[Any] = (CPU,)
    spinning: bool = False
    arena: bool = True


class OnnxEngine:
    """ONNX Runtime sessions, made when they are first used: one a tower, and one for batches of images.

    A batch is shared out to as many threads as there are, each with whole items of its own: that needs no waiting for
    each other at every operation, and leaves none of them to one thread. Few items go through at a time, so that their
    activations stay in the cache. Measured, ViT-B-32 gains 5 % by it, ViT-L-14 9 %, ResNets nothing; so only ViTs are
    given the second session, which has weights of its own.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        visual: Callable[[], Record],
        text: Callable[[], Record],
        settings: Settings,
    ) -> None:
        """`visual` and `text` give what records the image tower, and the text tower for trees of tokens."""

        def lazily(
            record: Callable[[], Record], name: str, settings: Settings = settings, taps: bool = False
        ) -> Callable[[], Any]:
            def make() -> Any:
                checkpoint.file.check_unchanged()
                made = session(record(), name, settings, taps, checkpoint.file)
                checkpoint.file.check_unchanged()  # which ONNX Runtime has opened by its path meanwhile
                checkpoint.file.release()  # what the session needs it has by now
                return made

            # A session with one thread survives a fork, and the child shares its weights with the parent.
            return (once if settings.threads == 1 else once_a_process)(make)

        self._visual, self._text = lazily(visual, "visual"), lazily(text, "textual")
        self._visual_of_one_thread = lazily(visual, "visual, of one thread", replace(settings, threads=1))
        self._traced_visual = lazily(visual, "visual, traced", taps=True)
        self._traced_text = lazily(text, "textual, traced", taps=True)
        self._config = checkpoint.config
        vision = checkpoint.config.vision
        on_cpu = list(settings.providers) == [CPU]
        self._threads = settings.threads if on_cpu and vision.family == "vit" else 1
        self._at_a_time = images_at_a_time(vision, 1)
        # Large batches are what is fast elsewhere than on a CPU; whoever asks for that chooses their size.
        self._images = images_at_a_time(vision, settings.threads) if on_cpu else None
        self._positions = positions_at_a_time(settings.threads) if on_cpu else None
        self._pool = once_a_process(lambda: ThreadPoolExecutor(self._threads, thread_name_prefix="onnx"))

    def encode_image(self, pixels: Array) -> Array:
        """Preprocessed pixels [N, 3, R, R] float32 -> embeddings [N, E] float32."""
        if self._threads == 1 or len(pixels) < self._threads:
            whole = self._visual()
            return in_parts(lambda part: run(whole, {"pixels": part})["embeddings"], pixels, self._images)
        turns = -(-len(pixels) // (self._threads * self._at_a_time))
        made, parts = self._visual_of_one_thread(), np.array_split(pixels, turns * self._threads)
        return np.concatenate(list(self._pool().map(lambda part: run(made, {"pixels": part})["embeddings"], parts)))

    def encode_text(self, ids: Array) -> Array:
        """Token ids [N, T] -> embeddings [N, E] float32."""
        made = self._text()
        config = self._config.text
        return texts_in_parts(lambda part: run(made, part)["embeddings"][:, 0], ids, config, self._positions)

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array) -> Array:
        """Trees of tokens, as text_transformer.encode_tree has them -> embeddings [N, S, E] float32."""
        return run(self._text(), {"ids": ids, "positions": positions, "visible": visible, "ends": ends})["embeddings"]

    def trace_image(self, pixels: Array) -> dict[str, Array]:
        """Every named activation of the image tower, and `embeddings`. Takes a session, and its weights, of its own."""
        return run(self._traced_visual(), {"pixels": pixels})

    def trace_text(self, ids: Array) -> dict[str, Array]:
        """Every named activation of the text tower, and `embeddings` [N, 1, E], from a session of its own."""
        return run(self._traced_text(), text_inputs(ids, self._config.text))


def run(session: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a session by name."""
    names = [output.name for output in session.get_outputs()]
    given = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
    with no_fork:
        return dict(zip(names, session.run(names, given), strict=True))


def session(
    record: Record,
    name: str,
    settings: Settings,
    taps: bool = False,
    file: SafetensorsFile | None = None,
) -> Any:
    """An ONNX Runtime session of what is recorded; `file` as in `build`."""
    ort = onnxruntime()
    if file is not None and not is_utf8(file.path.resolve()):
        file = None  # ONNX Runtime takes no other paths, so the weights are handed over in memory
    model, weights = build(record, name, taps, file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.enable_cpu_mem_arena = settings.arena
    options.log_severity_level = 3
    # Threads that have nothing to do always spin within a call, because the next operation comes soon.
    options.add_session_config_entry("session.force_spinning_stop", "0" if settings.spinning else "1")
    if file is not None:
        folder = str(file.path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    # The weights are copied into the session (C API, AddExternalInitializers), so nothing of these need live on.
    values = {key: ort.OrtValue.ortvalue_from_numpy(value) for key, value in weights.items()}
    options.add_external_initializers(list(values), list(values.values()))
    try:
        # ONNX Runtime's own fallback is left out: it says on standard output that it leaves out what was asked for.
        with no_fork:
            made = ort.InferenceSession(
                model.SerializeToString(), options, providers=list(settings.providers), enable_fallback=False
            )
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise BackendError(f"ONNX Runtime can't run the tower {name!r}: {error}") from error
    _sessions.add(made)
    return made


def is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8, as its name on Linux need not be."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_sessions: WeakSet[Any] = WeakSet()


def _keep_for_ever() -> None:
    # A session's end would wait, in the child of a fork, for threads that only the parent has; the child never exited.
    for made in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep_for_ever)


def available() -> None:
    """Raise BackendError where ONNX Runtime or onnx is missing."""
    try:
        import onnx  # noqa: F401

        onnxruntime()
    except ImportError as error:
        raise BackendError(f"It needs onnx and onnxruntime ({error}): pip install onnx onnxruntime.") from error


def check_providers(providers: Any) -> None:
    """Raise BackendError unless these are execution providers that ONNX Runtime has here."""

    def is_provider(item: Any) -> bool:
        if isinstance(item, tuple) and len(item) == 2:
            return isinstance(item[0], str) and isinstance(item[1], dict)
        return isinstance(item, str)

    if not isinstance(providers, list | tuple) or not providers or not all(map(is_provider, providers)):
        raise BackendError(
            f"providers are {providers!r}; expected a list of at least one name, such as [{CPU!r}], or of pairs of a "
            f"name and a dict of its options."
        )
    there = onnxruntime().get_available_providers()
    missing = [name for p in providers if (name := p if isinstance(p, str) else p[0]) not in there]
    if missing:
        raise BackendError(f"ONNX Runtime has no {missing[0]} here; there are: {', '.join(there)}.")


def engine(
    checkpoint: Checkpoint,
    dtype: DType,
    *,
    threads: int | None = None,
    providers: Sequence[Any] = (CPU,),
    spinning: bool = False,
    arena: bool = True,
) -> OnnxEngine:
    """The engine of the backend `onnx`.

    `threads`: as many as the process may use, unless given. `providers`: ONNX Runtime's execution providers, in order
    of preference. `spinning`, `arena`: see Settings. Raises BackendError where ONNX Runtime lacks a provider,
    float64 is asked for, or an option is of another kind.
    """
    check_options("onnx", dtype, threads, spinning=spinning, arena=arena)
    check_providers(providers)
    config = checkpoint.config
    return OnnxEngine(
        checkpoint,
        lambda: record_image(config, checkpoint.unread_visual("float32"), OnnxRuntimeOps()),
        lambda: record_tree(config, checkpoint.unread_text("float32"), OnnxRuntimeOps()),
        Settings(threads or available_threads(), providers, spinning, arena),
    )
