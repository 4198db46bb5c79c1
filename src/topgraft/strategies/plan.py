"""The freeze table: which groups train, how fast, for how long. Pure; no torch."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from topgraft.errors import UsageError
from topgraft.system.reprs import Overview, Shown


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the groups that a pattern matches.

    Attributes:
        pattern: a group's name, or a shell pattern over names (``stage*``). The first rule that matches wins.
        lr_multiplier: times the phase's learning rate; None freezes the group.
    """

    pattern: str
    lr_multiplier: float | None

    @property
    def frozen(self) -> bool:
        """Whether the rule freezes what it matches."""
        return self.lr_multiplier is None


def shares(train: int, val: int, folds: int) -> tuple[int, int]:
    """How many images each fold trains on, and how many judge it, where train and validation are tried together."""
    return (train + val) * (folds - 1) // folds, (train + val) // folds


def _overview(this: Phase) -> Overview:
    """What it trains, how fast and for how long."""
    rules = [f"{r.pattern} {'frozen' if r.lr_multiplier is None else f'{r.lr_multiplier:g}'}" for r in this.rules]
    facts = {"name": this.name, "epochs": str(this.epochs), "lr": f"{this.lr:g}", "rules": ", ".join(rules)}
    facts |= {"folds": f"{this.folds}" if this.folds else "", "until": "" if this.until is None else f"{this.until:g}"}
    return Overview("Phase", facts, one_line=True)


@dataclass(frozen=True, slots=True, repr=False)
class Phase(Shown, overview=_overview):
    """One stretch of training under one table.

    Attributes:
        name: what is shown for it, for example ``head``.
        rules: the table; see `table`.
        epochs: passes over the training images; 0 where the head is solved instead.
        lr: base learning rate; 0 where the head is solved instead.
        folds: if not 0, the phase is only tried: by cross-validation over train and validation together, from the
            state that it found, which is there again afterwards.
        seconds: wall time after which it ends early, with the best epoch until then; None for no limit.
        until: epochs after which it ends though its schedule is of more, a part of one included; None for all.
        keep_last: its last epoch stays, as how many there are was chosen before; else the best by validation.
    """

    name: str
    rules: tuple[Rule, ...]
    epochs: int = 0
    lr: float = 0.0
    folds: int = 0
    seconds: float | None = None
    until: float | None = None
    keep_last: bool = False

    @property
    def ends(self) -> int:
        """The last epoch, or the one within which it ends."""
        return self.epochs if self.until is None else math.ceil(self.until)

    @property
    def solves_head(self) -> bool:
        """Whether the phase solves the head on frozen features instead of stepping."""
        return self.epochs == 0


def table(groups: Sequence[str], rules: Sequence[Rule]) -> dict[str, float | None]:
    """Learning-rate multiplier of each group, in the groups' order; None where frozen.

    Raises:
        UsageError: a group that no rule covers, or a rule that matches no group.
    """
    rows: dict[str, float | None] = {}
    used: set[int] = set()
    uncovered: list[str] = []
    for group in groups:
        for number, rule in enumerate(rules):
            if fnmatchcase(group, rule.pattern):
                rows[group] = rule.lr_multiplier
                used.add(number)
                break
        else:
            uncovered.append(group)
    if uncovered:
        raise UsageError(
            f"no rule covers the groups {', '.join(uncovered)}; add a rule for each, "
            "or a last rule with the pattern '*'"
        )
    idle = [rule.pattern for number, rule in enumerate(rules) if number not in used]
    if idle:
        raise UsageError(
            f"the rules {', '.join(map(repr, idle))} match no group that an earlier rule had not taken; "
            f"the groups are {', '.join(groups)}"
        )
    return rows


def frozen_prefix(rows: Mapping[str, float | None]) -> tuple[str, ...]:
    """The leading frozen groups of a table: the part of the network that is computed once."""
    prefix: list[str] = []
    for group, multiplier in rows.items():
        if multiplier is not None:
            break
        prefix.append(group)
    return tuple(prefix)


def phase_from_json(entry: Mapping[str, Any]) -> Phase:
    """A phase from what ``dataclasses.asdict`` made of it."""
    return Phase(**{**entry, "rules": tuple(Rule(**rule) for rule in entry["rules"])})


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
            raise UsageError(f"{where} is no TOML file ({error}); it has a [[phase]] for each phase") from None
        entries = document.pop("phase", None)
        if document:
            raise UsageError(f"{where} has {', '.join(document)} beside its phases; only [[phase]] is known")
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
            raise UsageError(f"{key} of {where} is {value!r}, which is no {_KINDS[kind]}")
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


_KINDS: dict[Any, str] = {str: "text", Mapping: "table", int: "whole number", float: "number"}


def _multiplier(value: Any, where: str) -> float | None:
    if value == "frozen" or value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UsageError(f'a rule of {where} is {value!r}; it is a multiplier above 0, or "frozen"')
    return float(value)
