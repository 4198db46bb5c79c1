"""Ask the strategy for the next phase, run it, yield one record for each epoch or solve."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import freeze, metrics, progress
from .checkpoint import Checkpoint
from .classifier import Classifier
from .defaults import LEARNING_RATES
from .errors import Stalled, TopgraftError
from .head import HeadChoice, choose_head, class_weights, folds, solve_path
from .material import Material
from .metrics import standing
from .plan import Phase, table
from .rates import find_rate
from .records import EpochRecord
from .stepping import StepChoices
from .steps import Position, run_phase
from .strategies.spec import Facts, Strategy
from .svm import choose_machines
from .threads import torch_threads
from .train_state import Standing, from_checkpoint, to_checkpoint

SOLVERS: Mapping[str, Callable[..., HeadChoice]] = {
    "logistic": choose_head,
    "svm": choose_machines,
}
"""How a head is solved on features, by name; see `topgraft.head.choose_head` for what all of them take."""

# Numbers in the feature matrix up to which one thread solves the head as fast as two, or faster (245 images of 1,280
# features: 0.35 s against 0.7; 3,000: equal).
ONE_THREAD = 4_000_000


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
            ``phase``, and the ``strength`` of its head, or the ``epoch`` and the ``lr`` that it ran at.
        taken: the phases that were trained, in order; those that were only tried in folds are not among them.
        interrupted: whether Ctrl-C ended it; the best state until then is what stands.
    """

    phases: dict[str, dict[str, float | None]]
    selection: dict[str, Any]
    taken: tuple[Phase, ...] = ()
    interrupted: bool = False


@dataclass(frozen=True)
class Inputs:
    """What phases train on.

    Attributes:
        features: of train and of validation, where the head is solved.
        material: gives the images for a phase that steps, by its table.
        train, val: indices into that material of the images that can be read, as the features' rows have them.
    """

    features: tuple[Labelled, Labelled] | None = None
    material: Callable[[Phase, Mapping[str, float | None]], Material] | None = None
    train: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    val: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class TrainChoices:
    """The user's choices that phases need.

    Attributes:
        class_weight: None, or ``balanced``.
        refit: solve the head again on train and validation together.
        seed: of everything random.
        steps: how phases step that do; its class weights are filled in here.
        find_lr: take the rate that a range test suggests; see `topgraft.rates`.
        solver: how the head is solved on features: a key of `SOLVERS`.
    """

    class_weight: str | None
    refit: bool
    seed: int
    steps: StepChoices
    solver: str = "logistic"
    find_lr: bool = False


Save = Callable[[Checkpoint], None]


