"""The three kinds of phases: the head is solved, groups step, or that is tried in folds; one record for each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.errors import OutOfTime
from topgraft.models.classifier import Classifier
from topgraft.strategies import history
from topgraft.strategies.defaults import LEARNING_RATES
from topgraft.strategies.facts import Facts
from topgraft.strategies.history import EpochRecord, standing
from topgraft.strategies.plan import Phase
from topgraft.system import progress
from topgraft.system.threads import torch_threads
from topgraft.training.head.logistic import HeadSettings, class_weights, folds, solve_head
from topgraft.training.head.selection import HeadChoice, choose_head
from topgraft.training.head.svm import choose_machines
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.high_rates import too_high
from topgraft.training.sgd.lr_finder import find_rate
from topgraft.training.sgd.optimizers import penalty
from topgraft.training.sgd.step import StepChoices

from .checkpoint import Checkpoint
from .inputs import Material
from .state import Position, Standing, to_checkpoint

SOLVERS: Mapping[str, Callable[..., HeadChoice]] = {
    "logistic": choose_head,
    "svm": choose_machines,
}
"""How a head is solved on features, by name; see `topgraft.selection.choose_head` for what all of them take."""

# Numbers in the feature matrix up to which one thread solves the head as fast as two, or faster (245 images of 1,280
# features: 0.35 s against 0.7; 3,000: equal).
ONE_THREAD = 4_000_000

_TESTING = 0.2  # share of a phase's time that the range test may take


@dataclass(frozen=True)
class Labelled:
    """Features and labels of one split: float32 n×width, int64 n."""

    rows: NDArray[np.float32]
    labels: NDArray[np.int64]


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
class Job:
    """What stays the same from phase to phase; `published` is the network's state before the first, where
    weights are pulled to it."""

    classifier: Classifier
    facts: Facts
    inputs: Inputs
    choices: TrainChoices
    save: Save | None
    published: Mapping[str, torch.Tensor] | None

    def keep(self, now: Standing) -> None:
        """Give it away, if somebody wants to keep it."""
        if self.save is not None:
            self.save(to_checkpoint(now))


# --- The three kinds of phases --------------------------------------------------------------------------------------


def solve(
    job: Job, now: Standing, phase: Phase, number: int, rows: Mapping[str, float | None]
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
    job.classifier.put_head(choice.head.weight, choice.head.bias, choice.head.layer)
    logits = choice.head.logits(val_set.rows)
    right = int(metrics.right(logits, val_set.labels).sum())
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


def step(
    job: Job, now: Standing, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Train the groups that the table does not freeze; what is better than the best so far is the best from now on."""
    began = time.perf_counter()
    material, steps = _prepared(job, now, phase, rows)
    if now.position is None:
        phase = now.under_way = _with_rate(job, now, phase, rows, material, steps)
    steps = replace(steps, keep_last=phase.keep_last)
    mine: list[EpochRecord] = [record for record in now.history if record.phase == number]
    again = time.perf_counter() - began
    now.lead += again
    lead = again if mine else now.lead  # filling a cache is a part of the first epoch

    def keep(position: Position) -> None:
        job.keep(replace(now, position=position))

    # What came before the first step is a part of the phase's time.
    timed = phase if phase.seconds is None else replace(phase, seconds=phase.seconds - now.lead)
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
            if entry.lr not in [earlier.lr for earlier in mine[:-1]]:
                before = int(now.standing[0]) if now.standing is not None and steps.pretrained else None
                loss = (entry.train_loss or 0.0) - penalty(dict(job.classifier.groups.items()), rows, steps.l2)
                _look_at_rate(job, now, replace(entry, train_loss=loss), material, steps, before)
    finally:
        run.close()
        best = mine[-1] if mine and phase.keep_last else max(mine, key=standing, default=None)
        images = len(job.inputs.train)
        # A number of epochs was chosen; what was cut before that has to show that it is better.
        whole = phase.keep_last and _whole(mine, phase, images)
        if best is not None and (whole or now.standing is None or standing(best) > now.standing):
            now.standing, now.best = standing(best), job.classifier.snapshot()
            assert best.val_top1 is not None
            judged = {"by": "validation", "images": best.val_top1.n}
            if whole and "by" in now.selection:
                judged = {key: now.selection[key] for key in ("by", "images")}
            now.selection = {**judged, "phase": phase.name, "epoch": best.epoch, "lr": best.lr}
        elif mine:
            progress.note(f"{phase.name}: no epoch is better than what was there before, which stays")
        if mine:  # also of a phase that Ctrl-C has ended
            now.taken.append(_as_run(phase, mine, images, steps.batch_size))


