"""What auto does next, for what it has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from topgraft.strategies.auto import next_phase, unfreeze_schedule, untried
from topgraft.strategies.defaults import FOLDS
from topgraft.strategies.facts import HEAD, Facts
from topgraft.strategies.history import EpochRecord, pack
from topgraft.strategies.plan import table

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")
RUNGS = ("stage3", "stage2", "stage1", "stem")
N = 400
FACTS = Facts(
    2000, N, 10, epochs=5, lr=1e-4,
    probes={"stem": 0.3, "stage1": 0.6, "stage2": 0.8, "stage3": 0.9}, probe_images=N,
    epoch_seconds={"stem": 8.0, "stage1": 4.0, "stage2": 2.0, "stage3": 1.0},
    budget=300.0, spent=10.0, reserve=5.0,
)  # fmt: skip


def record(phase: int, right: int, *, epoch: int = 1, seconds: float = 1.0, loss: float = 0.5, n: int = N,
           folds: int = 0, rung: str | None = None) -> EpochRecord:  # fmt: skip
    """By default of one rung after the other."""
    name = f"from {rung or RUNGS[phase - 1]}" if phase else "head"
    return EpochRecord(
        phase, name, epoch, seconds, chosen=epoch == 0, hits=pack(np.arange(n) < right), scaled_loss=loss,
        folds=folds, epochs=5 if epoch else 0,
    )  # fmt: skip


def first_of(rules) -> str:  # type: ignore[no-untyped-def]
    return next(group for group, rate in table(GROUPS, rules).items() if rate is not None)


def test_it_begins_with_the_head_and_thaws_from_the_top() -> None:
    assert next_phase(GROUPS, FACTS, ()) == HEAD
    history = [record(0, 300, epoch=0)]
    seen = []
    while (phase := next_phase(GROUPS, FACTS, history)) is not None:
        seen.append(first_of(phase.rules))
        assert phase.epochs == 5
        history.append(record(len(seen), 300 + 5 * len(seen)))
    assert seen == ["stage3", "stage2", "stage1", "stem"]


def test_solving_the_head_again_is_kept_from_the_budget() -> None:
    head = replace(record(0, 300, epoch=0), seconds=20.0)
    for solves, left in ((0, 300 - 10 - 5 - 20), (6, 300 - 10 - 5 - 7 * 20)):
        phase = next_phase(GROUPS, replace(FACTS, solves=solves), [head])
        assert phase is not None
        assert phase.seconds is not None
        assert phase.seconds <= left


@pytest.mark.parametrize(("right", "goes_on"), [(300, True), (299, True), (290, False), (200, False)])
def test_it_continues_unless_a_rung_is_clearly_worse(right: int, goes_on: bool) -> None:
    history = [record(0, 300, epoch=0), record(1, right)]
    assert (next_phase(GROUPS, FACTS, history) is not None) == goes_on


def test_a_rung_is_compared_with_the_best_and_not_with_the_last() -> None:
    history = [record(0, 300, epoch=0), record(1, 320), record(2, 319), record(3, 310)]
    assert next_phase(GROUPS, FACTS, history) is None


def test_a_budget_shortens_phases_and_then_ends() -> None:
    head = record(0, 300, epoch=0, seconds=20.0)
    tight = replace(FACTS, budget=40.0)
    phase = next_phase(GROUPS, tight, [head])
    assert phase is not None
    assert 1 <= phase.epochs < 5
    assert phase.seconds == pytest.approx(40 - 10 - 5 - 20)
    assert next_phase(GROUPS, replace(FACTS, budget=35.5), [head]) is None
    assert untried(GROUPS, replace(FACTS, budget=35.5), [head]) == "stage3"
    filling = replace(tight, setup_seconds={"stage3": 10.0})
    assert next_phase(GROUPS, filling, [head]) is None


def test_no_more_time_is_advised_for_what_has_just_lost() -> None:
    head, won, lost = record(0, 300, epoch=0), record(1, 320), record(2, 318, rung="stage2")
    assert untried(GROUPS, FACTS, [head, record(1, 320, rung="stage3")]) == "stage2"
    assert untried(GROUPS, FACTS, [head, record(1, 299, rung="stage3")]) is None, "worse, if not clearly"
    assert won.name == "from stage3"
    assert untried(GROUPS, FACTS, [head, won, lost]) is None
    assert untried(GROUPS, replace(FACTS, stalled=("from stage2",)), [head, won]) is None


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # Seconds of five epochs: 5, 10, 20, 40; of three: 3, 6, 12, 24. Before the first rung 16 are gone.
        (300, [("stage3", 5), ("stage2", 5), ("stage1", 5), ("stem", 5)]),
        (16 + 70, [("stage3", 5), ("stage2", 5), ("stage1", 5), ("stem", 3)]),
        (16 + 50, [("stage3", 5), ("stage2", 5), ("stem", 3)]),  # the third would leave too little for the last
        (16 + 30, [("stage3", 3), ("stem", 3)]),
        (16 + 27, [("stem", 3)]),
        (16 + 20, [("stage3", 5), ("stage1", 3)]),  # the last is out of reach from the start
        (16 + 2, [("stage3", 1)]),  # no rung has three
        (16 + 1, []),
    ],
)  # fmt: skip
def test_a_rung_that_would_leave_too_little_for_the_lowest_within_reach_is_passed_over(
    budget: float, expected: list[tuple[str, int]]
) -> None:
    facts, history = replace(FACTS, budget=float(budget)), [record(0, 300, epoch=0)]
    seen: list[tuple[str, int]] = []
    while (phase := next_phase(GROUPS, facts, history)) is not None:
        rung = first_of(phase.rules)
        seen.append((rung, phase.epochs))
        each = FACTS.epoch_seconds[rung]
        assert phase.seconds is not None
        assert phase.epochs * each <= phase.seconds
        number = len(seen)
        history += [record(number, 300 + number, epoch=e + 1, seconds=each, rung=rung) for e in range(phase.epochs)]
    assert seen == expected
    passed = [rung for rung in RUNGS if rung not in dict(seen)]
    assert untried(GROUPS, facts, history) == (passed[0] if passed else None)


def test_rungs_that_took_longer_than_predicted_make_the_next_ones_shorter() -> None:
    facts = replace(FACTS, budget=16.0 + 70)
    history = [record(0, 300, epoch=0), *(record(1, 301, epoch=e + 1, seconds=3.0) for e in range(5))]
    phase = next_phase(GROUPS, facts, history)
    assert phase is not None
    assert (first_of(phase.rules), phase.epochs) == ("stage1", 4), "three times as slow: the last is out of reach"
    history = [record(0, 300, epoch=0), *(record(1, 301, epoch=e + 1, seconds=0.1) for e in range(5))]
    phase = next_phase(GROUPS, facts, history)
    assert phase is not None
    assert (first_of(phase.rules), phase.epochs) == ("stage2", 5), "faster than predicted is not counted on"


def test_without_a_budget_nothing_ends_it_but_the_ladder() -> None:
    phase = next_phase(GROUPS, replace(FACTS, budget=None), [record(0, 300, epoch=0)])
    assert phase is not None
    assert (phase.epochs, phase.seconds) == (5, None)


def test_the_ladder_begins_where_features_stop_helping() -> None:
    far = replace(FACTS, probes={"stem": 0.5, "stage1": 0.9, "stage2": 0.89, "stage3": 0.7})
    assert unfreeze_schedule(GROUPS, far) == ("stage2", "stage1", "stem")
    assert unfreeze_schedule(GROUPS, FACTS) == ("stage3", "stage2", "stage1", "stem")
    flat = replace(FACTS, epoch_seconds={"stem": 1.2, "stage1": 1.15, "stage2": 1.1, "stage3": 1.0})
    assert unfreeze_schedule(GROUPS, flat) == ("stage3", "stem")


def test_few_validation_images_are_not_asked() -> None:
    few = replace(FACTS, train_images=200, val_images=100)
    head = record(0, 200, epoch=0, n=300)
    tried = next_phase(GROUPS, few, [head])
    assert tried is not None
    assert tried.folds == FOLDS
    assert tried.seconds is not None
    assert tried.seconds + 5 * 1.0 <= 300 - 10 - 5 - 1, "five epochs of the best rung are left to train it"
    worse = [record(1, 150, epoch=1, n=300, folds=FOLDS), record(1, 151, epoch=2, n=300, folds=FOLDS)]
    assert next_phase(GROUPS, few, [head, *worse]) is None
    better = [record(1, 220, epoch=1, n=300, folds=FOLDS), record(1, 240, epoch=2, n=300, folds=FOLDS)]
    candidates = [head, *better, record(2, 150, n=300, folds=FOLDS)]
    final = next_phase(GROUPS, few, candidates)
    assert final is not None
    assert (first_of(final.rules), final.folds) == ("stage3", 0)
    assert (final.epochs, final.until, final.keep_last) == (5, 2.0, True), "as it was judged"
    assert next_phase(GROUPS, few, [*candidates, record(3, 90, epoch=1, n=100)]) is None


@pytest.mark.parametrize(("loss", "trained"), [(0.5, False), (0.49, True)])
def test_a_rung_that_only_ties_with_the_head_in_folds_is_not_trained(loss: float, trained: bool) -> None:
    few = replace(FACTS, train_images=200, val_images=100)
    candidates = [record(number, 200, n=300, folds=FOLDS, loss=loss) for number in range(1, 1 + len(RUNGS))]
    final = next_phase(GROUPS, few, [record(0, 200, epoch=0, n=300), *candidates])
    assert (final is not None) == trained
    if final is not None:
        assert first_of(final.rules) == RUNGS[0], "of candidates that tie, the shallowest"


def test_random_weights_train_whole_and_a_learned_base_takes_no_steps() -> None:
    phase = next_phase(GROUPS, replace(FACTS, pretrained=False), ())
    assert phase is not None
    assert set(table(GROUPS, phase.rules).values()) == {1.0}
    assert phase.seconds == pytest.approx(300 - 10 - 5)
    assert next_phase(GROUPS, replace(FACTS, trainable=False), [record(0, 9, epoch=0)]) is None