@dataclass(frozen=True, eq=False)
class _Job:
    """What stays the same from phase to phase; `published` is the network's state before the first, where
    weights are pulled to it."""

    classifier: Classifier
    facts: Facts
    inputs: Inputs
    choices: TrainChoices
    save: Save | None
    published: Mapping[str, torch.Tensor] | None


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
        save: is given all that a later run needs to go on, after each epoch and phase, and every few minutes.
        resumed: what an earlier run has saved. Its records are yielded again, without their work.

    Raises:
        TopgraftError: a frozen group changed, or the strategy had no phase at all.
        Stalled: see `topgraft.steps.run_phase`.
    """
    names, groups = tuple(classifier.groups), dict(classifier.groups.items())
    job = _Job(classifier, facts, inputs, choices, save, classifier.snapshot() if choices.steps.l2_sp else None)
    now = Standing() if resumed is None else from_checkpoint(resumed)
    if now.best:
        classifier.load_state_dict(now.best)
    yield from now.history
    interrupted = False
    try:
        while (phase := now.under_way or strategy(names, facts, tuple(now.history))) is not None:
            rows = table(names, phase.rules)
            if now.under_way is None:
                now.number = now.history[-1].phase + 1 if now.history else 0
            now.under_way, now.phases[phase.name] = phase, rows
            freeze.apply(groups, rows)
            run = _solve if phase.solves_head else _try if phase.folds else _step
            stalled: Stalled | None = None
            with freeze.frozen_stays_frozen(groups, rows):
                try:
                    yield from run(job, now, phase, now.number, rows)
                except Stalled as stall:
                    if facts.budget is None or now.standing is None:
                        raise
                    stalled = stall  # auto has something to fall back on, and nobody asked for this phase by name
            classifier.load_state_dict(now.best)
            now.under_way, now.position = None, None
            now.folds.clear()
            if stalled is not None:
                progress.note(f"{phase.name}: {stalled}\nthe best state until then stays")
                now.phases.pop(phase.name, None)
                break
            _save(job, now)
    except KeyboardInterrupt:
        if now.standing is None:
            raise
        interrupted = True
        classifier.load_state_dict(now.best)
    if not now.phases:
        raise TopgraftError("the strategy gave no phase; nothing was trained")
    return Outcome(now.phases, now.selection, tuple(now.taken), interrupted)


def _save(job: _Job, now: Standing) -> None:
    if job.save is not None:
        job.save(to_checkpoint(now, job.facts))


# --- The three kinds of phases --------------------------------------------------------------------------------------


def _solve(
    job: _Job, now: Standing, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Solve the head on the features of the frozen base."""
    assert job.inputs.features is not None
    began = time.perf_counter()
    (train_set, val_set), choices = job.inputs.features, job.choices
    few = train_set.rows.size <= ONE_THREAD
    with torch_threads(1 if few else torch.get_num_threads()):
        choice = SOLVERS[choices.solver](
            train_set.rows,
            train_set.labels,
            val_set.rows,
            val_set.labels,
            job.facts.classes,
            class_weight=choices.class_weight,
            refit=choices.refit,
            seed=choices.seed,
        )
    job.classifier.put_head(choice.weight, choice.bias)
    logits = val_set.rows @ choice.weight.T + choice.bias
    right = int(metrics.right(logits, val_set.labels).sum())
    now.standing = (right, -metrics.scaled_log_loss(logits, val_set.labels))
    now.best = job.classifier.snapshot()
    now.strength = choice.strength
    now.selection = {
        "by": choice.selected_by,
        "images": choice.selection_images,
        "phase": phase.name,
        "strength": choice.strength,
    }
    now.taken.append(phase)
    seconds = time.perf_counter() - began
    for record in choice.records:
        chosen = record.strength == choice.strength
        entry = EpochRecord(
            phase=number,
            name=phase.name,
            epoch=0,
            seconds=seconds / len(choice.records),
            train_loss=record.train_log_loss,
            val_loss=record.log_loss,
            val_top1=metrics.wilson(record.correct, choice.selection_images),
            strength=record.strength,
            chosen=chosen,
            hits=metrics.pack(choice.right) if chosen else "",
            scaled_loss=choice.scaled_loss if chosen else None,
        )
        now.history.append(entry)
        yield entry