def _as_run(phase: Phase, records: Sequence[EpochRecord], images: int, batch_size: int) -> Phase:
    """A phase as it can be run again: with the rate that it ended up at, and only as far as it came."""
    last = records[-1]
    rates = {record.lr for record in records}
    if last.lr is not None and len(rates) == 1:
        phase = replace(phase, lr=last.lr)
    if last.train_top1 is None or _whole(records, phase, images):
        return phase
    steps, stepped = -(-images // batch_size), -(-last.train_top1.n // batch_size)
    return replace(phase, until=last.epoch - 1 + stepped / steps)


def _whole(records: Sequence[EpochRecord], phase: Phase, images: int) -> bool:
    """Whether all epochs of a phase were run, the last one over all images."""
    if not records or records[-1].epoch != phase.ends:
        return False
    last, limited = records[-1].train_top1, phase.seconds is not None or phase.until is not None
    # Without a limit nothing cuts an epoch, and what is missing are views that cannot be made.
    return not limited or (last is not None and last.n >= images)


def try_in_folds(
    job: Job, now: Standing, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Try a phase by cross-validation over train and validation together; the network is as before afterwards."""
    began = time.perf_counter() - now.lead
    if now.position is not None:
        began -= now.position.spent
    material, steps = _prepared(job, now, phase, rows)
    if not now.folds and now.position is None:
        phase = now.under_way = _with_rate(job, now, phase, rows, material, steps)
    assert job.inputs.features is not None
    features = np.concatenate([part.rows for part in job.inputs.features])
    pool = np.concatenate([job.inputs.train, job.inputs.val])
    labels = material.labels.numpy()[pool]
    assigned = folds(labels, phase.folds, job.choices.seed)
    hits = np.zeros((phase.epochs, len(pool)), dtype=bool)
    # Of few images a fold may have none, or leave one class alone; as where the head is chosen, it then answers none.
    tried = [out for out in (assigned == at for at in np.unique(assigned)) if len(np.unique(labels[~out])) > 1]

    def keep(position: Position) -> None:
        lead = time.perf_counter() - began - position.spent
        job.keep(replace(now, position=position, lead=lead))

    with progress.bar(f"{phase.name}, {phase.folds} folds", len(tried) * phase.epochs, "epochs") as bar:
        for fold, out in enumerate(tried):
            if fold >= len(now.folds):
                job.classifier.load_state_dict(now.best)
                if now.position is None:
                    solved = solve_head(
                        HeadSettings(**now.head),
                        features[~out],
                        labels[~out],
                        job.facts.classes,
                        class_weight=job.choices.class_weight,
                    )
                    job.classifier.put_head(solved.weight, solved.bias, solved.layer)
                each = phase
                if phase.seconds is not None:
                    before = 0.0 if now.position is None else now.position.spent
                    left = phase.seconds - (time.perf_counter() - began - before)
                    each = replace(phase, seconds=left / (len(tried) - fold))
                run = run_phase(
                    job.classifier, each, number, rows, material, pool[~out], pool[out], steps, keep, now.position,
                    job.published,
                )  # fmt: skip
                with progress.quiet():
                    for record in run:
                        now.fold.append(record)
                now.folds.append(list(now.fold))
                now.position = None
                now.fold.clear()
                job.keep(replace(now, lead=time.perf_counter() - began))
            bar.advance(phase.epochs)
            for record in now.folds[fold]:
                hits[record.epoch - 1, out] = history.unpack(record.hits, int(out.sum()))
    # An epoch that time has cut in one of the folds is not what would be trained.
    sizes = [int((~out).sum()) for out in tried]
    complete = [_complete(records, size) for records, size in zip(now.folds, sizes, strict=True)]
    done = max(1, min(complete))
    judged = sum(int(out.sum()) for out in tried)
    weights = [float(out.sum()) / judged for out in tried]
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
            hits=history.pack(hits[at]),
            scaled_loss=sum(w * (part.scaled_loss or 0.0) for w, part in zip(weights, parts, strict=True)),
            folds=phase.folds,
            epochs=phase.epochs,
        )
        now.history.append(entry)
        yield entry
        if not at:
            head = next((record for record in now.history if record.chosen), None)
            _look_at_rate(job, now, entry, material, steps, None if head is None else int(standing(head)[0]))
    now.selection |= {"by": "out-of-fold", "images": len(pool)}


def _look_at_rate(
    job: Job, now: Standing, entry: EpochRecord, material: Material, steps: StepChoices, before: int | None
) -> None:
    """Say after the first epoch at a rate that it is too high, where it is; see `topgraft.high_rates.too_high`."""
    train, val, labels = job.inputs.train, job.inputs.val, material.labels.numpy()
    judging = np.concatenate([train, val]) if entry.folds else val
    text = too_high(entry, labels[train], labels[judging], before, steps)
    if text is not None:
        progress.note(f"warning: {text}")
        now.remarks.append(text)


def _complete(records: Sequence[EpochRecord], images: int) -> int:
    """Epochs that were walked over to the end."""
    last = records[-1].train_top1
    return len(records) - (last is None or last.n < images)


def _with_rate(
    job: Job, now: Standing, phase: Phase, rows: Mapping[str, float | None], material: Material, steps: StepChoices
) -> Phase:
    """The phase at the rate that a range test suggests, if one is asked for. The same network gives the same rate."""
    if not job.choices.find_lr:
        return phase
    folded = [record.lr for record in now.history if record.folds and record.name == phase.name]
    if folded and folded[0] is not None:
        return replace(phase, lr=folded[0])  # it was tried at that rate
    usual = LEARNING_RATES[steps.optimizer]
    until = math.inf if phase.seconds is None else time.perf_counter() + _TESTING * phase.seconds
    rate, _ = find_rate(job.classifier, rows, material, job.inputs.train, steps, usual, until)
    if rate is None:
        progress.note(f"{phase.name}: there is no time to the end of the range test; the learning rate is {phase.lr:g}")
        return phase
    progress.note(f"{phase.name}: the range test suggests the learning rate {rate:g}")
    return replace(phase, lr=rate)


def _prepared(job: Job, now: Standing, phase: Phase, rows: Mapping[str, float | None]) -> tuple[Material, StepChoices]:
    """What a phase steps on, and how.

    Raises:
        OutOfTime: making it ready took all of the phase's time.
    """
    assert job.inputs.material is not None
    if phase.seconds is not None:
        # What has begun is gone on with: the time ends it at its next step, and leaves its best epoch.
        begun = now.position is not None or now.folds
        phase = replace(phase, seconds=None if begun else phase.seconds - now.lead)
    began = time.perf_counter()
    material = job.inputs.material(phase, rows)
    late = phase.seconds is not None and time.perf_counter() - began > phase.seconds
    if late and job.facts.budget is not None and now.standing is not None:
        raise OutOfTime("the time is up before the first step")  # one alone would change nothing for the better
    weights = None
    if job.choices.class_weight is not None:
        weights = class_weights(material.labels.numpy()[job.inputs.train], job.facts.classes)
    return material, replace(job.choices.steps, class_weights=weights)
