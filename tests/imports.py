"""What source files import, read from their text."""

import ast
from collections.abc import Collection, Iterator
from pathlib import Path


def mentions(path: Path, words: Collection[str]) -> bool:
    """Whether a file has one of these words anywhere, which is found out sooner than what it imports."""
    text = path.read_text(encoding="utf-8")
    return any(word in text for word in words)


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, also by `import_module` of a literal; relative ones begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
