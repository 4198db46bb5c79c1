"""A phase that solves the head on cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict
from functools import partial

import torch

from topgraft import metrics
from topgraft.strategies import history
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase
from topgraft.system.threads import torch_threads
from topgraft.training.head import ONE_THREAD
from topgraft.training.head.selection import HeadChoice, choose_head
from topgraft.training.head.svm import choose_svm

from .state import Job, TrainingState

SOLVERS: Mapping[str, Callable[..., HeadChoice]] = {
    "logistic": choose_head,
    "svm": choose_svm,
}
"""How a head is solved on features, by name; see `topgraft.training.head.selection.choose_head` for what all of them
take."""


# --- The three kinds of phases --------------------------------------------------------------------------------------


def solve(
    job: Job, now: TrainingState, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Solve the head on the features of the frozen base."""
    assert job.inputs.features is not None
    began = time.perf_counter()
    (train_set, val_set), choices = job.inputs.features, job.choices
    few = train_set.rows.size <= ONE_THREAD
    choose = partial(
        SOLVERS[choices.solver],
        train_set.rows,
        train_set.labels,
        val_set.rows,
        val_set.labels,
        job.facts.classes,
        class_weight=choices.class_weight,
        seed=choices.seed,
    )
    with torch_threads(1 if few else torch.get_num_threads()):
        choice = choose(refit=False)
        if choices.refit:
            now.before_refit = choice.head.logits(val_set.rows)
            choice = choose(refit=True)
    job.classifier.set_head(choice.head.weight, choice.head.bias, choice.head.layer)
    logits = choice.head.logits(val_set.rows)
    right = int(metrics.is_correct(logits, val_set.labels).sum())
    # Without validation images nothing is known, and nothing is compared with it.
    loss = metrics.scaled_log_loss(logits, val_set.labels) if len(logits) else math.inf
    now.standing = (right, -loss)
    now.best = job.classifier.snapshot()
    now.head = asdict(choice.settings)
    now.selection = {
        "by": choice.selected_by,
        "images": choice.selection_images,
        "phase": phase.name,
        **{key: value for key, value in now.head.items() if value not in (None, "")},
    }
    now.taken.append(phase)
    seconds = time.perf_counter() - began
    for record in choice.records:
        chosen = record.settings == choice.settings
        entry = EpochRecord(
            phase=number,
            name=phase.name,
            epoch=0,
            seconds=seconds / len(choice.records),
            train_loss=record.train_log_loss,
            val_loss=record.log_loss,
            val_top1=metrics.wilson(record.correct, choice.selection_images) if choice.selection_images else None,
            normalization=record.settings.normalization,
            strength=record.settings.strength,
            shrinkage=record.settings.shrinkage,
            chosen=chosen,
            hits=history.pack(choice.right) if chosen else "",
            scaled_loss=choice.scaled_loss if chosen else None,
        )
        now.history.append(entry)
        yield entry
