"""Look things up in the source code by its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import topgraft

SOURCE = Path(topgraft.__file__).parent


@cache
def trees() -> dict[str, ast.Module]:
    """Path of each module below the package → its syntax tree."""
    return {p.relative_to(SOURCE).as_posix(): ast.parse(p.read_text("utf-8")) for p in sorted(SOURCE.rglob("*.py"))}


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call of a function, as ``load_pixels`` or ``torch.load``, and the module that it is in."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == name or ("." not in name and called.endswith(f".{name}")):
                    yield path, node


def callers(name: str) -> set[str]:
    """The modules that call a function."""
    return {path for path, _ in calls(name)}


def users(expression: str) -> set[str]:
    """The modules that use an attribute, as ``Image.OPEN``, or set one of any object, as ``.requires_grad``."""
    return {
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (ast.unparse(node) == expression or (expression == f".{node.attr}" and isinstance(node.ctx, ast.Store)))
    }


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword; None where it gives none."""
    for entry in call.keywords:
        if entry.arg == name and isinstance(entry.value, ast.Constant):
            return entry.value.value
    return None


def imported(module: str) -> set[str]:
    """The modules that import a module of another package."""
    return {
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == module for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == module)
    }