def _step(
    job: _Job, now: Standing, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Train the groups that the table does not freeze; what is better than the best so far is the best from now on."""
    began = time.perf_counter()
    material, steps = _prepared(job, phase, rows)
    if now.position is None:
        phase = now.under_way = _with_rate(job, phase, rows, material, steps)
    chosen_in_folds = any(record.folds for record in now.history)
    steps = replace(steps, keep_last=chosen_in_folds)
    lead = time.perf_counter() - began  # filling a cache is a part of the first epoch
    mine: list[EpochRecord] = [record for record in now.history if record.phase == number]

    def keep(position: Position, record: EpochRecord | None) -> None:
        if job.save is not None:
            history = [*now.history, replace(record, seconds=record.seconds + lead)] if record else now.history
            _save(job, replace(now, history=history, position=position))

    # What came before the first step is a part of the phase's time.
    timed = phase if phase.seconds is None else replace(phase, seconds=phase.seconds - lead)
    run = run_phase(
        job.classifier, timed, number, rows, material, job.inputs.train, job.inputs.val, steps, keep, now.position,
        job.published,
    )  # fmt: skip
    try:
        for record in run:
            entry, lead = replace(record, seconds=record.seconds + lead), 0.0
            mine.append(entry)
            now.history.append(entry)
            yield entry
    finally:
        run.close()
        best = mine[-1] if mine and chosen_in_folds else max(mine, key=standing, default=None)
        # Folds chose a number of epochs; what was cut before that has to show that it is better.
        whole = chosen_in_folds and _whole(mine, phase.epochs, len(job.inputs.train))
        if best is not None and (whole or now.standing is None or standing(best) > now.standing):
            now.standing, now.best = standing(best), job.classifier.snapshot()
            assert best.val_top1 is not None
            judged = {"by": "validation", "images": best.val_top1.n}
            if chosen_in_folds:
                judged = {key: now.selection[key] for key in ("by", "images")}
            now.selection = {**judged, "phase": phase.name, "epoch": best.epoch, "lr": best.lr}
        elif mine:
            progress.note(f"{phase.name}: no epoch is better than what was there before, which stays")
        if mine:  # also of a phase that Ctrl-C has ended
            now.taken.append(phase)


def _whole(records: Sequence[EpochRecord], epochs: int, images: int) -> bool:
    """Whether all epochs of a phase were run, the last one over all images."""
    last = records[-1] if records else None
    return last is not None and last.epoch == epochs and last.train_top1 is not None and last.train_top1.n >= images


def _try(
    job: _Job, now: Standing, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Try a phase by cross-validation over train and validation together; the network is as before afterwards."""
    began = time.perf_counter()
    material, steps = _prepared(job, phase, rows)
    if not now.folds:
        phase = now.under_way = _with_rate(job, phase, rows, material, steps)
    assert job.inputs.features is not None
    features = np.concatenate([part.rows for part in job.inputs.features])
    pool = np.concatenate([job.inputs.train, job.inputs.val])
    labels = material.labels.numpy()[pool]
    assigned = folds(labels, phase.folds, job.choices.seed)
    hits = np.zeros((phase.epochs, len(pool)), dtype=bool)
    with progress.bar(f"{phase.name}, {phase.folds} folds", phase.folds * phase.epochs, "epochs") as bar:
        for fold in range(phase.folds):
            out = assigned == fold
            if fold >= len(now.folds):
                job.classifier.load_state_dict(now.best)
                path = solve_path(
                    features[~out],
                    labels[~out],
                    job.facts.classes,
                    (now.strength,),
                    class_weight=job.choices.class_weight,
                )
                job.classifier.put_head(path.weight[0], path.bias[0])
                seconds = None
                if phase.seconds is not None:
                    seconds = (phase.seconds - (time.perf_counter() - began)) / (phase.folds - fold)
                each = replace(phase, seconds=seconds)
                run = run_phase(
                    job.classifier, each, number, rows, material, pool[~out], pool[out], steps,
                    anchor=job.published,
                )  # fmt: skip
                with progress.quiet():
                    now.folds.append(list(run))
                _save(job, now)
            bar.advance(phase.epochs)
            for record in now.folds[fold]:
                hits[record.epoch - 1, out] = metrics.unpack(record.hits, int(out.sum()))
    done = min(len(records) for records in now.folds)
    weights = [float((assigned == fold).mean()) for fold in range(phase.folds)]
    seconds = time.perf_counter() - began
    for at in range(done):
        parts = [records[at] for records in now.folds]
        entry = EpochRecord(
            phase=number,
            name=phase.name,
            epoch=at + 1,
            seconds=seconds / done,
            train_loss=sum(w * (part.train_loss or 0.0) for w, part in zip(weights, parts, strict=True)),
            val_loss=sum(w * (part.val_loss or 0.0) for w, part in zip(weights, parts, strict=True)),
            val_top1=metrics.wilson(int(hits[at].sum()), len(pool)),
            lr=phase.lr,
            hits=metrics.pack(hits[at]),
            scaled_loss=sum(w * (part.scaled_loss or 0.0) for w, part in zip(weights, parts, strict=True)),
            folds=phase.folds,
        )
        now.history.append(entry)
        yield entry
    now.selection |= {"by": "out-of-fold", "images": len(pool)}


def _with_rate(
    job: _Job, phase: Phase, rows: Mapping[str, float | None], material: Material, steps: StepChoices
) -> Phase:
    """The phase at the rate that a range test suggests, if one is asked for. The same network gives the same rate."""
    if not job.choices.find_lr:
        return phase
    usual = LEARNING_RATES[steps.optimizer]
    rate, _ = find_rate(job.classifier, rows, material, job.inputs.train, steps, usual)
    progress.note(f"{phase.name}: the range test suggests the learning rate {rate:g}")
    return replace(phase, lr=rate)


def _prepared(job: _Job, phase: Phase, rows: Mapping[str, float | None]) -> tuple[Material, StepChoices]:
    assert job.inputs.material is not None
    material = job.inputs.material(phase, rows)
    weights = None
    if job.choices.class_weight is not None:
        weights = class_weights(material.labels.numpy()[job.inputs.train], job.facts.classes)
    return material, replace(job.choices.steps, class_weights=weights)
