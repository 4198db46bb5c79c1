"""Every strategy: pure, terminating, and with tables that cover the groups of every backbone."""

from __future__ import annotations

import pytest

from topgraft.backbones import BACKBONES
from topgraft.plan import table
from topgraft.records import EpochRecord
from topgraft.strategies import STRATEGIES
from topgraft.strategies.spec import Facts

FACTS = Facts(train_images=100, val_images=20, classes=3)


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=lambda b: b.name)
@pytest.mark.parametrize("name", STRATEGIES)
def test_phases_cover_the_groups_train_the_head_and_end(name: str, backbone) -> None:  # type: ignore[no-untyped-def]
    history: list[EpochRecord] = []
    for number in range(100):
        phase = STRATEGIES[name](backbone.groups, FACTS, tuple(history))
        assert phase == STRATEGIES[name](backbone.groups, FACTS, tuple(history))
        if phase is None:
            break
        assert table(backbone.groups, phase.rules)["head"] is not None
        history.append(EpochRecord(phase=number, name=phase.name, epoch=0, seconds=0.0))
    assert history
    assert phase is None
