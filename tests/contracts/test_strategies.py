"""Every strategy: pure, terminating, and with tables that cover the groups of every backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from topgraft.models.registry import BACKBONES
from topgraft.strategies import STRATEGIES
from topgraft.strategies.defaults import SELECTION_MINIMUM
from topgraft.strategies.facts import HEAD, Facts
from topgraft.strategies.history import EpochRecord, pack
from topgraft.strategies.plan import Phase, Rule, frozen_prefix, table

OWN = (HEAD, Phase("mine", (Rule("head", 1.0), Rule("*", 0.1)), 2, 1e-4))
FEW = Facts(train_images=100, val_images=20, classes=3, epochs=4, phases=OWN)
MANY = replace(FEW, train_images=5000, val_images=1000)
RANDOM = replace(FEW, pretrained=False)


def history_of(
    strategy: str, groups: Sequence[str], facts: Facts, *, better: bool = True, seconds: float = 1.0
) -> list[EpochRecord]:
    """What a strategy hears where every phase is better, or worse, than the one before."""
    history: list[EpochRecord] = []
    for number in range(100):
        phase = STRATEGIES[strategy](groups, facts, tuple(history))
        assert phase == STRATEGIES[strategy](groups, facts, tuple(history))
        if phase is None:
            return history
        rows = table(groups, phase.rules)
        assert rows["head"] is not None
        n = facts.val_images + (facts.train_images if facts.val_images < SELECTION_MINIMUM else 0)
        share = 0.5 + (0.02 if better else -0.1) * number
        right = np.arange(n) < n * share
        for epoch in range(1, phase.epochs + 1) if phase.epochs else [0]:
            history.append(
                EpochRecord(
                    phase=number, name=phase.name, epoch=epoch, seconds=seconds, chosen=not phase.epochs,
                    hits=pack(right), scaled_loss=1.0, folds=phase.folds, lr=phase.lr,
                )
            )  # fmt: skip
    raise AssertionError("it does not end")


@pytest.mark.parametrize("facts", [FEW, MANY, RANDOM], ids=["few", "many", "random"])
@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=lambda b: b.name)
@pytest.mark.parametrize("name", STRATEGIES)
def test_phases_cover_the_groups_train_the_head_and_end(name: str, backbone, facts: Facts) -> None:  # type: ignore[no-untyped-def]
    if name == "partial" and not facts.pretrained:
        pytest.skip("random weights have nothing to keep")
    for better in (True, False):
        assert history_of(name, backbone.groups, facts, better=better)


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=lambda b: b.name)
@pytest.mark.parametrize("name", ["auto", "partial", "full"])
def test_rates_fall_towards_the_image_and_what_is_frozen_is_a_prefix(name: str, backbone) -> None:  # type: ignore[no-untyped-def]
    history: tuple[EpochRecord, ...] = tuple(history_of("head", backbone.groups, MANY))
    phase = STRATEGIES[name](backbone.groups, MANY, history)
    assert phase is not None
    rows = table(backbone.groups, phase.rules)
    rates = [rate for rate in rows.values() if rate is not None]
    assert rates == sorted(rates)
    assert len(frozen_prefix(rows)) + len(rates) == len(rows)
    assert len(rates) >= 2
