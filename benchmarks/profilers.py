"""The profilers of the runtimes, all of one form: what each call did, in seconds of each kind of work.

An engine is made inside `with`, so that the profiler is there before its sessions are.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import kinds

from clipref.backends import HOOKS, operation_names
from clipref.kernels.runtime import onnxruntime, openvino


class Operator(NamedTuple):
    """What an operator took, without what it called."""

    name: str
    kind: str
    seconds: float


class Span(NamedTuple):
    """When a call began and ended, by the system's clock in nanoseconds."""

    begin: int
    end: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.begin) / 1e9


@dataclass
class Profile:
    """What a call did: its wall time, the seconds of each kind, and of the operators that no kind claims, by name."""

    wall: float
    kinds: dict[str, float] = field(default_factory=dict)
    unsorted: dict[str, float] = field(default_factory=dict)

    @property
    def other(self) -> float:
        """What the call took beyond its operators."""
        return self.wall - sum(self.kinds.values())


def sorted_profile(wall: float, operators: list[Operator], busy: float = 0.0) -> Profile:
    """Operators by kind. `busy`: seconds of all threads together, if they work side by side, where that is known."""
    side_by_side = max(busy / wall, 1.0)
    found = Profile(wall)
    for name, kind, seconds in operators:
        found.kinds[kind] = found.kinds.get(kind, 0.0) + seconds / side_by_side
        if kind == "unsorted":
            found.unsorted[name] = found.unsorted.get(name, 0.0) + seconds / side_by_side
    return found


class Profiler:
    """Runs calls, and tells afterwards what each did."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *reason: object) -> None:
        pass

    def prepared(self, engine: Any) -> Any:
        """The engine, ready to be profiled."""
        return engine

    def run(self, call: Callable[[], Any]) -> None:
        """Call, and keep what it did."""
        with self.recording():
            begin = time.time_ns()
            call()
            self.spans.append(Span(begin, time.time_ns()))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A context in which a call's operators are recorded."""
        yield

    def profiles(self) -> list[Profile]:
        """The profile of each call."""
        raise NotImplementedError


class OnnxRuntimeProfiler(Profiler):
    """ONNX Runtime's own, of every session that is made meanwhile.

    A session writes its profile once, so a call's operators are those of the time between its begin and its end.
    """

    def __enter__(self) -> Profiler:
        self.ort = onnxruntime()
        self.folder = tempfile.TemporaryDirectory()
        self.plain = self.ort.SessionOptions, self.ort.InferenceSession
        self.sessions: list[Any] = []

        def options() -> Any:
            made = self.plain[0]()
            made.enable_profiling = True
            made.profile_file_prefix = str(Path(self.folder.name) / "profile")
            return made

        def session(*arguments: Any, **named: Any) -> Any:
            made = self.plain[1](*arguments, **named)
            self.sessions.append(made)
            return made

        self.ort.SessionOptions, self.ort.InferenceSession = options, session
        return self

    def __exit__(self, *reason: object) -> None:
        self.ort.SessionOptions, self.ort.InferenceSession = self.plain
        for session in self.sessions:
            session.end_profiling()  # or it writes its file when it goes
        self.folder.cleanup()

    def profiles(self) -> list[Profile]:
        """The profile of each call; ends what is recorded."""
        events = []
        while self.sessions:
            session = self.sessions.pop()
            start = session.get_profiling_start_time_ns()
            found = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            events += [(start + event["ts"] * 1000, event) for event in found]
        return [
            self._profile(span, [event for at, event in events if span.begin <= at < span.end]) for span in self.spans
        ]

    def _profile(self, span: Span, events: list[dict[str, Any]]) -> Profile:
        operators, busy = [], 0.0
        for event in events:
            if event["cat"] == "Session" and event["name"] == "model_run":
                busy += event["dur"] / 1e6
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                name = event["args"]["op_name"]
                shapes = [shape for entry in event["args"].get("input_type_shape", []) for shape in entry.values()]
                operators.append(Operator(name, kinds.onnx_kind(name, shapes), event["dur"] / 1e6))
        return sorted_profile(span.seconds, operators, busy)


class OpenVinoProfiler(Profiler):
    """OpenVINO's own, of every model that is compiled meanwhile, by whichever Core: a process keeps one.

    What it tells of a node is the mean over all inferences of the compiled model so far; a call's time is what the sum
    has grown by.
    """

    def __enter__(self) -> Profiler:
        self.core = openvino().Core
        self.plain = self.core.compile_model
        self.compiled: list[_Compiled] = []
        self.found: list[list[Operator]] = []

        def compile_model(core: Any, model: Any, device_name: str, config: dict[str, Any]) -> _Compiled:
            made = _Compiled(self.plain(core, model, device_name, {**config, "PERF_COUNT": True}))
            self.compiled.append(made)
            return made

        self.core.compile_model = compile_model
        return self

    def __exit__(self, *reason: object) -> None:
        self.core.compile_model = self.plain

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A context in which a call's operators are recorded."""
        for compiled in self.compiled:  # with what was inferred before
            compiled.grown()
        yield
        self.found.append([operator for compiled in self.compiled for operator in compiled.grown()])

    def profiles(self) -> list[Profile]:
        """The profile of each call."""
        return [sorted_profile(span.seconds, found) for span, found in zip(self.spans, self.found, strict=True)]


