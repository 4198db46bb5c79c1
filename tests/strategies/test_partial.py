"""The head is solved, then the groups from a named or suggested one on train."""

from __future__ import annotations

from dataclasses import replace

import pytest

from topgraft.errors import UsageError
from topgraft.strategies.facts import HEAD, Facts, unfrozen
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.partial import next_phase
from topgraft.strategies.plan import Phase

GROUPS = ("stem", "stage1", "stage2", "head")
FACTS = Facts(100, 50, 3, epochs=7, lr=2e-4, first="stage1")
SOLVED = [EpochRecord(0, "head", 0, 1.0)]


def test_it_solves_then_trains_then_stops() -> None:
    assert next_phase(GROUPS, FACTS, ()) == HEAD
    assert next_phase(GROUPS, FACTS, SOLVED) == Phase("partial from stage1", unfrozen(GROUPS, "stage1"), 7, 2e-4)
    trained = [*SOLVED, EpochRecord(1, "partial from stage1", 1, 1.0)]
    assert next_phase(GROUPS, FACTS, trained) is None


def test_without_a_name_the_probes_say_where() -> None:
    facts = replace(FACTS, first=None, probes={"stem": 0.9, "stage1": 0.8, "stage2": 0.7}, probe_images=50)
    phase = next_phase(GROUPS, facts, SOLVED)
    assert phase == Phase("partial from stage1", unfrozen(GROUPS, "stage1"), 7, 2e-4)
    phase = next_phase(GROUPS, replace(facts, probes={}), SOLVED)
    assert phase is not None
    assert phase.rules == unfrozen(GROUPS, "stage2")


def test_a_wrong_group_and_random_weights_are_refused_before_the_work() -> None:
    with pytest.raises(UsageError, match="one of stem, stage1, stage2, not 'stage4'"):
        next_phase(GROUPS, replace(FACTS, first="stage4"), ())
    with pytest.raises(UsageError, match="random weights know nothing; use full"):
        next_phase(GROUPS, replace(FACTS, pretrained=False), ())
