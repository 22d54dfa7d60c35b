"""The pickle of a torch file, read without running any of it.

A pickle is a program for a small machine that builds objects by calling whatever it names. The machine here,
`unpickle`, can't call anything: it knows tensors, storages, containers, numbers, strings, and inert stand-ins for the
modules of a TorchScript archive. A pickle that names anything else is refused, and the error says what it asked for.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clipref.config import Shape
from clipref.errors import WeightsError

# A bound that honest checkpoints stay far below: ViT-bigG-14's pickle has 150 KB.
MAX_OPERATIONS = 600_000

# torch's storage classes: safetensors' name of the dtype, and numpy's.
STORAGES = {
    "DoubleStorage": ("F64", "<f8"),
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "<i1"),
    "ByteStorage": ("U8", "<u1"),
    "BoolStorage": ("BOOL", "<u1"),
}


@dataclass(frozen=True)
class Name:
    """Something that the pickle names. Never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Module:
    """The inert stand-in for a module of a TorchScript archive."""

    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Storage:
    """A persistent id: which member of the zip, of which dtype, how many numbers."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage, in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape


_MARK = object()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    axes = type(shape) is type(strides) is tuple and len(shape) == len(strides) <= 8
    if not axes or not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise WeightsError("its pickle describes a tensor whose offset, shape or strides make no sense.")
    if not isinstance(storage, Storage):
        raise WeightsError("its pickle describes a tensor without a storage.")
    return Tensor(storage, offset, shape, strides)


def _first(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> dict[Any, Any]:
    return {}


# All that can be "called". None does more than to put its arguments together, or takes longer if they are large.
_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "collections.OrderedDict": lambda: {},
    "torch.Size": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    # Values that training scripts save beside the weights: a device, numbers of numpy.
    "torch.device": _nothing,
    "numpy.dtype": _nothing,
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
    "_codecs.encode": _nothing,
}
# The parsed command line of a training script; a stand-in is made of it, as of a module.
_NAMESPACE = "argparse.Namespace"


# Calls that nobody saves, and what they would do: the program of the pickle calls it with arguments of its own.
_ATTACKS = {
    r"(os|posix|nt)\.(.*\.)?(system|popen|spawn|posix_spawn|exec|startfile)\w*": "run a command",
    r"(subprocess|pty|commands|popen2|webbrowser|asyncio\.subprocess)\..*": "run a command",
    r"(builtins|__builtin__)\.(.*\.)?(eval|exec|execfile|compile|__import__)": "run code",
    r"(runpy|importlib|imp|code|codeop|timeit|pdb|profile|cProfile|ctypes|marshal)\..*": "run code",
}


def _name(module: Any, name: Any) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise WeightsError("its pickle names something that is not a name.")
    found = Name(module, name)
    storage = module == "torch" and name in STORAGES
    script = (module == "__torch__" or module.startswith("__torch__.")) and "." not in name
    if str(found) not in (*_BUILDERS, _NAMESPACE) and not storage and not script:
        wanted = f"its pickle asks for {str(found)[:200]!r}"
        if action := next((action for pattern, action in _ATTACKS.items() if re.fullmatch(pattern, str(found))), None):
            raise WeightsError(
                f"{wanted}, and would {action} where pickle or an unguarded torch.load opens it: it is an attack. "
                "Nothing was run. Throw the file away, and tell whoever publishes it."
            )
        raise WeightsError(
            f"{wanted}, which no checkpoint of CLIP needs. Nothing was run. If you trust the file, open it with torch "
            "and save its state_dict alone; otherwise throw it away."
        )
    return found


def _describe(value: Any) -> str:
    """A value as an error names it: never the text of a container, which could be endless."""
    return repr(str(value)[:200]) if isinstance(value, Name) else f"a {type(value).__name__}"


def unpickle(data: bytes) -> Any:
    """The object that a pickle describes, built from plain values and the stand-ins above. Raises WeightsError."""
    # Globals are looked up first of all, so that a bad name is what the error is about, whatever else is wrong.
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if operation.name in ("GLOBAL", "INST"):
                _name(*str(argument).split(" ", 1))
            if count > MAX_OPERATIONS:
                raise WeightsError(f"its pickle has over {MAX_OPERATIONS} operations.")
        return _run(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, DeprecationWarning) as error:
        # The last, of an escape that no name has, is raised where warnings are errors.
        shown = f"{type(error).__name__}: {str(error)[:200]}"
        raise WeightsError(f"its pickle is damaged ({shown}). Fetch it again.") from error
    except (RecursionError, MemoryError) as error:
        raise WeightsError("its pickle is nested too deeply or claims too much. Fetch it again.") from error


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_mark() -> list[Any]:
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                items = stack[i + 1 :]
                del stack[i:]
                return items
        raise ValueError("no mark")

    def pop(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("stack underflow")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    argument: Any  # of the type that the operation has
    for operation, argument, _ in pickletools.genops(data):
        name = operation.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name == "MARK":
            stack.append(_MARK)
        elif name in _VALUES:
            stack.append(_VALUES[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(pop_mark()))
        elif name == "LIST":
            stack.append(pop_mark())
        elif name in ("APPEND", "APPENDS"):
            items = pop(1) if name == "APPEND" else pop_mark()
            if type(stack[-1]) is not list:
                raise ValueError("appends to what isn't a list")
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = pop(2) if name == "SETITEM" else pop_mark()
            if name == "DICT":
                stack.append({})
            if type(stack[-1]) is not dict:
                raise ValueError("sets an item of what isn't a dict")
            if not all(type(key) in (str, int) for key in items[::2]):
                raise ValueError("a dict's key is neither text nor number")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_name(*pop(2)))
        elif name == "BINPERSID":
            stack.append(_storage(*pop(1)))
        elif name == "NEWOBJ":
            cls, arguments = pop(2)
            known = isinstance(cls, Name) and (cls.module.startswith("__torch__") or str(cls) == _NAMESPACE)
            if not known or arguments != ():
                raise WeightsError(f"its pickle makes an object of {_describe(cls)}; expected a TorchScript module.")
            stack.append(Module())
        elif name == "BUILD":
            (state,) = pop(1)
            if isinstance(stack[-1], Module) and type(state) is dict:
                stack[-1].state = state
            elif type(stack[-1]) is not dict:  # a state_dict's _metadata is nothing that we need
                raise ValueError("sets the state of what isn't a module")
        elif name == "REDUCE":
            function, arguments = pop(2)
            if not isinstance(function, Name) or str(function) not in _BUILDERS or type(arguments) is not tuple:
                raise WeightsError(f"its pickle calls {_describe(function)}.")
            stack.append(_BUILDERS[str(function)](*arguments))
        else:
            raise WeightsError(f"its pickle uses the operation {name}, which torch never writes.")
    raise ValueError("no end")


_VALUES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"), lambda value: value
    ),
}


def _storage(identity: Any) -> Storage:
    """A persistent id: ("storage", class, key, device, how many numbers)."""
    if type(identity) is not tuple or len(identity) < 5 or identity[0] != "storage":
        raise WeightsError("its pickle has a persistent id that is not a storage's.")
    _, cls, key, _, numel = identity[:5]
    known = isinstance(cls, Name) and cls.module == "torch" and cls.name in STORAGES
    if not known or not isinstance(key, str) or type(numel) is not int:
        raise WeightsError(f"its pickle has a storage of {_describe(cls)}, which is not described as torch does.")
    return Storage(cls.name, key, numel)
