"""Measure the structure of a checkout's source: files, functions, imports, logical lines.

    python -m benchmarks.structure [CHECKOUT [OTHER]]

prints one line for each number; with two checkouts also the ratio of the second to the first. A *room* is a folder or
file directly under the package; an *arrow* is an import from one room into another; a *floor* is a level of the
order in
which rooms only import from lower ones. A *logical line* is a statement of the tokenized source: docstrings, comments
and blank lines do not count, and a statement over several physical lines counts once.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "topgraft"
LONGEST_FILE = 200
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 7


def logical_lines(text: str) -> int:
    """Statements of a source text, by its tokens; a statement that is a string alone (a docstring) does not count."""
    count, tokens = 0, []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING):
            continue
        if token.type == tokenize.NEWLINE:
            count += bool(tokens) and any(kind != tokenize.STRING for kind in tokens)
            tokens = []
        elif token.type != tokenize.ENDMARKER:
            tokens.append(token.type)
    return count


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller gives: without ``self`` and ``cls``."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Modules of the package that a module imports, also inside functions, relative to the package."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
        elif (node.module or "").split(".")[0] == PACKAGE:
            base = (node.module or "").split(".")[1:]
            for alias in node.names:
                yield ".".join([*base, alias.name])
            continue
        else:
            continue
        for alias in node.names:
            yield ".".join([*base, *(node.module.split(".") if node.module else []), alias.name])


def floors(arrows: set[tuple[str, str]], rooms: set[str]) -> int:
    """Levels of rooms, where each lies above all that it imports; rooms that import each other share one."""
    level = dict.fromkeys(rooms, 0)
    for _ in rooms:
        changed = False
        for above, below in arrows:
            if (below, above) not in arrows and level[above] <= level[below] < len(rooms):
                level[above], changed = level[below] + 1, True
        if not changed:
            break
    return max(level.values()) + 1


def measure(checkout: Path) -> dict[str, int]:
    """The numbers of a checkout."""
    source = checkout / "src" / PACKAGE
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    entries = {path.name for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rooms = {name.removesuffix(".py") for name in entries} - {"__init__", "__main__"}
    arrows: set[tuple[str, str]] = set()
    for path, tree in trees.items():
        module = ".".join(path.relative_to(source).with_suffix("").parts)
        home = module.split(".")[0]
        arrows |= {(home, room) for name in imports(tree, module) if (room := name.split(".")[0]) in rooms - {home}}
    arrows = {(above, below) for above, below in arrows if above in rooms}
    found = [function for path, tree in trees.items() for function in functions(tree) if path.name != "api.py"]
    return {
        "files": len(texts),
        "physical lines": sum(len(text.splitlines()) for text in texts.values()),
        "logical lines": sum(logical_lines(text) for text in texts.values()),
        f"files over {LONGEST_FILE} lines": sum(len(t.splitlines()) > LONGEST_FILE for t in texts.values()),
        "longest file": max(len(text.splitlines()) for text in texts.values()),
        f"functions over {LONGEST_FUNCTION} lines": sum(
            (f.end_lineno or 0) - f.lineno + 1 > LONGEST_FUNCTION for f in found
        ),
        f"functions with over {MOST_PARAMETERS} parameters": sum(parameters(f) > MOST_PARAMETERS for f in found),
        "entries at the top": len(entries),
        "rooms": len(rooms),
        "floors": floors(arrows, rooms),
        "arrows": len(arrows),
    }


def main() -> None:
    """Print the numbers of one or two checkouts."""
    checkouts = [Path(argument) for argument in sys.argv[1:]] or [Path(__file__).parents[1]]
    columns = [measure(checkout) for checkout in checkouts]
    for name, value in columns[0].items():
        row = f"{name:<36}" + "".join(f"{column[name]:>10,}" for column in columns)
        print(row + (f"{columns[1][name] / max(value, 1):>9.2f}" if len(columns) == 2 else ""))


if __name__ == "__main__":
    main()
