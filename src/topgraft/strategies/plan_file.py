"""Read phases from a TOML file (`--rules`) or from Python."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topgraft.errors import UsageError

from .plan import Phase, Rule


def read_phases(given: Any) -> tuple[Phase, ...]:
    """A user's own phases: from a TOML file, or as Python values.

    The file has one ``[[phase]]`` for each, in order, with ``name``, ``epochs`` and ``lr``, and a table ``rules`` of
    patterns to multipliers, or to ``"frozen"``; the first pattern that matches a group wins. Without ``epochs`` the
    head is solved on the features of the frozen base::

        [[phase]]
        name = "head"
        rules = { head = 1.0, "*" = "frozen" }

        [[phase]]
        name = "top"
        epochs = 3
        lr = 1e-4
        rules = { head = 1.0, "stage[67]" = 0.5, "*" = "frozen" }

    Args:
        given: the file's path; or a sequence of `Phase`, or of mappings with those keys.

    Raises:
        UsageError: no such file, or anything in it that is not as above; says where.
    """
    where, entries = "rules", given
    if isinstance(given, str | Path):
        where = str(given)
        try:
            with Path(given).expanduser().open("rb") as file:
                document = tomllib.load(file)
        except OSError as error:
            raise UsageError(f"the rules in {where} cannot be read: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{where} is not a TOML file ({error}); it has a [[phase]] for each phase") from None
        entries = document.pop("phase", None)
        if document:
            raise UsageError(f"{where} has {', '.join(document)} besides its phases; only [[phase]] is known")
    if not isinstance(entries, Sequence) or isinstance(entries, str | bytes) or not entries:
        raise UsageError(f"{where} has no phase; write a [[phase]] with rules for each")
    phases = tuple(
        _checked(entry, number, where) if isinstance(entry, Phase) else _phase(entry, number, where)
        for number, entry in enumerate(entries, start=1)
    )
    names = [phase.name for phase in phases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{where} has two phases named {', '.join(twice)}; give each a name of its own")
    return phases


_KEYS = {"name": str, "rules": Mapping, "epochs": int, "lr": float}


def _checked(given: Phase, number: int, source: str) -> Phase:
    """A `Phase` from Python, by the same rules as a table of a file."""
    if given != Phase(given.name, given.rules, given.epochs, given.lr):
        raise UsageError(
            f"phase {number} of {source} has folds, seconds, until or keep_last, which strategies decide on"
        )
    _phase({"name": given.name, "epochs": given.epochs, "lr": given.lr,
            "rules": {rule.pattern: rule.lr_multiplier for rule in given.rules}}, number, source)  # fmt: skip
    return given


def _phase(given: Any, number: int, source: str) -> Phase:
    where = f"phase {number} of {source}"
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} must be a table with name, rules, epochs and lr, not {given!r}")
    entry = {key: value for key, value in given.items() if value is not None}
    unknown = [str(key) for key in entry if key not in _KEYS]
    if unknown:
        raise UsageError(f"{where} has {', '.join(unknown)}; it may have {', '.join(_KEYS)}")
    for key, kind in _KEYS.items():
        value = entry.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (
            (isinstance(value, kind) and value is not True and value is not False) or (kind is float and whole)
        ):
            raise UsageError(f"{key} of {where} is {value!r}, which is not {_KINDS[kind]}")
    epochs, lr = entry.get("epochs", 0), float(entry.get("lr", 0.0))
    if not entry.get("rules"):
        raise UsageError(f'{where} has no rules; a last rule "*" covers all groups')
    if epochs < 0 or not 0 <= lr < float("inf"):
        raise UsageError(f"epochs and lr of {where} must not be below 0")
    if lr and not epochs:
        raise UsageError(f"{where} has a rate but no epochs; say how many, or leave lr out to solve the head")
    if epochs and not lr:
        raise UsageError(f"{where} has epochs but no rate above 0, so that nothing would move; give lr, as 1e-4")
    rules = tuple(Rule(str(pattern), _multiplier(value, where)) for pattern, value in entry["rules"].items())
    return Phase(entry.get("name", f"phase {number}"), rules, epochs, lr)


_KINDS: dict[Any, str] = {str: "text", Mapping: "a table", int: "a whole number", float: "a number"}


def _multiplier(value: Any, where: str) -> float | None:
    if value == "frozen" or value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UsageError(f'a rule of {where} is {value!r}; it is a multiplier above 0, or "frozen"')
    return float(value)
