"""The freeze table: which groups train, how fast, for how long. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
