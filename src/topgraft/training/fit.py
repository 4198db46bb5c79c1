"""Parts of ``fit`` that are neither a station of the line nor its composition: from splits to a trained network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.data.samples import Sample, Splits, Unreadable, labels_of
from topgraft.data.split_checks import refuse_unreadable, require_readable
from topgraft.errors import UsageError
from topgraft.evaluation.chance import LargestClass, judged_out_of_fold
from topgraft.features.extract import FeatureRows
from topgraft.features.extract import run as run_base
from topgraft.features.frozen_base import open_base
from topgraft.models.classifier import Classifier
from topgraft.models.registry import find_network
from topgraft.models.weights.digest import fingerprint
from topgraft.models.weights.names import RANDOM
from topgraft.settings import verbs
from topgraft.settings.conflicts import class_weight, rate, strategy_name, updates_batchnorm, without_validation
from topgraft.strategies import STRATEGIES, defaults
from topgraft.strategies.facts import Facts, Strategy
from topgraft.strategies.history import EpochRecord, epoch_from_json
from topgraft.strategies.plan import Phase, frozen_prefix, table
from topgraft.system import progress
from topgraft.system.files import checkpoint_file, growing_history_file
from topgraft.system.quantities import as_seconds
from topgraft.system.threads import torch_threads
from topgraft.system.timing import stopwatch
from topgraft.training.cost.budget import RemainingWork
from topgraft.training.head import Labeled
from topgraft.training.sgd.high_rates import far_above
from topgraft.training.sgd.step import StepChoices

from .checkpoint import Checkpoint
from .explain import explained, kept, reasoned, remarks
from .history_file import GrowingHistory
from .input_factory import Preparation
from .inputs import Inputs
from .loop import Outcome, drain, train
from .replay import Resolved
from .resume import keep_state, require_weights, saved_state
from .state import TrainChoices


@dataclass(frozen=True)
class Trained:
    """What training leaves: its records, and the features of the validation images under the trained network.

    Attributes:
        records, outcome: see `topgraft.training.loop.train`.
        rows, samples: of the validation images that could be read.
        before: features of the same images under the published base, if they were needed; else None.
        unreadable: images that could not, and why.
        decoded, cached, copies: images whose features were computed now, that the cache held, and exact copies of both.
        extra: for the run's config: ``caching``, ``auto``, ``resumed_from``, ``remarks``.
        resolved: as the run that was resumed had it.
        untouched: whether the base is as it was.
        out_of_fold: its answers out of fold against the largest class, if those selected; else None.
    """

    records: list[EpochRecord]
    outcome: Outcome
    rows: NDArray[np.float32]
    samples: list[Sample]
    before: NDArray[np.float32] | None
    unreadable: tuple[Unreadable, ...]
    decoded: int
    cached: int
    copies: int
    extra: dict[str, Any]
    resolved: Resolved
    untouched: bool
    out_of_fold: LargestClass | None = None


def train_network(
    classifier: Classifier,
    splits: Splits,
    chosen: verbs.FitSettings,
    resolved: Resolved,
    seconds: dict[str, float],
    began: float,
    later: RemainingWork,
) -> Trained:
    """Run the strategy's phases on what they need: features of the frozen base, its activations, or pixels.

    Args:
        classifier: changed in place.
        splits: train and validation are used.
        chosen, resolved: see `topgraft.training.replay.fit_settings`.
        seconds: gets the seconds of each part.
        began: when the fit began, by ``time.perf_counter``: what its budget is counted from.
        later: what comes after training besides validating, which its budget is for too.

    Raises:
        DataError: images that cannot be learned from.
        UsageError: a strategy that cannot work for this network.
        CheckpointError, UsageError: what is to be resumed is damaged, or had other settings.
        TrainingStalledError: see `topgraft.training.sgd.epochs.run_phase`.
    """
    lap = stopwatch(seconds)
    if not splits.val:
        chosen = without_validation(chosen)
    saved = saved_state(chosen, splits)
    if saved is not None:
        begun_with = Resolved.of(saved.state["resolved"])
        require_weights(begun_with.weights, resolved.weights, chosen)
        resolved = begun_with
    job = _Job(classifier, splits, chosen, resolved, _facts(chosen, resolved.phases, splits), later)
    if saved is None and job.name != "head" and not chosen.find_lr:
        own = [phase.lr for phase in job.facts.phases if phase.epochs] if job.facts.phases else [job.facts.lr]
        for text in far_above(own, chosen.optimizer, job.facts.pretrained):
            progress.note(f"warning: {text}")
    first = job.strategy(tuple(classifier.groups), job.facts, ())
    solves = first is None or first.solves_head
    published = None if job.name == "head" else _base_fingerprint(classifier)
    learned = _on_features(job, saved, lap, began) if solves else _on_pixels(job, saved, lap, began)
    records, outcome, preparation, computed, facts = learned
    facts = replace(facts, stalled=outcome.stalled)
    lap("head" if job.name == "head" else "train")
    untouched = computed is not None and (published is None or _base_fingerprint(classifier) == published)
    samples = (*splits.train, *splits.val)
    before = None if computed is None else computed.rows[computed.kept >= len(splits.train)]
    if untouched:
        assert computed is not None
        assert before is not None
        rows, judging = before, [samples[index] for index in computed.kept if index >= len(splits.train)]
        unreadable = computed.unreadable
        contents = len({samples[index].digest for index in computed.kept})
        decoded, cached, copies = computed.decoded, contents - computed.decoded, len(computed.kept) - contents
    else:
        # The number that is shown is made as `evaluate` and `predict` will make theirs: on the engine.
        try:
            final, judging = validate(classifier, splits, chosen, resolved)
        except KeyboardInterrupt:
            if outcome.interrupted:
                raise
            progress.note("the network is trained, and only to be validated and saved; Ctrl-C again leaves that out")
            outcome = replace(outcome, interrupted=True)
            final, judging = validate(classifier, splits, chosen, resolved)
        rows = final.rows
        found = {entry.name: entry for entry in (*preparation.unreadable(), *final.unreadable)}
        unreadable = tuple(found.values())
        decoded, cached, copies = len(samples) - len(unreadable), 0, 0
        lap("validate")
    extra = {
        "caching": list(preparation.decisions.values()),
        "auto": explained(tuple(classifier.groups), facts, records) if job.climbs else None,
        "kept": kept(facts, records, outcome) if job.name == "auto" else None,
        "resumed_from": None if saved is None else saved.state["position"],
        "remarks": remarks(outcome, facts, records),
    }
    against = None
    if computed is not None:
        labels = labels_of(samples)[computed.kept]
        against = judged_out_of_fold(records, outcome.selection, labels, splits.classes, splits.where)
    counts = decoded, cached, copies
    return Trained(records, outcome, rows, judging, before, unreadable, *counts, extra, resolved, untouched, against)


def _base_fingerprint(classifier: Classifier) -> str:
    return " ".join(fingerprint(group) for name, group in classifier.groups.items() if name != "head")


def validate(
    classifier: Classifier, splits: Splits, chosen: verbs.FitSettings, resolved: Resolved
) -> tuple[FeatureRows, list[Sample]]:
    """Features of the validation images under the base as it is now, on the engine; and whose each row is."""
    libraries = find_network(chosen.backbone).libraries
    base = open_base(classifier, resolved.engine, chosen.workers, chosen.cache_dir, libraries)
    with torch_threads(resolved.engine.threads):
        final = run_base(splits.val, base, description="validate")
    return final, [splits.val[index] for index in final.kept]


@dataclass(frozen=True, eq=False)
class _Job:
    """What a fit works on."""

    classifier: Classifier
    splits: Splits
    chosen: verbs.FitSettings
    resolved: Resolved
    facts: Facts
    later: RemainingWork

    @property
    def name(self) -> str:
        """Of the strategy; a replayed run has its own phases."""
        return "rules" if self.resolved.phases else strategy_name(self.chosen)

    @property
    def climbs(self) -> bool:
        """Whether ``auto`` decides what trains besides the head."""
        return self.name == "auto" and self.facts.pretrained and self.facts.trainable

    @property
    def strategy(self) -> Strategy:
        return STRATEGIES[self.name]

    @property
    def choices(self) -> TrainChoices:
        chosen, record = self.chosen, find_network(self.chosen.backbone)
        pretrained = self.facts.pretrained
        schedule = "cosine" if pretrained else "constant"
        return TrainChoices(
            class_weight=class_weight(chosen),
            refit=chosen.refit,
            seed=chosen.seed,
            steps=StepChoices(
                optimizer=chosen.optimizer,
                batch_size=chosen.batch_size,
                precision=self.resolved.training,
                device=self.resolved.engine.device,
                l2=record.l2 if chosen.l2 == "published" and not pretrained else 0.0,
                pretrained=pretrained,
                updates_batchnorm=updates_batchnorm(chosen.batchnorm, pretrained),
                stalled=chosen.stalled,
                seed=chosen.seed,
                schedule=schedule if chosen.schedule == "auto" else chosen.schedule,
                label_smoothing=chosen.label_smoothing,
                mixup=chosen.mixup,
                ema=chosen.ema,
                l2_sp=chosen.l2_sp,
                patience=defaults.PATIENCE if chosen.patience is None else chosen.patience,
                keep_minutes=chosen.checkpoint_minutes,
                own_rate=chosen.lr is not None,
            ),
            solver=record.solver,
            find_lr=chosen.find_lr and not self.resolved.phases,  # those have their rates
        )


def strategy_and_facts(chosen: verbs.InspectSettings, splits: Splits) -> tuple[Strategy, Facts]:
    """What ``fit`` would begin with, to look at before."""
    if strategy_name(chosen) in ("auto", "partial") and chosen.unfreeze_from is None and chosen.weights != RANDOM:
        progress.note("fit finds where to cut by probes on your photos; here it is above all but the last group")
    fit = verbs.FitSettings(**{name: getattr(chosen, name) for name in verbs.OF_A_FIT})
    return STRATEGIES[strategy_name(fit)], _facts(fit, (), splits)


_RESERVE = 0.05  # share of a budget for validating and saving, where nothing was measured before


_Learned = tuple[list[EpochRecord], Outcome, Preparation, FeatureRows | None, Facts]


def _facts(chosen: verbs.FitSettings, replayed: Sequence[Phase], splits: Splits) -> Facts:
    """What is known before anything is measured.

    Raises:
        UsageError: the network's base takes no steps, and the strategy asks for some.
    """
    record = find_network(chosen.backbone)
    pretrained, trainable = chosen.weights != RANDOM, record.learn is None
    if not trainable and (chosen.strategy not in ("auto", "head") or chosen.rules is not None):
        raise UsageError(f"the base of {record.name} is learned from the images at once and takes no steps; use head")
    if chosen.refit and chosen.strategy not in ("head",):
        raise UsageError("refit solves the head again, and this strategy may take steps; use --strategy head")
    budgeted = chosen.strategy == "auto" and chosen.rules is None and not replayed
    return Facts(
        train_images=len(splits.train),
        val_images=len(splits.val),
        classes=len(splits.classes),
        epochs=chosen.epochs or defaults.epochs(len(splits.train), len(splits.classes), pretrained),
        lr=rate(chosen),
        pretrained=pretrained,
        trainable=trainable,
        first=chosen.unfreeze_from,
        phases=tuple(replayed) or chosen.rules or (),
        budget=(as_seconds(chosen.budget) if chosen.budget else defaults.BUDGET) if budgeted else None,
    )


# --- The two ways in ------------------------------------------------------------------------------------------------


def _on_features(job: _Job, saved: Checkpoint | None, lap: Callable[[str], None], began: float) -> _Learned:
    """Published weights: the head is solved on the features of the frozen base before anything steps."""
    chosen, splits, classifier = job.chosen, job.splits, job.classifier
    samples = (*splits.train, *splits.val)
    preparation = _preparation(job, samples, saved)
    steps = job.name != "head" and job.facts.trainable
    wants_probes = steps and (job.name == "auto" or (job.name == "partial" and chosen.unfreeze_from is None))
    until = math.inf if job.facts.budget is None else began + job.facts.budget
    computed, pooled = preparation.features(wants_probes, until)
    lap("features")
    pair = labeled(computed, samples, len(splits.train), splits.classes)
    facts = replace(job.facts, train_images=len(pair[0].labels), val_images=len(pair[1].labels))  # that can be read
    if saved is not None:
        facts = Facts.of(saved.state["facts"])
        facts = replace(facts, spent=facts.spent + time.perf_counter() - began)
    elif steps:
        facts = preparation.plan(facts, pair, pooled, began, job.later)
        if job.name == "auto":
            progress.note("\n".join(reasoned(tuple(classifier.groups), facts)))
        lap("probe")
    held = computed.kept
    inputs = Inputs(
        features=pair,
        material=preparation.material,
        train=held[held < len(splits.train)],
        val=held[held >= len(splits.train)],
    )
    records, outcome = _run(job, facts, inputs, preparation, saved, keeps=steps)
    return records, outcome, preparation, computed, facts


def _preparation(job: _Job, samples: Sequence[Sample], saved: Checkpoint | None) -> Preparation:
    preparation = Preparation(job.classifier, samples, len(job.splits.train), job.chosen, job.resolved)
    if saved is not None:
        preparation.remember(saved.state["prepared"])
    return preparation


def _on_pixels(job: _Job, saved: Checkpoint | None, lap: Callable[[str], None], began: float) -> _Learned:
    """Random weights, or a user's rules: groups step from the beginning."""
    samples = (*job.splits.train, *job.splits.val)
    preparation = _preparation(job, samples, saved)
    preparation.decode()
    if any(frozen_prefix(table(tuple(job.classifier.groups), phase.rules)) for phase in job.facts.phases):
        preparation.measure_all()  # before the first state is kept, so that a resumed fit decides alike
    lap("decode")
    known = preparation.unreadable()
    if job.chosen.strict:
        refuse_unreadable(known)
    failed = {entry.name for entry in known}
    readable = np.array([at for at, sample in enumerate(samples) if sample.name not in failed], dtype=np.int64)
    first = readable < len(job.splits.train)
    labels = labels_of(samples)[readable].tolist()
    require_readable(
        job.splits.classes,
        {label for label, inside in zip(labels, first, strict=True) if inside},
        [label for label, inside in zip(labels, first, strict=True) if not inside],
    )
    inputs = Inputs(material=preparation.material, train=readable[first], val=readable[~first])
    facts = replace(job.facts, train_images=int(first.sum()), val_images=int((~first).sum()))
    if saved is not None:
        facts = Facts.of(saved.state["facts"])
    if facts.budget is not None:
        reserve = _RESERVE * facts.budget
        facts = replace(facts, spent=facts.spent + time.perf_counter() - began, reserve=reserve)
    records, outcome = _run(job, facts, inputs, preparation, saved, keeps=True)
    return records, outcome, preparation, None, facts


