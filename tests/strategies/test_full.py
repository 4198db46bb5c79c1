"""Every group trains: after the head where the weights know something, at once where they do not."""

from __future__ import annotations

from dataclasses import replace

from topgraft.strategies.facts import HEAD, Facts
from topgraft.strategies.full import next_phase
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, table

GROUPS = ("stem", "stage1", "head")
FACTS = Facts(100, 50, 3, epochs=4, lr=1e-4)


def test_published_weights_get_a_solved_head_first() -> None:
    assert next_phase(GROUPS, FACTS, ()) == HEAD
    history = [EpochRecord(0, "head", 0, 1.0)]
    phase = next_phase(GROUPS, FACTS, history)
    assert phase is not None
    assert (phase.name, phase.epochs, phase.lr) == ("full", 4, 1e-4)
    rates = list(table(GROUPS, phase.rules).values())
    assert None not in rates
    assert rates[0] < rates[1]
    assert next_phase(GROUPS, FACTS, [*history, EpochRecord(1, "full", 1, 1.0)]) is None


def test_random_weights_train_at_one_rate_in_one_phase() -> None:
    facts = replace(FACTS, pretrained=False)
    phase = next_phase(GROUPS, facts, ())
    assert isinstance(phase, Phase)
    assert table(GROUPS, phase.rules) == dict.fromkeys(GROUPS, 1.0)
    assert not phase.solves_head
    assert next_phase(GROUPS, facts, [EpochRecord(0, "full", 1, 1.0)]) is None
