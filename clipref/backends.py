"""Backends: how a name becomes an engine, what each backend states of itself, and which one `auto` takes.

`reference` is the numpy of clipref.ops. Every other backend is found by name through the entry-point group
`clipref.kernels`, and imported only when chosen, or when `auto` asks all for what they state. An entry point names a
module, which has either

- a function `engine(checkpoint, dtype, **options) -> Engine`, for a runtime of its own, or
- a function `operations(**options)` that makes a kernel set: some of the functions of clipref.ops, the rest of which
  falls back to the reference, and optionally `place` and the others of TowerEngine; or is itself such a set.

It may have a function `available()` that raises BackendError, with the reason, where the backend can't run, and
`TRAITS`, what it states of itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint
from inspect import Parameter, isfunction, signature
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from . import ops as reference_ops
from .architecture import Family
from .arguments import brief
from .config import ClipConfig
from .engine import Engine, NumpyEngine, ReferenceEngine
from .errors import BackendError
from .installed import entry_points
from .lazy import no_fork
from .peers import backend_advice, option_advice
from .transformer import Ops
from .weights import Checkpoint, DType

GROUP = "clipref.kernels"
Kind: TypeAlias = Family
Precision: TypeAlias = Literal["float64", "float32", "tf32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Functions that a kernel set may have beside operations; see TowerEngine.
HOOKS = ("calibrate", "prepare", "place", "fetch", "batch_size", "in_parts", "running", "compile")


def _no_speed(precision: str, kind: Kind, features: frozenset[str]) -> float:
    return 0.0


@dataclass(frozen=True)
class Traits:
    """What a backend states of itself; tests and `clipref kernels --check` hold it to that.

    `fidelity`: the precisions that it can compute in, the first being its own choice, and how near each comes.
    `dtypes`: those of the arrays that it takes and gives. `speed`: about how many times as fast as the reference it
    embeds images on a processor of these features, for a kind of model; `auto` takes the highest. 0: never unasked.
    """

    fidelity: Mapping[str, str] = field(default_factory=lambda: {"float32": "not stated", "float64": "not stated"})
    dtypes: tuple[str, ...] = ("float32", "float64")
    same_bits_in_any_batch: bool = False
    speed: Callable[[str, Kind, frozenset[str]], float] = _no_speed


class Chosen(NamedTuple):
    """An engine, the backend and the precision it is of, and how near that comes."""

    backend: str
    engine: Engine
    precision: str
    fidelity: str


REFERENCE = Traits(
    {"float32": "graded float32", "float64": "within 1e-10 of OpenAI's code in float64"},
    same_bits_in_any_batch=True,
    speed=lambda precision, kind, features: 1.0,
)


def backends() -> Mapping[str, EntryPoint | None]:
    """Every backend's name, and where it comes from; None is the reference."""
    return {"reference": None, **{entry.name: entry for entry in entry_points(group=GROUP)}}


@cache
def processor_features() -> frozenset[str]:
    """What this processor has, such as "avx512f" and "amx_bf16", by Linux's names; nothing where it can't be told."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":")[2] for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return frozenset()
    return frozenset(lines[0].split()) if lines else frozenset()


def kind_of(config: ClipConfig) -> Kind:
    """The family of image towers that a model's is of; of a text tower alone, which is a transformer too, "vit"."""
    return "resnet" if config.vision.family == "resnet" else "vit"


def traits(kernels: Any) -> Traits:
    """What a backend's module states; None is the reference."""
    stated: Traits = REFERENCE if kernels is None else getattr(kernels, "TRAITS", None) or Traits()
    return stated


def load(name: str) -> Any:
    """The module of a backend that can run here, None for the reference. Raises BackendError if it can't."""
    known = backends()
    there = f"there are: auto, {', '.join(sorted(known))}"
    if not isinstance(name, str):
        raise BackendError(f"backend is {brief(name)}; expected a name, or a list of names; {there}.")
    if name not in known:
        raise BackendError(f"No backend {name!r}; {there}.{backend_advice(name)}")
    entry = known[name]
    if entry is None:
        return None
    with no_fork:  # modules import what they need, some of them in these functions
        try:
            kernels = entry.load()
        except ImportError as error:
            raise BackendError(f"Backend {name!r} can't run here: {error}. Install what it needs.") from error
        if hasattr(kernels, "available"):
            kernels.available()
        if not hasattr(kernels, "engine"):
            _check_operations(name, operations(kernels))
    return kernels


