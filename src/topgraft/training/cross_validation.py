"""Try a phase by cross-validation over train and validation together."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from topgraft import metrics
from topgraft.strategies import history
from topgraft.strategies.history import EpochRecord, standing
from topgraft.strategies.plan import Phase
from topgraft.system import progress
from topgraft.training.head.logistic import HeadSettings, folds, solve_head
from topgraft.training.sgd.epochs import run_phase

from .gradient_phase import check_rate, prepare_phase, with_rate
from .state import Job, Position, TrainingState


def try_in_folds(
    job: Job, now: TrainingState, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Try a phase by cross-validation over train and validation together; the network is as before afterwards."""
    began = time.perf_counter() - now.lead
    if now.position is not None:
        began -= now.position.spent
    material, steps = prepare_phase(job, now, phase, rows)
    if not now.folds and now.position is None:
        phase = now.under_way = with_rate(job, now, phase, rows, material, steps)
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
                    job.classifier.set_head(solved.weight, solved.bias, solved.layer)
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
            check_rate(job, now, entry, material, steps, None if head is None else int(standing(head)[0]))
    now.selection |= {"by": "out-of-fold", "images": len(pool)}


def _complete(records: Sequence[EpochRecord], images: int) -> int:
    """Epochs that were completed."""
    last = records[-1].train_top1
    return len(records) - (last is None or last.n < images)
