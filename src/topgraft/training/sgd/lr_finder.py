"""Learning-rate range test: raise the rate each step until the loss diverges."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.system import progress
from topgraft.training.inputs import TrainingInputs

from .optimizers import set_rates
from .step import Run, StepChoices, fuse_frozen, one_step, shuffled

STEPS = 60
SPAN = (1e-3, 1e3)
"""The test goes from a thousandth of the usual rate to a thousand times it, in equal factors."""

SMOOTHING = 0.8  # share of the mean until now in the running mean of the loss; a batch is too few images to go by
RISE = 0.2  # share of the chance loss by which the running mean may be above its lowest value
MARGIN = 10
"""How far the suggested rate is below the first unstable one. The test takes one step at each rate, and a
phase takes hundreds. A range test and what is read from it: Smith, https://arxiv.org/abs/1506.01186, section 3.3."""


def lr_range_test(
    classifier: Classifier,
    rows: Mapping[str, float | None],
    material: TrainingInputs,
    train: NDArray[np.int64],
    choices: StepChoices,
    usual: float,
    until: float = math.inf,
) -> tuple[float | None, list[tuple[float, float]]]:
    """The suggested learning rate, and the rates of the test with the smoothed loss at each.

    None where the time ended the test and all rates until then were stable: they say nothing about those above.

    It runs on a copy; the classifier is left as it is.

    Args:
        classifier: on the CPU; what it trains is set by `topgraft.models.freeze.apply`.
        rows: `topgraft.strategies.plan.table` of the phase's rules.
        material, train: what the phase trains on.
        choices: how it steps.
        usual: the default rate of its optimizer.
        until: when it ends at the latest, by ``time.perf_counter``; the rates above are then not tried.
    """
    twin = copy.deepcopy(classifier)
    freeze.apply(dict(twin.groups.items()), rows)
    twin.to(device=choices.device)
    run = Run(twin, rows, material, train, train[:0], replace(choices, l2_sp=0.0), {})
    run = replace(run, folded=fuse_frozen(run))
    optimizer = run.optimizer(1.0)
    rates = np.geomspace(SPAN[0] * usual, SPAN[1] * usual, STEPS)
    order = shuffled(train, choices.seed, 0)
    needed = STEPS * choices.batch_size
    endless = np.resize(order, needed)
    chance = run.chance
    losses: list[float] = []
    cut = False
    with progress.bar("range test", STEPS, "steps") as bar:
        for step, (images, labels) in enumerate(material.batches(endless, choices.batch_size, 1)):
            set_rates(optimizer, float(rates[step]))
            losses.append(float(one_step(run, optimizer, images, labels, (choices.seed, 0, step)).loss))
            bar.advance()
            if not is_stable(losses, chance):
                break
            cut = len(losses) < STEPS and time.perf_counter() > until
            if cut:
                break
    found = None if cut else suggest_lr(rates[: len(losses)].tolist(), losses, chance)
    return found, list(zip(rates.tolist(), smooth(losses), strict=False))


def smooth(losses: list[float]) -> list[float]:
    """Running means, of few losses as of many: the start does not pull."""
    total = weight = 0.0
    means = []
    for loss in losses:
        total = SMOOTHING * total + loss
        weight = SMOOTHING * weight + 1
        means.append(total / weight)
    return means


def is_stable(losses: list[float], chance: float) -> bool:
    """Whether training is stable at the last rate: the running mean of the loss is finite and not far above its
    lowest."""
    means = smooth(losses)
    return math.isfinite(means[-1]) and means[-1] <= min(means) + RISE * chance


def suggest_lr(rates: list[float], losses: list[float], chance: float) -> float:
    """A tenth of the first unstable rate, or of the last one if all are stable, rounded to two digits.

    Args:
        rates: ascending.
        losses: one for each rate.
        chance: see `topgraft.training.sgd.divergence.chance_loss`.
    """
    first = next((rate for at, rate in enumerate(rates) if not is_stable(losses[: at + 1], chance)), rates[-1])
    return float(f"{first / MARGIN:.1e}")