def _run(
    job: _Job,
    facts: Facts,
    inputs: Inputs,
    preparation: Preparation,
    saved: Checkpoint | None,
    keeps: bool,
) -> tuple[list[EpochRecord], Outcome]:
    """Train, on the recorded number of threads, and keep checkpoints where there is a place for them."""
    chosen = job.chosen
    place = chosen.checkpoint if keeps else None
    path = None if place is None else checkpoint_file(place)
    file = None if place is None or place == path else growing_history_file(place)
    earlier = [epoch_from_json(entry) for entry in saved.state["history"]] if saved else []
    history = GrowingHistory(file, len(inputs.val), earlier)

    def save(state: Checkpoint) -> None:
        assert path is not None
        keep_state(path, state, chosen, job.splits, job.resolved, preparation.state())

    run = train(job.classifier, job.strategy, facts, inputs, job.choices, None if path is None else save, saved)
    with torch_threads(job.resolved.engine.threads):
        return drain(run, history.add)


def labeled(
    computed: FeatureRows, samples: Sequence[Sample], train_size: int, classes: Sequence[str]
) -> tuple[Labeled, Labeled]:
    """Features and labels of train and of validation.

    Raises:
        DataError: a class without a readable training image, or no readable validation image.
    """
    labels = labels_of(samples)[computed.kept]
    first = int((computed.kept < train_size).sum())
    val = labels[first:].tolist() if len(samples) > train_size else None
    require_readable(classes, set(labels[:first].tolist()), val)
    return Labeled(computed.rows[:first], labels[:first]), Labeled(computed.rows[first:], labels[first:])
