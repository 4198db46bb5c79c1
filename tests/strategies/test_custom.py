"""A user's own phases come in their order, and what cannot work is said before the work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from topgraft.errors import UsageError
from topgraft.strategies.custom import next_phase
from topgraft.strategies.facts import HEAD, Facts
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, Rule

GROUPS = ("stem", "stage1", "head")
TOP = Phase("top", (Rule("stem", None), Rule("*", 1.0)), 2, 1e-4)
ALL = Phase("all", (Rule("*", 1.0),), 1, 1e-5)
FACTS = Facts(100, 50, 3, phases=(HEAD, TOP, ALL))


def test_they_come_in_their_order() -> None:
    history: list[EpochRecord] = []
    for number, phase in enumerate(FACTS.phases):
        assert next_phase(GROUPS, FACTS, history) == phase
        history += [EpochRecord(number, phase.name, epoch, 1.0) for epoch in range(1, 3)]
    assert next_phase(GROUPS, FACTS, history) is None


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((), "needs --rules FILE"),
        ((HEAD, Phase("cold", (Rule("stem", 1.0), Rule("*", None)), 1, 0.1)), "'cold' freezes the head"),
        ((Phase("odd", (Rule("*", 1.0),)),), "'odd' has no epochs.*but stem, stage1 would train"),
        ((TOP, HEAD), "solves the head comes after 'top'"),
        ((HEAD, TOP, replace(HEAD, name="again")), "solves the head comes after 'top'"),
        ((HEAD, Phase("gap", (Rule("head", 1.0), Rule("stem", None)), 1, 0.1)), "no rule covers the groups stage1"),
        ((Phase("typo", (Rule("stage9", 1.0), Rule("*", 1.0)), 1, 0.1),), "'stage9'"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(phases: tuple[Phase, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next_phase(GROUPS, replace(FACTS, phases=phases), ())
