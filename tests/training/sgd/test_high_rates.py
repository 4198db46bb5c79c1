"""Warnings of a learning rate that is too high."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from topgraft import metrics
from topgraft.strategies import history
from topgraft.strategies.history import EpochRecord
from topgraft.training.sgd.high_rates import far_above, too_high
from topgraft.training.sgd.step import StepChoices

CHOICES = StepChoices("adam", 32, "fp32", "cpu")
TRAIN = np.arange(93) % 2
JUDGING = np.arange(100) % 2  # the largest class has 50


def after(loss: float, right: int, before: int | None = 95, lr: float = 0.05, **choices: Any) -> str | None:
    hits = history.pack(np.arange(100) < right)
    entry = EpochRecord(1, "full", 1, 1.0, loss, lr=lr, hits=hits, val_top1=metrics.wilson(right, 100), epochs=2)
    return too_high(entry, TRAIN, JUDGING, before, replace(CHOICES, **choices))


def test_a_rate_far_above_the_default_is_said_with_the_factor_and_what_to_do() -> None:
    (text,) = far_above([0.05, 0.05, 3e-3, 3e-4], "adam", pretrained=True)
    assert text.startswith("the learning rate 0.05 is 167 times the default, 0.0003: more than 10 times usually loses")
    assert "--find-lr" in text


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.01), ("sgd", 1.0)])
def test_random_weights_have_a_default_of_their_own(optimizer: str, rate: float) -> None:
    assert far_above([rate], optimizer, pretrained=False) == []
    (text,) = far_above([1.1 * rate], optimizer, pretrained=False)
    assert "learns nothing" in text


def test_a_loss_far_above_chance_is_said_with_the_default_rate() -> None:
    text = after(80.65, 60)
    assert text is not None
    assert "after epoch 1 of full the loss is 80.7, where chance is 0.693" in text
    assert text.endswith("Use --lr 0.0003, the default, or let --find-lr measure a rate")
    assert after(1.3, 94) is None
    assert after(2 * math.log(2) + 0.01, 94) is not None
    assert after(math.nan, 94) is not None


def test_an_accuracy_far_below_what_it_was_is_said() -> None:
    text = after(0.6, 70)
    assert text is not None
    assert "70.0 % of 100 images are right, where 95.0 % were before" in text
    assert after(0.6, 75) is None, "half of what was known is still known"
    assert after(0.6, 70, before=None) is None, "random weights knew nothing"
    assert after(0.6, 44, before=50) is None, "what knew nothing has lost nothing"
    assert after(0.6, 52, before=57) is None, "five images may be luck"
    assert after(0.6, 51, before=57) is not None


def test_at_the_default_a_lower_rate_is_named() -> None:
    text = after(9.0, 50, lr=3e-4)
    assert text is not None
    assert "Use --lr 3e-05, a tenth of it" in text


def test_who_ignores_stalls_is_not_told() -> None:
    assert after(80.65, 50, stalled="ignore") is None
