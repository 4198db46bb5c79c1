"""Write the options of each verb, from `settings/verbs.py`, into `api.py` and `FittedClassifier`.

    python tools/generate_api.py           write them
    python tools/generate_api.py --check   exit with 1 where they are stale

A signature that takes the options of a record has the line ``*,  # options of NAME``; every line from there to the end
of the parameters is generated, and so is each entry of the docstring's ``Args:`` that names one of them.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from topgraft.settings import verbs
from topgraft.settings.fields import default, heading
from topgraft.system.progress import QUIET_HELP

PACKAGE = Path(__file__).parents[1] / "src" / "topgraft"
FILES = [PACKAGE / "api.py", PACKAGE / "evaluation" / "results.py"]
MARK = "*,  # options of "
WIDTH = 120


def options_of(kind: type[Any]) -> list[Field[Any]]:
    """The fields of a record of options, by the groups of the help texts."""
    return sorted(fields(kind), key=lambda entry: verbs.HEADINGS.index(heading(kind, entry.name)))


def type_text(kind: type[Any], entry: Field[Any]) -> str:
    """The Python type of an option's argument, as source text."""
    python, options = entry.metadata["notation"].python, entry.metadata["options"]
    if python:
        return str(python)
    if options:
        return f"Literal[{', '.join(map(quoted, options))}]"
    kinds = get_args(get_type_hints(kind)[entry.name]) or (get_type_hints(kind)[entry.name],)
    names = ["StrPath" if k is Path else "None" if k is type(None) else k.__name__ for k in kinds]
    return " | ".join(names)


def quoted(value: Any) -> str:
    """A value as source text, in the quotes of the formatter."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def parameters(kind: type[Any], indent: str) -> list[str]:
    """The lines of the keyword list."""
    lines, group = [f"{MARK}{kind.__name__}"], ""
    for entry in options_of(kind):
        if heading(kind, entry.name) != group:
            group = heading(kind, entry.name)
            lines.append(f"# {group}")
        lines.append(f"{entry.name}: {type_text(kind, entry)} = {quoted(default(entry))},")
    return [indent + line for line in (*lines, "quiet: bool = False,")]


def entries(kind: type[Any], indent: str) -> list[str]:
    """The lines of ``Args:`` about the options; a default that the help text does not name is added."""
    texts = {}
    for entry in options_of(kind):
        text, usual = entry.metadata["help"], default(entry)
        texts[entry.name] = text if "default" in text else f"{text}; default: {usual}"
    texts["quiet"] = QUIET_HELP
    lines: list[str] = []
    for name, text in texts.items():
        inner = indent + " " * 8
        lines += textwrap.wrap(f"{name}: {text}.", WIDTH, initial_indent=inner[:-4], subsequent_indent=inner)
    return lines


def generated(source: str) -> str:
    """Source text with the generated lines as they should be.

    Raises:
        ValueError: a verb with options has no ``Args:`` with an entry of its own first.
    """
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for function in sorted(functions, key=lambda node: -node.lineno):
        head = range(function.lineno - 1, function.body[0].lineno - 1)
        mark = next((i for i in head if lines[i].lstrip().startswith(MARK)), None)
        if mark is None:
            continue
        kind = getattr(verbs, lines[mark].strip().removeprefix(MARK))
        indent = lines[mark].partition(MARK)[0]
        end = next(i for i in range(mark, head.stop) if lines[i].lstrip().startswith(")"))
        docstring = function.body[0]
        document = range(docstring.lineno - 1, docstring.end_lineno or 0)
        first = next((i for i in document if lines[i] == f"{indent}Args:"), None)
        if first is None:
            raise ValueError(f"{function.name} has no Args:")
        last = next(i for i in range(first, document.stop) if not lines[i].strip() or lines[i].strip() == '"""')
        named = {"quiet", *(entry.name for entry in fields(kind)), *(a.arg for a in function.args.kwonlyargs)}
        by_hand, keeps = [], True
        for line in lines[first + 1 : last]:
            if line[len(indent) + 4 :][:1] != " ":  # not the continuation of an entry
                keeps = line.strip().partition(":")[0] not in named
            by_hand += [line] if keeps else []
        lines[first + 1 : last] = by_hand + entries(kind, indent)
        lines[mark:end] = parameters(kind, indent)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    stale = [path for path in FILES if path.read_text(encoding="utf-8") != generated(path.read_text(encoding="utf-8"))]
    for path in stale:
        if arguments == ["--check"]:
            print(f"{path} differs from the declared options; run: python tools/generate_api.py", file=sys.stderr)
        else:
            path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
    return int(arguments == ["--check"] and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
