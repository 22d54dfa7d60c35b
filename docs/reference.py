"""The API reference, made of docstrings by pdoc: `python docs/reference.py FOLDER`, after `pip install -e '.[docs]'`.

Exits with 1, and names each place, where a public name has no docstring, where a docstring names something of clipref
that isn't there, or where pdoc warns.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.extract
import pdoc.render

import clipref

# The modules that have a page, in the order of the list of pages. What isn't here may change without a word.
PAGES = (
    "clipref",
    "clipref.classifier",
    "clipref.tokenizer",
    "clipref.preprocessing",
    "clipref.images",
    "clipref.config",
    "clipref.weights",
    "clipref.digests",
    "clipref.engine",
    "clipref.backends",
    "clipref.towers",
    "clipref.published",
    "clipref.ops",
    "clipref.tracing",
    "clipref.look",
    "clipref.learn",
    "clipref.search",
    "clipref.kernels.check",
    "clipref.conformance.protocol",
    "clipref.conformance.suite",
    "clipref.conformance.whose",
    "clipref.weights_tools.diff",
)
TEMPLATES = Path(__file__).parent / "templates"
ARRAY = re.compile(r"numpy\.ndarray\[tuple\[(?:typing\.)?Any, \.\.\.\], numpy\.dtype\[(?:typing\.Any|numpy\.(\w+))\]\]")
REFERENCE = re.compile(r"\bclipref(?:\.[A-Za-z_]\w*)+")


def public_objects(container: pdoc.doc.Namespace[Any]) -> Iterator[pdoc.doc.Doc[Any]]:
    """Every function and class of a module, and every method of its classes, that has a name of its own here."""
    for member in container.own_members:
        private = member.name.startswith("_") and member.name != "__init__"
        field = member.name in getattr(container.obj, "__annotations__", ())  # described by its class's docstring
        if private or field or isinstance(member, pdoc.doc.Variable | pdoc.doc.Module):
            continue
        if container.kind == "module" and not is_listed(container, member):
            continue
        yield member
        if isinstance(member, pdoc.doc.Class):
            yield from public_objects(member)


def is_listed(module: pdoc.doc.Namespace[Any], member: pdoc.doc.Doc[Any]) -> bool:
    """Whether a module's page shows a member: its own, or one that `__all__` names."""
    listed = getattr(module.obj, "__all__", None)
    return member.name in listed if listed is not None else member.taken_from[0] == module.modulename


def undocumented(module: pdoc.doc.Module) -> Iterator[str]:
    """The public names of a module without a docstring. A constructor's arguments may stand in its class's."""
    if not module.docstring:
        yield module.fullname
    for member in public_objects(module):
        if not member.docstring and member.name != "__init__":
            yield member.fullname


def dangling_references(module: pdoc.doc.Module) -> Iterator[str]:
    """What the docstrings of a module call `clipref.…`, and isn't there."""
    for member in (module, *public_objects(module)):
        for name in REFERENCE.findall(member.docstring):
            if not exists(name):
                yield f"{member.fullname} refers to {name}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:size]))
        except ImportError:
            continue
        for part in parts[size:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


class Annotation(str):
    """An annotation as it is to be read; inspect shows what isn't a type by its repr."""

    __repr__ = str.__str__


def shorten_arrays(signature: inspect.Signature) -> inspect.Signature:
    """The signature with `NDArray` for numpy's `ndarray[tuple[Any, ...], dtype[Any]]`, and `NDArray[float32]`."""

    def shorten(annotation: Any) -> Any:
        text = inspect.formatannotation(annotation)
        short = ARRAY.sub(lambda match: f"NDArray[{match[1]}]" if match[1] else "NDArray", text)
        return annotation if short == text else Annotation(short)

    parameters = [p.replace(annotation=shorten(p.annotation)) for p in signature.parameters.values()]
    return type(signature)(parameters, return_annotation=shorten(signature.return_annotation))


def main(folder: Path) -> int:
    """Write the pages into `folder`; print what is wrong with them, and return 1 if anything is."""
    specs = [PAGES[0], rf"!{PAGES[0]}\.", *PAGES[1:]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # A named tuple's constructor is made in a module without its names.
        warnings.filterwarnings("ignore", r"Error parsing type annotation ForwardRef.* for [\w.]+\.__init__")
        for name in clipref.__all__:
            getattr(clipref, name)  # pdoc sees what is loaded
        modules = [pdoc.doc.Module(pdoc.extract.load_module(name)) for name in pdoc.extract.walk_specs(specs)]
        wrong = [f"{name} has no docstring" for module in modules for name in undocumented(module)]
        wrong += [text for module in modules for text in dangling_references(module)]
        pdoc.render.configure(template_directory=TEMPLATES, footer_text=f"clipref {clipref.__version__}")
        format_signature = pdoc.render.env.filters["format_signature"]
        pdoc.render.env.filters["format_signature"] = lambda x, colon: format_signature(shorten_arrays(x), colon)
        pdoc.pdoc(*specs, output_directory=folder)
    wrong += [f"pdoc warns: {warning.message}" for warning in caught]
    print("\n".join([*wrong, f"{len(modules)} pages in {folder}, {len(wrong)} faults"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
