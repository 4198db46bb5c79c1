"""The freeze table: which groups train, how fast, for how long. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import UsageError


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


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training under one table.

    Attributes:
        name: what is shown for it, for example ``head``.
        rules: the table; see `table`.
        epochs: passes over the training images; 0 where the head is solved instead.
        lr: base learning rate; 0 where the head is solved instead.
    """

    name: str
    rules: tuple[Rule, ...]
    epochs: int = 0
    lr: float = 0.0

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