def describe(name: str) -> dict[str, Any]:
    """What there is to say of a backend: what it overrides and states, whether it can run here, and why not."""
    entry = backends()[name]
    about: dict[str, Any] = {"module": reference_ops.__name__ if entry is None else entry.value}
    try:
        kernels = load(name)
    except BackendError as error:
        nothing: dict[str, Any] = {"precisions": {}, "speeds": {}, "same bits": False}
        return {**about, "overrides": "?", "runs": False, "why not": str(error), **nothing}
    stated = traits(kernels)
    if entry is None:
        overrides = "nothing"
    elif hasattr(kernels, "engine"):
        overrides = "everything: an engine of its own"
    else:
        overrides = ", ".join(own_operations(operations(kernels)))
    return {
        **about,
        "overrides": overrides,
        "runs": True,
        "why not": None,
        "precisions": dict(stated.fidelity),
        "speeds": {precision: _speeds(stated, precision) for precision in stated.fidelity},
        "same bits": stated.same_bits_in_any_batch,
    }


def _speeds(stated: Traits, precision: str) -> dict[str, float]:
    return {kind: stated.speed(precision, kind, processor_features()) for kind in get_args(Kind)}


def make_engine(
    name: str | Sequence[str], checkpoint: Checkpoint, dtype: DType, *, precision: str | None = None, **options: Any
) -> Chosen:
    """The engine of a backend, or of the first of several that runs here, or of the fastest if the name is "auto".

    `precision` is what it computes in: `dtype`, unless given or the backend has but another. Raises BackendError.
    """
    if precision is not None and (not isinstance(precision, str) or precision not in PRECISIONS):
        raise BackendError(f"precision is {brief(precision)}; expected one of {', '.join(PRECISIONS)}.")
    if precision is not None and (precision == "float64") != (dtype == "float64"):
        raise BackendError(
            f"precision is {precision!r}, dtype {dtype!r}; 'float64' is asked for by dtype, and excludes others."
        )
    if isinstance(name, str) and name == "auto":
        name, kernels = fastest(precision or dtype, kind_of(checkpoint.config), dtype, options)
    elif isinstance(name, list | tuple) and name:
        name, kernels = _first_that_runs(name)
    else:
        kernels = load(name)  # type: ignore[arg-type]
    name = str(name)
    stated = traits(kernels)
    if dtype not in stated.dtypes:
        raise BackendError(f"Backend {name!r} takes and gives float32, not {dtype}; use backend='reference'.")
    computed: str = precision or (dtype if dtype in stated.fidelity else next(iter(stated.fidelity)))
    if computed not in stated.fidelity:
        has = ", ".join(stated.fidelity)
        raise BackendError(f"Backend {name!r} has no precision {computed!r}; it has: {has}; 'auto' finds another.")
    make = getattr(kernels, "engine", None) or getattr(kernels, "operations", None)
    if "precision" in _option_names(kernels):
        options = {**options, "precision": computed}
    _check_options(name, options, kernels)
    engine: Engine
    if hasattr(kernels, "engine"):
        engine = kernels.engine(checkpoint, dtype, **options)
    elif kernels is None:
        engine = ReferenceEngine(checkpoint, dtype)
    else:
        engine = NumpyEngine(checkpoint, dtype, overlay(kernels if make is None else make(**options)))
    return Chosen(name, engine, computed, stated.fidelity[computed])


def operations(kernels: Any) -> Any:
    """The kernel set of a module: what its function `operations` makes, or the module itself."""
    return kernels.operations() if hasattr(kernels, "operations") else kernels


def operation_names() -> list[str]:
    """The names of all operations, in the order of clipref/ops.py."""
    module = reference_ops.__name__
    return [n for n, f in vars(reference_ops).items() if isfunction(f) and f.__module__ == module]


def own_operations(kernels: Any) -> list[str]:
    """The operations that a kernel set overrides."""
    return [n for n in operation_names() if hasattr(kernels, n)]


