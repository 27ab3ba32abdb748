"""The part of this package that a server's model folder carries, read from the package's own imports.

The base install answers requests, but a server's Python need not have it: each version of a model brings the files that
its `model.py` imports, and so runs on the code that it was tried with.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import amtl_export

_PACKAGE = Path(amtl_export.__file__).parent


@cache
def vendored(program: str = "serving/triton_model.py") -> tuple[str, ...]:
    """Files of the package that a program of it imports, directly or not, relative to the package; sorted.

    Imports inside functions count; those for type checkers do not.

    Args:
        program: file of the package, which is not among them.
    """
    found: set[str] = set()
    waiting = [program]
    while waiting:
        new = {file for module in _imported(_PACKAGE / waiting.pop()) for file in _files(module)} - found
        found |= new
        waiting += sorted(new)
    return tuple(sorted(found))


def _files(module: str) -> list[str]:
    """Those of a module of the package, and of the packages that it is in; a name that is no module has only these."""
    parts = module.split(".")[1:]
    packages = ["/".join([*parts[:depth], "__init__.py"]) for depth in range(len(parts) + 1)]
    return [file for file in [*packages, "/".join(parts) + ".py"] if (_PACKAGE / file).is_file()]


def _imported(file: Path) -> Iterator[str]:
    """Dotted names of this package's modules that a file imports; of `from a import b`, both `a` and `a.b`."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.partition(".")[0] == "amtl_export")
