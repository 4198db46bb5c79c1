"""Ask the strategy for the next phase, run it, yield one record for each epoch or solve."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import freeze, metrics
from .classifier import Classifier
from .errors import TopgraftError
from .head import HeadChoice, choose_head, class_weights
from .pixels import Pixels
from .plan import Phase, table
from .records import EpochRecord
from .steps import StepChoices, run_phase, standing
from .strategies.spec import Facts, Strategy
from .svm import choose_machines
from .threads import torch_threads

SOLVERS: Mapping[str, Callable[..., HeadChoice]] = {
    "logistic": choose_head,
    "svm": choose_machines,
}
"""How a head is solved on features, by name; see `topgraft.head.choose_head` for what all of them take."""

# Numbers in the feature matrix up to which one thread solves the head as fast as two, or faster (245 images of 1,280
# features: 0.35 s against 0.7; 3,000: equal).
_ONE_THREAD = 4_000_000


@dataclass(frozen=True)
class Labelled:
    """Features and labels of one split: float32 n×width, int64 n."""

    rows: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What the phases chose, for the run's config.

    Attributes:
        phases: name → learning-rate multiplier of each group (None: frozen), in order.
        selection: ``by`` (``validation`` or ``out-of-fold``), ``images`` that selected, and what they chose: the
            ``strength`` of the head, or the ``epoch`` and the ``lr`` that it ran at.
    """

    phases: dict[str, dict[str, float | None]]
    selection: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What phases train on: features where the head is solved, pixels where groups step. Train, then validation."""

    features: tuple[Labelled, Labelled] | None = None
    pixels: tuple[Pixels, Pixels] | None = None


@dataclass(frozen=True)
class TrainChoices:
    """The user's choices that phases need.

    Attributes:
        class_weight: ``none`` or ``balanced``.
        refit: solve the head again on train and validation together.
        seed: of everything random.
        steps: how phases step that do; its class weights are filled in here.
        solver: how the head is solved on features: a key of `SOLVERS`.
    """

    class_weight: str
    refit: bool
    seed: int
    steps: StepChoices
    solver: str = "logistic"


def train(
    classifier: Classifier, strategy: Strategy, facts: Facts, inputs: Inputs, choices: TrainChoices
) -> Generator[EpochRecord, None, Outcome]:
    """Run the phases that the strategy gives, changing the classifier in place; yields one record each.

    Raises:
        TopgraftError: a frozen group changed, or the strategy had no phase at all.
        Stalled: see `topgraft.steps.run_phase`.
    """
    names = tuple(classifier.groups)
    history: list[EpochRecord] = []
    phases: dict[str, dict[str, float | None]] = {}
    outcome: Outcome | None = None
    while (phase := strategy(names, facts, tuple(history))) is not None:
        rows = table(names, phase.rules)
        phases[phase.name] = rows
        groups = dict(classifier.groups.items())
        freeze.apply(groups, rows)
        with freeze.frozen_stays_frozen(groups, rows):
            if phase.solves_head:
                assert inputs.features is not None
                records, selection = _solve(
                    classifier, phase, len(phases) - 1, *inputs.features, facts.classes, choices
                )
                history += records
                yield from records
            else:
                assert inputs.pixels is not None
                epochs: list[EpochRecord] = []
                steps = replace(choices.steps, class_weights=_class_weights(inputs.pixels[0], facts, choices))
                for record in run_phase(classifier, phase, len(phases) - 1, rows, *inputs.pixels, steps):
                    epochs.append(record)
                    yield record
                history += epochs
                selection = _best_epoch(epochs)
        outcome = Outcome(phases, selection)
    if outcome is None:
        raise TopgraftError("the strategy gave no phase; nothing was trained")
    return outcome


def _class_weights(pixels: Pixels, facts: Facts, choices: TrainChoices) -> NDArray[np.float64] | None:
    if choices.class_weight == "none":
        return None
    return class_weights(pixels.labels.numpy()[pixels.readable], facts.classes)


def _best_epoch(epochs: Sequence[EpochRecord]) -> dict[str, Any]:
    """What `topgraft.steps.run_phase` has kept."""
    best = max(epochs, key=standing)
    assert best.val_top1 is not None
    return {"by": "validation", "images": best.val_top1.n, "epoch": best.epoch, "lr": best.lr}


def _solve(
    classifier: Classifier,
    phase: Phase,
    number: int,
    train_set: Labelled,
    val_set: Labelled,
    classes: int,
    choices: TrainChoices,
) -> tuple[list[EpochRecord], dict[str, Any]]:
    began = time.perf_counter()
    few = train_set.rows.size <= _ONE_THREAD
    with torch_threads(1 if few else torch.get_num_threads()):
        choice = SOLVERS[choices.solver](
            train_set.rows,
            train_set.labels,
            val_set.rows,
            val_set.labels,
            classes,
            class_weight=None if choices.class_weight == "none" else choices.class_weight,
            refit=choices.refit,
            seed=choices.seed,
        )
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(choice.weight))
        classifier.head.bias.copy_(torch.from_numpy(choice.bias))
    seconds = time.perf_counter() - began
    records = [
        EpochRecord(
            phase=number,
            name=phase.name,
            epoch=0,
            seconds=seconds / len(choice.records),
            train_loss=record.train_log_loss,
            val_loss=record.log_loss,
            val_top1=metrics.wilson(record.correct, choice.selection_images),
            strength=record.strength,
            chosen=record.strength == choice.strength,
        )
        for record in choice.records
    ]
    selection = {"by": choice.selected_by, "images": choice.selection_images, "strength": choice.strength}
    return records, selection