def overlay(kernels: Any) -> Ops:
    """The operations of a kernel set, and the reference's where it has none; and what else of TowerEngine's it has."""
    found = {n: getattr(kernels, n, getattr(reference_ops, n)) for n in operation_names()}
    return SimpleNamespace(**found, **{n: getattr(kernels, n) for n in HOOKS if hasattr(kernels, n)})


def _check_operations(name: str, kernels: Any) -> None:
    """Raise BackendError for a kernel set without a single operation, or with a misspelt one: the reference's would
    be computed under its name.
    """
    own, names = own_operations(kernels), operation_names()
    there = [n for n in dir(kernels) if not n.startswith("_") and n not in own and callable(getattr(kernels, n))]
    lacking = [n for n in names if n not in own]
    # Functions beside a set's operations are helpers, unless their names are all but an operation's.
    cutoff = 0.85 if own else 0.6
    near = [
        f"{n!r} (is it {m[0]!r}?)" for n in there if (m := difflib.get_close_matches(n.lower(), lacking, 1, cutoff))
    ]
    if own and not near:
        return
    has = f"; it has {', '.join(near or map(repr, there[:5]))}" if there else ""
    if own:
        raise BackendError(f"Backend {name!r} has a name that is nearly an operation's{has}. Rename it.")
    expected = ", ".join(names)
    raise BackendError(f"Backend {name!r} has no function of clipref.ops{has}. Expected at least one of: {expected}.")


def fastest(precision: str, kind: Kind, dtype: str, options: Collection[str] = ()) -> tuple[str, Any]:
    """The backend that states the highest speed in a precision on this processor, of those that run here and have the
    options. Raises BackendError if there is none.
    """
    known: dict[str, Any] = {}
    speeds: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, entry in backends().items():
        try:
            with no_fork:
                kernels = known[name] = None if entry is None else entry.load()
        except Exception as error:  # whatever somebody's module raises; who names the backend sees it
            reasons[name] = f"can't be imported ({type(error).__name__}: {error})"
            continue
        stated = traits(kernels)
        if precision not in stated.fidelity or dtype not in stated.dtypes:
            continue
        lacks = [option for option in options if not _has_option(kernels, option)]
        if lacks:
            reasons[name] = f"has no option {lacks[0]!r}"
        else:
            speeds[name] = stated.speed(precision, kind, processor_features())
    for name in sorted(speeds, key=lambda name: -speeds[name]):
        if speeds[name] > 0:
            try:
                return name, load(name)
            except BackendError as error:  # not installed, or not for this machine: the next one
                reasons[name] = f"can't run: {str(error).rstrip('.')}"
    there = sorted({option for kernels in known.values() for option in _option_names(kernels)})
    for option in options:
        if option not in there:
            raise BackendError(
                f"No backend has an option {option!r}; they have: {', '.join(there)}.{option_advice(option)}"
            )
    listed = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    with_options = " with these options" if options else ""
    advice = "".join(map(option_advice, options))
    raise BackendError(
        f"No backend computes in {precision} here{with_options}{': ' + listed if listed else ''}.{advice}"
    )


def _first_that_runs(names: Iterable[str]) -> tuple[str, Any]:
    reasons = []
    for name in names:
        try:
            return name, load(name)
        except BackendError as error:
            reasons.append(str(error))
    raise BackendError(" ".join(reasons))


def _parameters(kernels: Any) -> list[Parameter]:
    """The options of a backend."""
    if hasattr(kernels, "engine"):
        return list(signature(kernels.engine).parameters.values())[2:]
    return list(signature(kernels.operations).parameters.values()) if hasattr(kernels, "operations") else []


def _option_names(kernels: Any) -> list[str]:
    return [parameter.name for parameter in _parameters(kernels)]


def _has_option(kernels: Any, option: str) -> bool:
    return any(
        parameter.name == option or parameter.kind is Parameter.VAR_KEYWORD for parameter in _parameters(kernels)
    )


def _check_options(name: str, options: Mapping[str, Any], kernels: Any) -> None:
    known = [n for n in _option_names(kernels) if n != "precision"]
    for option in options:
        if not _has_option(kernels, option):
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise BackendError(f"Backend {name!r} has no option {option!r}; {has}.{option_advice(option)}")
