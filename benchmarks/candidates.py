"""Every engine that can be measured here: the backends in each of their precisions, the peers that are installed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import peers

from clipref import backends, lazy
from clipref.errors import BackendError
from clipref.weights import Checkpoint

PRECISIONS = ("float32", "bfloat16", "int8")


class Candidate(NamedTuple):
    """An engine that can be made here: by a backend of clipref's (`ours`), or a peer."""

    name: str
    precision: str
    ours: bool
    make: Callable[[], Any]


def candidates(checkpoint: Checkpoint, tuned: bool = False) -> list[Candidate]:
    """Every peer and backend that can run here, a backend under its name and, but for its own choice, the precision.

    `tuned`: with the peers that tune themselves for minutes.
    """
    return [*_peers(checkpoint, tuned), *_backends(checkpoint)]


def chosen(checkpoint: Checkpoint, names: Collection[str], tuned: bool = False) -> dict[str, Candidate]:
    """Candidates by name, those that are named, or all. Exits where a name is none of theirs."""
    found = {candidate.name: candidate for candidate in candidates(checkpoint, tuned)}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise SystemExit(f"No engine {unknown[0]!r} here; there are: {', '.join(found)}.")
    return {name: candidate for name, candidate in found.items() if not names or name in names}


def engine_named(checkpoint: Checkpoint, name: str) -> Any:
    """The engine of a candidate's name, with nothing imported that it doesn't need: its memory is its own.

    Raises BackendError, or ImportError, where it can't run here.
    """
    for peer in (*peers.PEERS, *peers.TUNED):
        if peer.name == name:
            return peer(checkpoint, lazy.available_threads())
    backend, precision, options = parts_of(name)
    return backend_engine(backend, checkpoint, precision, **options)


def parts_of(name: str) -> tuple[str, str | None, dict[str, Any]]:
    """Backend, precision (None: the backend's own choice) and options that the name of one of our candidates says."""
    backend, *words = name.split()
    precision = words.pop() if words and words[-1] in PRECISIONS else None
    if words not in ([], ["compiled"]):
        raise SystemExit(f"No engine {name!r}; expected a peer, or a backend, and 'compiled' or a precision after it.")
    return backend, precision, {"compile": True} if words else {}


def make_all(found: dict[str, Candidate]) -> dict[str, Any]:
    """The engines of candidates. One that can't be made here is said to be left out, with the reason."""
    engines = {}
    for name, candidate in found.items():
        try:
            engines[name] = candidate.make()
        except BackendError as error:
            print(f"left out: {name}: {error}", flush=True)
        except Exception as error:  # of a peer, whatever its library raises
            if candidate.ours:
                raise
            print(f"left out: {name}: {type(error).__name__}: {error}", flush=True)
    return engines


def _peers(checkpoint: Checkpoint, tuned: bool) -> Iterator[Candidate]:
    threads = lazy.available_threads()
    for peer in peers.installed(checkpoint, tuned):
        yield Candidate(peer.name, peer.precision, False, partial(peer, checkpoint, threads))


def _backends(checkpoint: Checkpoint) -> Iterator[Candidate]:
    for backend in sorted(backends.backends(), key=lambda name: name != "reference"):
        about = backends.describe(backend)
        if not about["runs"]:
            continue
        stated = [precision for precision in about["precisions"] if precision in PRECISIONS]
        for precision in stated:
            name = backend if precision == stated[0] else f"{backend} {precision}"
            yield Candidate(name, precision, True, partial(backend_engine, backend, checkpoint, precision))
            if backend == "torch":
                compiled = partial(backend_engine, backend, checkpoint, precision, compile=True)
                yield Candidate(name.replace("torch", "torch compiled"), precision, True, compiled)


def backend_engine(backend: str, checkpoint: Checkpoint, precision: str | None, **options: Any) -> Any:
    """The engine of a backend in a precision. Raises BackendError where it can't run here."""
    return backends.make_engine(backend, checkpoint, "float32", precision=precision, **options).engine
