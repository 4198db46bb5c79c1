"""Ask the strategy for the next phase, run it, yield one record for each epoch or solve."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.errors import NotANumberError, OutOfTimeError, TopgraftError, TrainingStalledError
from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.strategies.facts import Facts, Strategy
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, table
from topgraft.system import progress

from .checkpoint import Checkpoint
from .cross_validation import try_in_folds
from .gradient_phase import step
from .head_phase import solve
from .inputs import Inputs
from .state import Job, Save, TrainChoices, TrainingState, from_checkpoint


@dataclass(frozen=True)
class Outcome:
    """What the phases chose, for the run's config.

    Attributes:
        phases: name → learning-rate multiplier of each group (None: frozen), in order.
        selection: ``by`` (``validation`` or ``out-of-fold``), ``images`` that selected, and what they chose: the
            ``phase``, and how its head was solved (see `topgraft.training.head.logistic.HeadSettings`), or the
            ``epoch`` and the ``lr``
            that it ran at.
        taken: the phases that were trained, in order; those that were only tried in folds are not among them.
        interrupted: whether Ctrl-C ended it; the best state until then is what stands.
        stalled: the phases that lost what was known, and were given up.
        remarks: what a user should be told about the phases.
        before_refit: logits of the validation images, n×classes, by the head before it was solved on them too, if it
            was; else None.
    """

    phases: dict[str, dict[str, float | None]]
    selection: dict[str, Any]
    taken: tuple[Phase, ...] = ()
    interrupted: bool = False
    stalled: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    before_refit: NDArray[np.float32] | None = field(default=None, compare=False)


def train(
    classifier: Classifier,
    strategy: Strategy,
    facts: Facts,
    inputs: Inputs,
    choices: TrainChoices,
    save: Save | None = None,
    resumed: Checkpoint | None = None,
) -> Generator[EpochRecord, None, Outcome]:
    """Run the phases that the strategy gives, changing the classifier in place; yields one record each.

    Every phase starts from the best state so far, by validation, and the best of all is what stays.

    Args:
        save: is given all that a later run needs to continue, after each epoch and phase, and every few minutes.
        resumed: what an earlier run has saved. Its records are yielded again, without their work.

    Raises:
        TopgraftError: a frozen group changed, or the strategy had no phase at all.
        TrainingStalledError: see `topgraft.training.sgd.epochs.run_phase`.
    """
    began = time.perf_counter()
    if inputs.features is not None and choices.solver == "logistic":
        classifier.normalize_features()  # before its first state is kept
    names, groups = tuple(classifier.groups), dict(classifier.groups.items())
    job = Job(classifier, facts, inputs, choices, save, classifier.snapshot() if choices.steps.l2_sp else None)
    now = TrainingState(facts) if resumed is None else from_checkpoint(resumed)
    late = facts.spent - now.facts.spent  # what coming back to where it was has taken
    now.facts = facts
    if now.under_way is not None and now.under_way.seconds is not None:
        now.under_way = replace(now.under_way, seconds=now.under_way.seconds - late)
    if now.best:
        classifier.load_state_dict(now.best)

    def told() -> Facts:
        """The facts, with the time that no record counts: saving, hashing, asking."""
        if facts.budget is not None:
            counted = sum(record.seconds for record in now.history) - earlier
            now.facts = replace(now.facts, spent=facts.spent + max(0.0, time.perf_counter() - began - counted))
        return now.facts

    yield from now.history
    interrupted = False
    earlier = sum(record.seconds for record in now.history) + now.uncounted
    try:
        while (phase := now.under_way or strategy(names, told(), tuple(now.history))) is not None:
            if phase.name in now.facts.stalled:
                break  # a strategy that does not look at what has stalled
            rows = table(names, phase.rules)
            if now.under_way is None:
                now.number = now.history[-1].phase + 1 if now.history else 0
                now.under_way = phase
                if phase.seconds is not None:
                    job.keep(now)  # another time it might be decided otherwise
            now.phases[phase.name] = rows
            freeze.apply(groups, rows)
            run = solve if phase.solves_head else try_in_folds if phase.folds else step
            given_up: TopgraftError | None = None
            with freeze.frozen_stays_frozen(groups, rows):
                try:
                    yield from run(job, now, phase, now.number, rows)
                except (TrainingStalledError, NotANumberError, OutOfTimeError) as stall:
                    if facts.budget is None or now.standing is None:
                        raise
                    given_up = stall  # auto has a result to fall back on, and this phase was not requested by name
            classifier.load_state_dict(now.best)
            now.end_phase()
            if given_up is not None:
                progress.note(f"{phase.name}: {given_up}\nthe best state until then stays")
                if not isinstance(given_up, OutOfTimeError):
                    now.facts = replace(now.facts, stalled=(*now.facts.stalled, phase.name))
                if phase.name not in [taken.name for taken in now.taken]:
                    now.phases.pop(phase.name, None)
            job.keep(now)
    except KeyboardInterrupt:
        if now.standing is None:
            raise
        interrupted = True
        classifier.load_state_dict(now.best)
    if not now.phases:
        raise TopgraftError("the strategy gave no phase; nothing was trained")
    return Outcome(
        phases=now.phases,
        selection=now.selection,
        taken=tuple(now.taken),
        interrupted=interrupted,
        stalled=now.facts.stalled,
        remarks=tuple(now.remarks),
        before_refit=now.before_refit,
    )


def drain(
    run: Generator[EpochRecord, None, Outcome], on_record: Callable[[EpochRecord], None] = lambda record: None
) -> tuple[list[EpochRecord], Outcome]:
    """Run a training to its end: all records, each handed to `on_record` as it comes, and what it returned."""
    records: list[EpochRecord] = []
    while True:
        try:
            record = next(run)
        except StopIteration as stop:
            return records, stop.value
        records.append(record)
        on_record(record)
