"""Ask the strategy for the next phase, run it, yield one record for each epoch or solve."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from . import freeze, metrics
from .classifier import Classifier
from .errors import TopgraftError
from .head import HeadChoice, choose_head
from .plan import Phase, table
from .records import EpochRecord
from .strategies.spec import Facts, Strategy
from .svm import choose_machines

SOLVERS: Mapping[str, Callable[..., HeadChoice]] = {
    "logistic": choose_head,
    "svm": choose_machines,
}
"""How a head is solved on features, by name; see `topgraft.head.choose_head` for what all of them take."""


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
        strength: the inverse regularisation C of the head.
        selected_by: ``validation`` or ``out-of-fold``.
        selection_images: how many images chose the strength.
    """

    phases: dict[str, dict[str, float | None]]
    strength: float
    selected_by: str
    selection_images: int


def train(
    classifier: Classifier,
    strategy: Strategy,
    train_set: Labelled,
    val_set: Labelled,
    *,
    classes: int,
    class_weight: str,
    refit: bool,
    seed: int,
    solver: str = "logistic",
) -> Generator[EpochRecord, None, Outcome]:
    """Run the phases that the strategy gives, changing the classifier in place; yields one record each.

    Args:
        solver: a key of `SOLVERS`.

    Raises:
        TopgraftError: a frozen group changed, or the strategy had no phase at all.
    """
    names = tuple(classifier.groups)
    facts = Facts(len(train_set.labels), len(val_set.labels), classes)
    history: list[EpochRecord] = []
    phases: dict[str, dict[str, float | None]] = {}
    outcome: Outcome | None = None
    while (phase := strategy(names, facts, tuple(history))) is not None:
        rows = table(names, phase.rules)
        phases[phase.name] = rows
        groups = dict(classifier.groups.items())
        freeze.apply(groups, rows)
        with freeze.frozen_stays_frozen(groups, rows):
            chosen = _solve(
                classifier,
                phase,
                len(phases) - 1,
                train_set,
                val_set,
                classes=classes,
                class_weight=class_weight,
                refit=refit,
                seed=seed,
                solver=solver,
            )
        for record in chosen.records:
            history.append(record)
            yield record
        outcome = Outcome(phases, chosen.strength, chosen.selected_by, chosen.selection_images)
    if outcome is None:
        raise TopgraftError("the strategy gave no phase; nothing was trained")
    return outcome


@dataclass(frozen=True)
class _Solved:
    records: Sequence[EpochRecord]
    strength: float
    selected_by: str
    selection_images: int


def _solve(
    classifier: Classifier,
    phase: Phase,
    number: int,
    train_set: Labelled,
    val_set: Labelled,
    *,
    classes: int,
    class_weight: str,
    refit: bool,
    seed: int,
    solver: str,
) -> _Solved:
    began = time.perf_counter()
    choice = SOLVERS[solver](
        train_set.rows,
        train_set.labels,
        val_set.rows,
        val_set.labels,
        classes,
        class_weight=None if class_weight == "none" else class_weight,
        refit=refit,
        seed=seed,
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
    return _Solved(records, choice.strength, choice.selected_by, choice.selection_images)
