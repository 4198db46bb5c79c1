"""A phase that was interrupted anywhere ends where it would have ended, and does nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small import Noted, colored, pixels_of, same, small_classifier, state_of

from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, Rule, table
from topgraft.training import checkpoint
from topgraft.training.checkpoint import Checkpoint
from topgraft.training.inputs import PixelInputs
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.step import StepChoices
from topgraft.training.state import Position

STEPS = 26  # of an epoch: more than a block, after which a position is kept, and fewer than two
RULES = (Rule("stem", None), Rule("stage1", 0.5), Rule("head", 1.0))
ALL = (Rule("*", 1.0),)
CHOICES = StepChoices("adam", 2, "fp32", "cpu", schedule="cosine", keep_minutes=0.0, seed=3)


@pytest.fixture(scope="module")
def material() -> PixelInputs:
    return PixelInputs(pixels_of([*colored(2 * STEPS, 1), *colored(30, 2)]))


def run(
    classifier: Classifier, material: Noted, choices: StepChoices, rules: tuple[Rule, ...] = ALL, keep: Any = None,
    resumed: Position | None = None,
) -> list[EpochRecord]:  # fmt: skip
    rows = table(tuple(classifier.groups), rules)
    freeze.apply(dict(classifier.groups.items()), rows)
    phase = Phase("top", rules, 3, 0.003)
    train, val = np.arange(2 * STEPS), np.arange(2 * STEPS, 2 * STEPS + 30)
    made = run_phase(classifier, phase, 1, rows, material, train, val, choices, keep, resumed)
    return [replace(record, seconds=0.0) for record in made]


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({"optimizer": "sgd"}, ALL),
        ({"optimizer": "sgd", "l2": 1e-3, "ema": 0.9}, RULES),
        ({}, ALL),
        ({"l2": 1e-3, "mixup": 0.4}, RULES),
        ({"ema": 0.95, "mixup": 0.2, "label_smoothing": 0.1, "updates_batchnorm": True}, ALL),
        ({"optimizer": "adamw", "l2_sp": 0.1, "class_weights": np.array([1.0, 2.0, 0.5])}, ALL),
        ({"optimizer": "adamw", "ema": 0.5, "patience": 1}, RULES),
        ({"keep_last": True, "schedule": "constant", "precision": "bf16"}, ALL),
    ],
    ids=lambda given: "-".join(map(str, given)) if isinstance(given, dict) else "",
)
def test_it_ends_in_the_same_bits_from_every_position(
    material: PixelInputs, tmp_path: Path, options: dict[str, Any], rules: tuple[Rule, ...]
) -> None:
    choices = replace(CHOICES, **options)
    kept: list[tuple[Path, int, int]] = []

    def keep(position: Position) -> None:
        path = tmp_path / f"{len(kept)}.safetensors"
        checkpoint.write(path, Checkpoint(position.tensors, position.state))
        kept.append((path, position.state["now"]["epoch"] - 1, len(noted.log)))

    noted, straight = Noted(material), small_classifier()
    records = run(straight, noted, choices, rules, keep)
    if choices.patience is None:
        assert len(records) == 3
        assert len(kept) == 6, "within each epoch, and after it"
    for path, done, steps in kept:
        found = checkpoint.read(path)
        assert found is not None
        # Nothing may depend on the state that the groups that train happen to be in.
        again, more = small_classifier(seed=9), Noted(material)
        frozen = {name for name, row in table(tuple(again.groups), rules).items() if row is None}
        for name in frozen:
            again.groups[name].load_state_dict(small_classifier().groups[name].state_dict())
        rest = run(again, more, choices, rules, resumed=Position(found.tensors, found.state))
        assert rest == records[done:]
        assert more.log == noted.log[steps:], "an image was stepped on twice, or not at all"
        assert same(again.state_dict(), straight.state_dict())


def test_a_lowered_rate_stays_lowered(material: PixelInputs, tmp_path: Path) -> None:
    """What was found out before the interruption is not found out again."""
    straight, kept = small_classifier(), list[Position]()
    run(straight, Noted(material), CHOICES, keep=lambda position: kept.append(copied(position)))
    lowered = Position(kept[0].tensors, {**kept[0].state, "now": {**kept[0].state["now"], "lr": 1e-5}})
    records = run(small_classifier(), Noted(material), CHOICES, resumed=lowered)
    assert {record.lr for record in records} == {1e-5}


def test_an_interruption_leaves_the_best_epoch_in_evaluation_mode_and_in_plain_memory(
    material: PixelInputs,
) -> None:
    first = small_classifier()
    (one, *_) = run(first, Noted(material), CHOICES)
    straight = small_classifier()
    rows = table(tuple(straight.groups), ALL)
    freeze.apply(dict(straight.groups.items()), rows)
    ends = np.arange(2 * STEPS), np.arange(2 * STEPS, 2 * STEPS + 30)
    made = run_phase(straight, Phase("top", ALL, 3, 0.003), 1, rows, material, *ends, CHOICES)
    next(made)
    after_one = state_of(straight)
    made.close()
    assert same(straight.state_dict(), after_one)
    interrupted = small_classifier()
    # Three steps of a rehearsal, those of the first epoch, some of the second.
    noted = Noted(material, stop_at=3 + STEPS + 12)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, noted, CHOICES)
    assert same(interrupted.state_dict(), after_one)
    assert not any(module.training for module in interrupted.modules())
    assert all(p.is_contiguous() for p in interrupted.parameters())
    assert one.epoch == 1


def copied(position: Position) -> Position:
    return Position({key: torch.clone(tensor) for key, tensor in position.tensors.items()}, position.state)
