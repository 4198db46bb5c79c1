"""Declare a setting, read and check what a user gives, and write settings as JSON."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from topgraft.errors import UsageError

S = TypeVar("S")


@dataclass(frozen=True)
class Notation:
    """How the value of an option is written.

    Attributes:
        metavar: what stands for it in the command line's help; empty for that of its type.
        python: the type that Python takes, as source text; empty for that of the field.
        flag: False where the command line sets the value itself.
    """

    metavar: str = ""
    python: str = ""
    flag: bool = True


def choice(
    default: Any,
    help: str,
    options: tuple[str, ...] = (),
    low: int | None = None,
    share: bool = False,
    read: Callable[[Any], Any] | None = None,
    notation: Notation = Notation(),  # it cannot change
) -> Any:
    """Declare an option as a dataclass field; `make` checks its values.

    Args:
        low: the least whole number; what a fraction must be above.
        share: a fraction from 0 up to, but not including, 1.
        read: makes the value from what a user wrote, or raises.
    """
    metadata = {"help": help, "options": options, "low": low, "share": share, "read": read, "notation": notation}
    return field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """How a choice is written on the command line."""
    return "--" + name.replace("_", "-")


def make(kind: type[S], given: Mapping[str, Any]) -> S:
    """The settings record of a verb from the choices that a user gave.

    Raises:
        UsageError: an unknown name, a value of the wrong kind, out of range or not among the options.
    """
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    require_known(given, known)
    hints = get_type_hints(kind)
    return kind(**{name: _checked(known[name], hints[name], value) for name, value in given.items()})


def require_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name that is not known, with the known name that is closest to it.

    Raises:
        UsageError: the name, and which ones there are.
    """
    known = list(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; the settings are {', '.join(known)}"
            raise UsageError(f"there is no setting named {name}{hint}")


def changed(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options among a function's arguments that are not at their defaults.

    Python cannot tell a default that was written from one that was not: an option at its default counts as not given.
    """
    defaults = {entry.name: default(entry) for entry in fields(kind)}
    return {
        name: values[name]
        for name, usual in defaults.items()
        if not (type(values[name]) is type(usual) and values[name] == usual)
    }


def from_arguments(kind: type[S], values: Mapping[str, Any]) -> S:
    """The settings record of a verb from the arguments of its Python function, others ignored; see `make`."""
    return make(kind, changed(kind, values))


def heading(kind: type[Any], name: str) -> str:
    """The group of an option in help texts: the ``heading`` of the record that declares it."""
    owner = next(parent for parent in kind.__mro__ if name in parent.__annotations__)
    return str(owner.heading)  # type: ignore[attr-defined]


def base_type(hint: Any) -> type:
    """``int`` of ``int | None``: the type that a given value has."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    first: type = kinds[0] if get_origin(hint) is not tuple else hint
    return first


def default(entry: Field[Any]) -> Any:
    """The default of a settings field."""
    return None if entry.default is MISSING else entry.default


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON types, every field written out."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return os.fspath(value)
    if isinstance(value, tuple):  # phases, as `topgraft.strategies.plan_file.read_phases` takes them
        return [
            {"name": p.name, "epochs": p.epochs, "lr": p.lr, "rules": {r.pattern: r.lr_multiplier for r in p.rules}}
            for p in value
        ]
    return value


def _checked(entry: Field[Any], hint: Any, value: Any) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    if entry.metadata["read"] is not None:
        read = entry.metadata["read"](value)
        return read if entry.metadata["low"] is None else at_least(entry, read)
    kind = base_type(hint)
    if kind is Path and isinstance(value, str | os.PathLike):
        return Path(value).expanduser()
    if kind is str and isinstance(value, os.PathLike):  # a file where a name may also stand
        value = os.fspath(value)
    if type(value) is not kind:
        if kind is int and hasattr(value, "__index__") and not isinstance(value, bool):
            value = int(value)  # NumPy's integers
        elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = float(value)
        elif kind is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        else:
            raise UsageError(f"{entry.name} must be {_article(kind)}, not {value!r}")
    options = entry.metadata["options"]
    if options and value not in options:
        raise UsageError(f"{entry.name} must be one of {', '.join(options)}, not {value!r}")
    low = entry.metadata["low"]
    if kind is float and not math.isfinite(value):
        raise UsageError(f"{entry.name} must be a finite number, not {value}")
    if entry.metadata["share"] and not 0 <= value < 1:
        raise UsageError(f"{entry.name} must be at least 0 and below 1, not {value:g}")
    if kind is float and low is not None and value <= low:
        raise UsageError(f"{entry.name} must be more than {low}, not {value:g}")
    return value if low is None else at_least(entry, value)


def at_least(entry: Field[Any], value: Any) -> Any:
    if value < entry.metadata["low"]:
        raise UsageError(f"{entry.name} must be at least {entry.metadata['low']}, not {value}")
    return value


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "True or False", Path: "a path"}[kind]
