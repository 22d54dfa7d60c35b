"""A folder of pictures that answers questions: a store in the folder, searched, grouped, labelled and exported.

    from clipref.search import Index
    with Index("photos", "clip/ViT-B-32") as index:
        index.update()
        for hit in index.search("a dog on a beach", minus="people"):
            print(hit.score, hit.path)

`Embed` computes the same vectors inside of an engine of many machines. Every name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embed import Embed as Embed
    from .index import Index as Index
    from .query import Hit as Hit
    from .query import Term as Term
    from .store import StoreError as StoreError

_HOME = {"Embed": "embed", "Hit": "query", "Index": "index", "StoreError": "store", "Term": "query"}

__all__ = ["Embed", "Hit", "Index", "StoreError", "Term"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
