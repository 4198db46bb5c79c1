"""The freeze table."""

from __future__ import annotations

import pytest

from topgraft.errors import UsageError
from topgraft.plan import Phase, Rule, frozen_prefix, table

GROUPS = ("stem", "stage1", "stage2", "head")


def test_first_matching_rule_wins_and_order_is_the_groups() -> None:
    rows = table(GROUPS, (Rule("head", 1.0), Rule("stage2", 0.1), Rule("*", None)))
    assert list(rows.items()) == [("stem", None), ("stage1", None), ("stage2", 0.1), ("head", 1.0)]
    assert frozen_prefix(rows) == ("stem", "stage1")


def test_uncovered_groups_are_named() -> None:
    with pytest.raises(UsageError, match="no rule covers the groups stem, head"):
        table(GROUPS, (Rule("stage*", None),))


def test_idle_rules_are_named() -> None:
    with pytest.raises(UsageError, match="'stage9'"):
        table(GROUPS, (Rule("stage9", None), Rule("*", 1.0)))
    with pytest.raises(UsageError, match="'head'"):
        table(GROUPS, (Rule("*", None), Rule("head", 1.0)))


def test_prefix_is_only_the_leading_frozen_groups() -> None:
    rows = table(GROUPS, (Rule("stage1", 0.5), Rule("*", None)))
    assert frozen_prefix(rows) == ("stem",)


def test_a_phase_without_epochs_solves() -> None:
    assert Phase("head", (Rule("*", None),)).solves_head
    assert not Phase("full", (Rule("*", 1.0),), epochs=2, lr=0.1).solves_head
