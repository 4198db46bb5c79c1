"""Curves of losses: what is lost, what is at chance, what holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from topgraft.training.sgd.divergence import BLOCK, at_chance, curve_of, has_diverged, is_learning, try_lower_lrs

CHANCE = math.log(4)


def test_a_curve_has_the_mean_of_each_full_block() -> None:
    losses = [1.0] * BLOCK + [2.0] * BLOCK + [9.0] * (BLOCK - 1)
    assert curve_of(losses) == ((BLOCK, 1.0), (2 * BLOCK, 2.0))
    assert curve_of([1.0] * (BLOCK - 1)) == ()


@pytest.mark.parametrize(
    ("first", "last", "lost"),
    [(0.1, 0.1, False), (0.1, 0.1 + 0.49 * CHANCE, False), (0.1, 0.1 + 0.51 * CHANCE, True), (0.1, 0.05, False),
     (CHANCE + 0.1, 9.0, False)],
)  # fmt: skip
def test_a_network_that_knew_something_has_lost_it_or_not(first: float, last: float, lost: bool) -> None:
    assert has_diverged([first] * 5 + [last] * BLOCK, CHANCE) == lost
    assert not has_diverged([first] * 5 + [last] * (BLOCK - 6), CHANCE), "too few to tell"


def test_a_network_that_lost_all_in_the_second_step_is_noticed() -> None:
    assert has_diverged([0.1, *[5 * CHANCE] * BLOCK], CHANCE)
    assert not has_diverged([0.1, *[0.7 * CHANCE] * BLOCK], CHANCE), "the first batch was an easy one"


@pytest.mark.parametrize(("images", "found"), [(2, 0.8), (32, 1.0)])
def test_luck_with_few_images_is_not_taken_for_a_loss(images: int, found: float) -> None:
    """Losses of single images are 0 mostly, and large at times: their means over 5 steps of 2 differ by themselves."""

    def steps(seed: int, count: int, mean: float, shape: float) -> list[float]:
        drawn = np.random.default_rng(seed).gamma(shape, mean / shape, (count, images))
        return [float(loss) for loss in drawn.mean(1)]

    def ever(losses: list[float]) -> bool:
        return any(has_diverged(losses[:end], CHANCE) for end in range(BLOCK, len(losses) + 1, BLOCK))

    seeds = range(200)
    assert sum(ever(steps(seed, 200, 0.7 * CHANCE, 0.25)) for seed in seeds) <= 0.05 * len(seeds)
    lost = [steps(seed, 10, 0.3 * CHANCE, 0.25) + steps(seed, 190, 1.5 * CHANCE, 1.0) for seed in seeds]
    assert sum(map(ever, lost)) >= found * len(seeds)


def test_a_fall_after_a_leap_is_no_luck() -> None:
    assert has_diverged([0.1, *(CHANCE * (1.2 + 6 * 0.8**step) for step in range(BLOCK))], CHANCE)


def test_at_chance_is_about_the_last_two_blocks() -> None:
    assert at_chance([0.1] * 100 + [CHANCE] * 2 * BLOCK, CHANCE)
    assert not at_chance([CHANCE] * 100 + [0.97 * CHANCE] * 2 * BLOCK, CHANCE)


def test_what_holds() -> None:
    assert is_learning([0.94 * CHANCE] * BLOCK, CHANCE, known=False)
    assert not is_learning([0.96 * CHANCE] * BLOCK, CHANCE, known=False)
    assert not is_learning([0.1] * (BLOCK - 1), CHANCE, known=False)
    assert not is_learning([0.1] * BLOCK + [math.nan] + [0.1] * BLOCK, CHANCE, known=True)
    assert is_learning([0.1] * 5 + [0.2] * BLOCK, CHANCE, known=True)
    assert not is_learning([0.1] * 5 + [CHANCE] * BLOCK, CHANCE, known=True)


def test_the_first_lower_rate_that_holds_is_named() -> None:
    def tried(rate: float) -> list[float]:
        asked.append(rate)
        return [0.5 if rate < 0.05 else CHANCE] * BLOCK

    asked: list[float] = []
    found = try_lower_lrs(1.0, [CHANCE] * 60, CHANCE, False, tried, 60)
    assert found is not None
    assert (found.lr, found.rate) == (1.0, pytest.approx(0.01))
    assert asked == pytest.approx([0.1, 0.01])
    assert set(found.curves) == {1.0, *asked}
    assert "--lr 0.01" in str(found)


def test_where_no_rate_does_better_only_a_loss_that_is_no_number_stops(capsys: pytest.CaptureFixture[str]) -> None:
    assert try_lower_lrs(1.0, [CHANCE] * 60, CHANCE, False, lambda rate: [CHANCE] * BLOCK, 60) is None
    assert "continuing" in capsys.readouterr().err
    found = try_lower_lrs(1.0, [0.1] * 59 + [math.nan], CHANCE, False, lambda rate: [CHANCE] * BLOCK, 60)
    assert found is not None
    assert found.rate is None
    assert "no lower rate was seen that" in str(found)