class _Delegate:
    """Something that does all but what a subclass does by what it holds."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Compiled(_Delegate):
    """A compiled model, of one stream, that counts its inferences."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.inferences = 0
        self.request: Any = None
        self.sums: dict[str, float] = {}
        self.layers = {node.get_friendly_name(): _layers(node) for node in inner.get_runtime_model().get_ops()}

    def create_infer_request(self) -> _Request:
        """As OpenVINO's own, watched."""
        return _Request(self.inner.create_infer_request(), self)

    def grown(self) -> list[Operator]:
        """Its nodes, with what each took since this was last asked."""
        operators = []
        told: list[Any] = [] if self.request is None else self.request.get_profiling_info()
        for node in told:
            sum_ = node.real_time.total_seconds() * self.inferences
            grown = sum_ - self.sums.get(node.node_name, 0.0)
            self.sums[node.node_name] = sum_
            if grown > 0:
                kind = kinds.openvino_kind(node.node_type, self.layers.get(node.node_name, ""))
                operators.append(Operator(node.node_type, kind, grown))
        return operators


def _layers(node: Any) -> str:
    """The names of the layers that became a node of a compiled model."""
    told = node.get_rt_info()
    named = told["originalLayersNames"] if "originalLayersNames" in told else ""  # noqa: SIM401
    return str(getattr(named, "value", named))


class _Request(_Delegate):
    """A request that its compiled model knows of."""

    def __init__(self, inner: Any, compiled: _Compiled) -> None:
        super().__init__(inner)
        self.compiled = compiled

    def infer(self, *arguments: Any, **named: Any) -> Any:
        """As OpenVINO's own, counted."""
        found = self.inner.infer(*arguments, **named)
        self.compiled.inferences += 1
        self.compiled.request = self.inner
        return found


class TorchProfiler(Profiler):
    """torch's own, of the thread that calls; its other threads work within an operator."""

    def __enter__(self) -> Profiler:
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # it says on standard error when it starts and stops
        import torch

        self.torch = torch
        self.found: list[list[Operator]] = []
        # Kernels that torch.compile makes have a name then.
        torch._inductor.config.cpp.enable_kernel_profile = True
        return self

    def __exit__(self, *reason: object) -> None:
        self.torch._inductor.config.cpp.enable_kernel_profile = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A context in which a call's operators are recorded."""
        with self.torch.profiler.profile(activities=[self.torch.profiler.ProfilerActivity.CPU]) as profile:
            yield
        operators = []
        for event in profile.events():
            names, caller = [event.name], event.cpu_parent
            while caller is not None:
                names.append(caller.name)
                caller = caller.cpu_parent
            operators.append(Operator(event.name, kinds.torch_kind(names), event.self_cpu_time_total / 1e6))
        self.found.append(operators)

    def profiles(self) -> list[Profile]:
        """The profile of each call."""
        return [sorted_profile(span.seconds, found) for span, found in zip(self.spans, self.found, strict=True)]


class OperationsProfiler(Profiler):
    """A clock around every operation of a set of numpy's arrays, on every thread."""

    WITHIN = ("multiply", "_convolved")  # what `native` computes later than its operation is called

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()
        self.lock = threading.Lock()
        self.operators: list[Operator] = []
        self.busy = 0.0
        self.found: list[tuple[list[Operator], float]] = []

    def prepared(self, engine: Any) -> Any:
        """The engine, each of whose operations is timed, wherever it is called from."""
        hooks = [name for name in HOOKS if hasattr(engine.ops, name)]
        ops = SimpleNamespace(**{name: getattr(engine.ops, name) for name in (*operation_names(), *hooks)})
        owner = getattr(ops.linear, "__self__", None)
        for name in operation_names():
            timed = self.timed(name, getattr(ops, name))
            setattr(ops, name, timed)
            if owner is not None and hasattr(owner, name):
                setattr(owner, name, timed)
        for name in self.WITHIN:
            if hasattr(owner, name):
                setattr(owner, name, self.timed(name, getattr(owner, name)))
        ops.running = self.working(getattr(ops, "running", nullcontext))
        engine.ops = ops
        return engine

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time recorded less that of timed ones within."""
        kind = kinds.OPERATIONS.get(name, "unsorted")

        def call(*arguments: Any, **named: Any) -> Any:
            inner = getattr(self.local, "inner", 0.0)
            self.local.inner, start = 0.0, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                taken = time.perf_counter() - start
                self.operators.append(Operator(name, kind, taken - self.local.inner))
                self.local.inner = inner + taken

        return call

    def working(self, running: Callable[[], Any]) -> Callable[[], Any]:
        """The set's own context for towers, which adds up how long threads are within."""

        @contextmanager
        def timed() -> Iterator[None]:
            start = time.perf_counter()
            with running():
                yield
            with self.lock:
                self.busy += time.perf_counter() - start

        return timed

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A context in which a call's operators are recorded."""
        self.operators, self.busy = [], 0.0
        yield
        self.found.append((self.operators, self.busy))

    def profiles(self) -> list[Profile]:
        """The profile of each call."""
        return [sorted_profile(span.seconds, *found) for span, found in zip(self.spans, self.found, strict=True)]


def profiler_of(engine: str) -> Profiler:
    """The profiler for an engine of that name."""
    for beginning, profiler in PROFILERS.items():
        if engine.startswith(beginning):
            return profiler()
    raise SystemExit(f"No profiler for {engine!r}; there are some for names that begin with {', '.join(PROFILERS)}.")


PROFILERS: dict[str, Callable[[], Profiler]] = {
    "onnx": OnnxRuntimeProfiler,  # onnx, onnx-int8, and onnxruntime alone
    "openvino": OpenVinoProfiler,
    "torch": TorchProfiler,
    "transformers": TorchProfiler,
    "sentence-transformers": TorchProfiler,
    "reference": OperationsProfiler,
    "blas": OperationsProfiler,
    "native": OperationsProfiler,
}
