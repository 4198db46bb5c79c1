"""The range test: pure where it decides, and nothing is changed by it."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from support.small import colored, pixels_of, same, small_classifier, state_of

from topgraft.models import freeze
from topgraft.training.inputs import PixelInputs
from topgraft.training.sgd import lr_finder
from topgraft.training.sgd.lr_finder import MARGIN, STEPS, is_stable, lr_range_test, smooth, suggest_lr
from topgraft.training.sgd.step import StepChoices

CHANCE = math.log(3)
CHOICES = StepChoices("sgd", 16, "fp32", "cpu")
ROWS: dict[str, float | None] = {"stem": None, "stage1": 0.5, "head": 1.0}


def test_running_means_do_not_lean_towards_the_start() -> None:
    assert smooth([3.0]) == [3.0]
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smooth([1.0, 2.0])[1] == pytest.approx((0.8 * 1 + 2) / 1.8)


def test_the_suggestion_is_a_tenth_of_what_is_borne_no_longer() -> None:
    tried = [10.0 ** (k / 4) for k in range(-12, 5)]
    losses = [1.0] * 8 + [5.0] * 9
    assert not is_stable(losses[:9], CHANCE)
    assert suggest_lr(tried, losses, CHANCE) == float(f"{tried[8] / MARGIN:.1e}")
    assert suggest_lr(tried, [1.0] * 17, CHANCE) == float(f"{tried[-1] / MARGIN:.1e}")
    assert suggest_lr(tried, [1.0] * 4 + [math.nan], CHANCE) == float(f"{tried[4] / MARGIN:.1e}")
    assert suggest_lr(tried, losses, CHANCE) == suggest_lr(list(tried), list(losses), CHANCE)


def test_where_the_time_is_up_no_higher_rate_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, material = small_classifier(), PixelInputs(pixels_of(colored(48, 1)))
    freeze.apply(dict(classifier.groups.items()), ROWS)
    rate, curve = lr_range_test(classifier, ROWS, material, np.arange(48), CHOICES, 0.1, time.perf_counter())
    assert [tried for tried, _ in curve] == [pytest.approx(1e-4)]
    assert rate is None, "how far the clock let it go says nothing of the network"
    monkeypatch.setattr(lr_finder, "is_stable", lambda losses, chance: False)
    assert lr_range_test(classifier, ROWS, material, np.arange(48), CHOICES, 0.1, time.perf_counter())[0] is not None


def test_the_network_and_the_generator_are_left_as_they_are() -> None:
    classifier, material = small_classifier(), PixelInputs(pixels_of(colored(48, 1)))
    freeze.apply(dict(classifier.groups.items()), ROWS)
    before, random = state_of(classifier), torch.get_rng_state()
    wanted = [p.requires_grad for p in classifier.parameters()]
    one = lr_range_test(classifier, ROWS, material, np.arange(48), CHOICES, 0.1)
    assert same(classifier.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [p.requires_grad for p in classifier.parameters()] == wanted
    assert all(p.grad is None for p in classifier.parameters())
    assert not any(module.training for module in classifier.modules())
    assert lr_range_test(classifier, ROWS, material, np.arange(48), CHOICES, 0.1) == one
    rate, curve = one
    assert rate is not None
    assert len(curve) <= STEPS
    assert [r for r, _ in curve] == sorted(r for r, _ in curve)
    assert 1e-5 < rate < 100
