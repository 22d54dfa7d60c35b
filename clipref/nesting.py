"""Tensors by their dotted names, nested as the towers take them: all in memory, or each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def nest(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.0.w": x, "a.1.w": y} -> {"a": [{"w": x}, {"w": y}]}: dots nest, numbers count."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = tensor

    def to_lists(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if all(key.isdigit() for key in node):
            return [to_lists(node[str(i)]) for i in range(len(node))]
        return {key: to_lists(value) for key, value in node.items()}

    return {key: to_lists(value) for key, value in tree.items()}


class Unread(Mapping[str, Any]):
    """Nested tensors of which each is read whenever it is asked for, and kept by nobody but who asked.

    A tower's weights are laid out anew by most engines; so the memory of one tensor for each thread that
    does it is enough beside what they make.
    """

    def __init__(self, names: Mapping[str, Any], read: Callable[[str], Any]) -> None:
        """`names`: full names of tensors, nested by `nest`."""
        self._names, self._read = names, read

    def __getitem__(self, key: str) -> Any:
        return self._of(self._names[key])

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _of(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._of(part) for part in item]
        return self._read(item) if isinstance(item, str) else Unread(item, self._read)
