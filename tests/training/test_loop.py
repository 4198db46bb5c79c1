"""The loop asks the strategy, solves the head, and leaves every other group as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.fitted import fitted

from topgraft.errors import TopgraftError
from topgraft.evaluation.evaluate import head_logits
from topgraft.models.classifier import Classifier
from topgraft.strategies import STRATEGIES
from topgraft.strategies.facts import Facts
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase
from topgraft.training import head_phase, loop
from topgraft.training.head import Labeled
from topgraft.training.inputs import Inputs, PixelInputs
from topgraft.training.loop import Outcome, drain, train
from topgraft.training.sgd.step import StepChoices
from topgraft.training.state import TrainChoices

CHOICES = TrainChoices(None, False, 0, StepChoices("adam", 16, "fp32", "cpu"))


def some(count: int, seed: int) -> Labeled:
    """Rows of three classes that a linear head can tell apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centers = np.random.default_rng(9).normal(size=(3, 8)) * 2
    return Labeled((centers[labels] + random.normal(size=(count, 8))).astype(np.float32), labels.astype(np.int64))


def solve(classifier: Classifier, val: int = 240, **options: Any) -> tuple[list[EpochRecord], Outcome]:
    inputs = Inputs(features=(some(90, 0), some(val, 1)))
    return drain(train(classifier, STRATEGIES["head"], Facts(90, val, 3), inputs, replace(CHOICES, **options)))


def test_the_head_is_solved_and_nothing_else_moves() -> None:
    classifier = fitted().classifier
    before = {key: tensor.clone() for key, tensor in classifier.groups.state_dict().items()}
    records, outcome = solve(classifier)
    after = classifier.groups.state_dict()
    assert [key for key in before if not torch.equal(after[key], before[key])] == ["head.weight", "head.bias"]
    assert set(after) - set(before) == {f"head.norm.{name}" for name in ("root", "offset", "shortest", "radius")}
    rows = some(240, 1)
    with torch.inference_mode():
        answers = classifier.head(torch.from_numpy(rows.rows)).argmax(1).numpy()
    assert (answers == rows.labels).mean() > 0.9
    assert outcome.phases == {"head": {"stem": None, "head": 1.0}}
    (chosen,) = [record for record in records if record.chosen]
    how = {"normalization": chosen.normalization, "strength": chosen.strength, "shrinkage": chosen.shrinkage}
    assert how == {key: outcome.selection.get(key) for key in how}
    assert chosen.val_top1 is not None
    assert chosen.val_top1.n == 240
    assert chosen.val_top1.value == pytest.approx((answers == rows.labels).mean())


def test_a_frozen_group_that_moves_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    real = head_phase.solve

    def meddling(job: Any, *given: Any) -> Any:
        with torch.no_grad():
            next(job.classifier.groups["stem"].parameters()).mul_(1.5)
        return (yield from real(job, *given))

    monkeypatch.setattr(loop, "solve", meddling)
    with pytest.raises(TopgraftError, match="the frozen groups stem changed while the others trained"):
        solve(fitted().classifier)


def test_the_chosen_head_has_about_the_lowest_validation_loss() -> None:
    records, outcome = solve(fitted().classifier)
    (chosen,) = [record for record in records if record.chosen]
    assert len(records) > 3
    assert chosen.val_loss == pytest.approx(min(r.val_loss for r in records if r.val_loss is not None), rel=0.05)
    assert (outcome.selection["by"], outcome.selection["images"]) == ("validation", 240)


def test_few_validation_images_are_said_to_have_chosen_with_train() -> None:
    _, outcome = solve(fitted().classifier, val=30)
    assert (outcome.selection["by"], outcome.selection["images"]) == ("out-of-fold", 120)


def test_a_refit_ends_elsewhere_by_the_same_choice() -> None:
    one, two = fitted().classifier, fitted().classifier
    (records, outcome), (again, refitted) = solve(one), solve(two, refit=True)
    assert outcome == refitted
    assert outcome.before_refit is None
    assert refitted.before_refit is not None
    np.testing.assert_allclose(refitted.before_refit, head_logits(one, some(240, 1).rows), atol=1e-5)
    assert [r.val_loss for r in records] == [r.val_loss for r in again]
    assert not torch.equal(one.head.weight, two.head.weight)


def test_the_same_seed_gives_the_same_bits() -> None:
    one, two = fitted().classifier, fitted().classifier
    solve(one, val=30)
    solve(two, val=30)
    assert torch.equal(one.head.weight, two.head.weight)
    assert torch.equal(one.head.bias, two.head.bias)


def test_a_strategy_without_a_phase_is_an_error() -> None:
    def nothing(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        return None

    run = train(fitted().classifier, nothing, Facts(9, 9, 3), Inputs(features=(some(9, 0), some(9, 1))), CHOICES)
    with pytest.raises(TopgraftError, match="gave no phase"):
        drain(run)


def test_the_strategy_hears_the_facts_and_what_was_done() -> None:
    heard: list[tuple[Facts, int]] = []

    def listening(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        heard.append((facts, len(history)))
        return STRATEGIES["head"](groups, facts, history)

    inputs = Inputs(features=(some(90, 0), some(240, 1)))
    drain(train(fitted().classifier, listening, Facts(90, 240, 3), inputs, CHOICES))
    assert [facts for facts, _ in heard] == [Facts(90, 240, 3)] * 2
    assert heard[0][1] == 0
    assert heard[1][1] > 3


def test_a_phase_that_steps_trains_on_pixels_and_its_best_epoch_is_selected() -> None:
    from support.small import colored, pixels_of, small_classifier

    classifier = small_classifier()
    material = PixelInputs(pixels_of([*colored(60, 1), *colored(30, 2)]))
    inputs = Inputs(material=lambda phase, rows: material, train=np.arange(60), val=np.arange(60, 90))
    facts = Facts(60, 30, 3, epochs=3, lr=0.01, pretrained=False)
    records, outcome = drain(train(classifier, STRATEGIES["full"], facts, inputs, CHOICES))
    assert [record.epoch for record in records] == [1, 2, 3]
    assert outcome.phases == {"full": {"stem": 1.0, "stage1": 1.0, "head": 1.0}}
    best = max(
        records, key=lambda record: (record.val_top1.value if record.val_top1 else 0, -(record.scaled_loss or 0))
    )
    assert outcome.selection == {
        "by": "validation", "images": 30, "phase": "full", "epoch": best.epoch, "lr": 0.01,
    }  # fmt: skip
