"""Several phases: the best state of all stays, folds only try, and a fit that was stopped anywhere continues."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small import Noted, colored, pixels_of, same, small_classifier, state_of

from topgraft.errors import NotANumberError, OutOfTimeError, TrainingStalledError
from topgraft.metrics import wilson
from topgraft.models.classifier import Classifier
from topgraft.strategies import STRATEGIES
from topgraft.strategies.auto import untried
from topgraft.strategies.defaults import FOLDS, SELECTION_MINIMUM
from topgraft.strategies.facts import HEAD, Facts, Strategy
from topgraft.strategies.history import EpochRecord, pack, standing
from topgraft.strategies.plan import Phase, Rule
from topgraft.training import checkpoint, cross_validation, explain, gradient_phase
from topgraft.training.checkpoint import Checkpoint
from topgraft.training.head import Labeled
from topgraft.training.inputs import Inputs, PixelInputs
from topgraft.training.loop import Outcome, drain, train
from topgraft.training.sgd import epochs
from topgraft.training.sgd.lr_finder import lr_range_test
from topgraft.training.sgd.step import StepChoices
from topgraft.training.state import TrainChoices

TRAIN, VAL = 52, 26
CHOICES = TrainChoices(None, False, 0, StepChoices("adam", 2, "fp32", "cpu", keep_minutes=0.0))
TOP = Phase("top", (Rule("stem", None), Rule("*", 1.0)), 2, 0.003)
WHOLE = Phase("whole", (Rule("*", 1.0),), 2, 0.002)
FACTS = Facts(TRAIN, VAL, 3, epochs=2, lr=0.003, probes={"stem": 0.5, "stage1": 0.4}, probe_images=TRAIN + VAL)


@pytest.fixture(scope="module")
def pixels() -> PixelInputs:
    return PixelInputs(pixels_of([*colored(TRAIN, 1), *colored(VAL, 2)]))


@pytest.fixture(scope="module")
def many() -> PixelInputs:
    """So many validation images that those alone judge the head, as they judge epochs."""
    return PixelInputs(pixels_of([*colored(TRAIN, 1), *colored(SELECTION_MINIMUM, 2)]))


def features(classifier: Classifier, pixels: PixelInputs) -> tuple[Labeled, Labeled]:
    assert pixels.pixels.kept is not None
    with torch.inference_mode():
        rows = classifier.features(pixels.pixels.kept).numpy()
    labels = pixels.labels.numpy()
    return Labeled(rows[:TRAIN], labels[:TRAIN]), Labeled(rows[TRAIN:], labels[TRAIN:])


def blinded(pair: tuple[Labeled, Labeled]) -> tuple[Labeled, Labeled]:
    noise = np.random.default_rng(0)
    one, other = (replace(part, rows=noise.normal(size=part.rows.shape).astype(np.float32)) for part in pair)
    return one, other


def fit(
    classifier: Classifier, pixels: PixelInputs, strategy: Strategy | str, facts: Facts = FACTS, *,
    blind: bool = False, noted: Noted | None = None, choices: TrainChoices = CHOICES,
    save: Any = None, resumed: Checkpoint | None = None,
) -> tuple[list[EpochRecord], Outcome]:  # fmt: skip
    """With `blind` the head is solved on noise, so that there is much to gain above it."""
    material, pair = noted or Noted(pixels), features(small_classifier(), pixels)
    if blind:
        pair = blinded(pair)
    inputs = Inputs(pair, lambda phase, rows: material, np.arange(TRAIN), np.arange(TRAIN, len(pixels.labels)))
    chosen = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    records, outcome = drain(train(classifier, chosen, facts, inputs, choices, save, resumed))
    return [replace(record, seconds=0.0) for record in records], outcome


def rules(*phases: Phase) -> Facts:
    return replace(FACTS, phases=phases)


def best_of(records: Sequence[EpochRecord]) -> EpochRecord:
    """The first of the best among those that judge on the validation images."""
    return max([r for r in records if not r.folds and (r.chosen or r.epoch)], key=standing)


def soft_cross_entropy(classifier: Classifier, pixels: PixelInputs) -> float:
    assert pixels.pixels.kept is not None
    with torch.inference_mode():
        logits = classifier(pixels.pixels.kept[TRAIN:])
    return float(torch.nn.functional.cross_entropy(logits, pixels.labels[TRAIN:]))


@pytest.mark.parametrize(
    ("lrs", "name"), [((0.003, 0.01), "whole"), ((0.01, 3.0), "top"), ((3.0, 3.0), "head")], ids=lambda g: str(g)
)
def test_the_best_state_of_all_phases_stays(many: PixelInputs, lrs: tuple[float, float], name: str) -> None:
    """Also where the last phase, or the last epochs of it, are worse than what was there before."""
    classifier = small_classifier()
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore"))
    facts = rules(HEAD, replace(TOP, lr=lrs[0]), replace(WHOLE, lr=lrs[1]))
    records, outcome = fit(classifier, many, "rules", facts, choices=choices, blind=name != "head")
    best = best_of(records)
    assert best.name == name
    assert outcome.selection["phase"] == best.name
    assert outcome.selection.get("epoch", 0) == best.epoch
    assert [phase.name for phase in outcome.taken] == ["head", "top", "whole"]
    assert list(outcome.phases) == ["head", "top", "whole"]
    if best.epoch:
        assert soft_cross_entropy(classifier, many) == pytest.approx(best.val_loss, rel=1e-4)


@pytest.mark.parametrize(("loss", "kept"), [(0.5, "top"), (0.51, "top"), (0.49, "whole")])
def test_a_phase_that_only_ties_leaves_the_shallower_one(
    pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch, loss: float, kept: str
) -> None:
    right = np.arange(VAL) < 20

    def stepping(classifier: Classifier, phase: Phase, number: int, *_: Any, **__: Any) -> Iterator[EpochRecord]:
        torch.nn.init.constant_(classifier.head.bias, number)
        yield EpochRecord(
            number, phase.name, 1, 0.0, val_top1=wilson(20, VAL), hits=pack(right), scaled_loss=loss if number else 0.5
        )

    for module in (gradient_phase, cross_validation):
        monkeypatch.setattr(module, "run_phase", stepping)
    classifier = small_classifier()
    _, outcome = fit(classifier, pixels, "rules", rules(replace(TOP, epochs=1), replace(WHOLE, epochs=1)))
    assert outcome.selection["phase"] == kept
    assert (classifier.head.bias == ("top", "whole").index(kept)).all()


def test_every_phase_starts_from_the_best_state(many: PixelInputs) -> None:
    """A phase that only did harm is as if it had not been."""
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore", batch_size=16))
    harm = replace(WHOLE, name="harm", lr=1.0, epochs=1)
    one, other = small_classifier(), small_classifier()
    again = replace(TOP, name="again")
    records, _ = fit(one, many, "rules", rules(HEAD, TOP, harm, again), choices=choices, blind=True)
    direct, _ = fit(other, many, "rules", rules(HEAD, TOP, again), choices=choices, blind=True)
    harmed = next(record for record in records if record.name == "harm")
    assert standing(harmed) < standing(best_of([r for r in records if r.phase < harmed.phase])), "or it did no harm"
    assert [r.phase for r in records][-2:] == [3, 3]
    assert [replace(r, phase=2) for r in records[-2:]] == direct[-2:]
    assert same(one.state_dict(), other.state_dict())


def test_folds_try_and_leave_every_bit_as_it_was(pixels: PixelInputs) -> None:
    def trying(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        number = history[-1].phase + 1 if history else 0
        return (HEAD, replace(WHOLE, name="tried", folds=3), None)[number]

    solved, classifier, noted = small_classifier(), small_classifier(), Noted(pixels)
    fit(solved, pixels, "head")
    records, outcome = fit(classifier, pixels, trying, noted=noted)
    assert same(classifier.state_dict(), solved.state_dict())
    tried = [record for record in records if record.folds]
    assert [(r.epoch, r.folds, r.val_top1.n if r.val_top1 else 0) for r in tried] == [
        (1, 3, TRAIN + VAL), (2, 3, TRAIN + VAL),
    ]  # fmt: skip
    assert [phase.name for phase in outcome.taken] == ["head"]
    assert outcome.selection["by"] == "out-of-fold"
    # In each fold two thirds of all images are stepped on, and every image is left out once.
    runs = [set(), set(), set()]  # type: list[set[int]]
    per_epoch = -(-2 * (TRAIN + VAL) // 3 // 2)
    for at, (_, images) in enumerate(noted.log):
        runs[at // (2 * per_epoch)] |= set(images)
    everything = set(range(TRAIN + VAL))
    left_out = [everything - stepped for stepped in runs]
    assert set().union(*left_out) == everything
    assert sum(map(len, left_out)) == len(everything)


def never_the_same(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """The head; two phases tried under the names that they have when they are trained; then the second."""
    tried = (replace(TOP, folds=2, epochs=1), replace(WHOLE, folds=2, epochs=1))
    number = history[-1].phase + 1 if history else 0
    return (HEAD, *tried, WHOLE, None)[number]


@pytest.mark.parametrize(
    ("strategy", "facts", "ema", "batch"),
    [
        ("rules", rules(HEAD, TOP, WHOLE), 0.0, 2),
        ("rules", rules(TOP, WHOLE), 0.9, 2),
        (never_the_same, FACTS, 0.0, 2),
        ("auto", FACTS, 0.9, 16),
    ],
    ids=["rules", "steps at once", "tried and trained", "auto"],
)
def test_it_continues_from_every_checkpoint(
    pixels: PixelInputs, tmp_path: Path, strategy: Strategy | str, facts: Facts, ema: float, batch: int
) -> None:
    choices = replace(CHOICES, steps=replace(CHOICES.steps, ema=ema, batch_size=batch))
    straight, noted = small_classifier(), Noted(pixels)
    kept: list[tuple[Path, int]] = []

    def save(state: Checkpoint) -> None:
        path = tmp_path / f"{len(kept)}.safetensors"
        checkpoint.write(path, state)
        kept.append((path, len(noted.log)))

    records, outcome = fit(straight, pixels, strategy, facts, noted=noted, choices=choices, save=save)
    folds = len({record.name for record in records if record.folds})
    stepping = len({record.phase for record in records if record.epoch}) - folds
    # Each phase's end; within each epoch and between the epochs; and each epoch of each fold.
    assert len(kept) >= (3 if batch == 2 else 1) * stepping + sum(record.folds for record in records)
    for path, stepped in kept:
        again, more, found = small_classifier(), Noted(pixels), checkpoint.read(path)
        assert found is not None
        heard, ended = fit(again, pixels, strategy, facts, noted=more, choices=choices, resumed=found)
        assert heard == records
        assert ended == outcome
        assert [list(rows) for rows in ended.phases.values()] == [list(rows) for rows in outcome.phases.values()]
        assert list(ended.phases) == list(outcome.phases)
        assert more.log == noted.log[stepped:], "an image was stepped on twice, or not at all"
        assert same(again.state_dict(), straight.state_dict())


class Clock:
    """Seconds that pass besides the real ones, so that a test need not wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, self.passed = time.perf_counter, 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: real() + self.passed)


class Slow(Noted):
    """TrainingInputs of which every batch to step on takes a thousand seconds, and one that judges so many."""

    def __init__(self, material: PixelInputs, clock: Clock, judging: float = 0.0) -> None:
        super().__init__(material)
        self._clock, self._judging = clock, judging

    def batches(self, order: Any, batch_size: int, at: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in super().batches(order, batch_size, at):
            self._clock.passed += 1000 if at is not None else self._judging
            yield batch


@pytest.mark.parametrize("strategy", [never_the_same, "rules"])
def test_the_seconds_of_a_phase_that_was_interrupted_count(
    pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch, strategy: Strategy | str
) -> None:
    clock, kept = Clock(monkeypatch), list[Checkpoint]()
    facts = rules(HEAD, TOP, WHOLE)
    sums: list[float] = []

    def rounded(resumed: Checkpoint | None, save: Any) -> None:
        classifier, pair = small_classifier(), features(small_classifier(), pixels)
        slow = Slow(pixels, clock)
        inputs = Inputs(pair, lambda phase, rows: slow, np.arange(TRAIN), np.arange(TRAIN, TRAIN + VAL))
        chosen = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
        records, _ = drain(train(classifier, chosen, facts, inputs, CHOICES, save, resumed))
        sums.append(sum(record.seconds for record in records if record.epoch))

    rounded(None, lambda state: kept.append(copy.deepcopy(state)))
    for state in kept:
        rounded(state, None)
    assert sums[0] > 100_000
    assert sums[1:] == pytest.approx([sums[0]] * len(kept), abs=500), "what a fold had taken is forgotten"


def test_time_that_no_record_counts_is_told_to_the_strategy(
    pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing states, and hashing what is frozen, are a part of a budget too."""
    clock, told = Clock(monkeypatch), list[float]()
    writes = 0

    def save(state: Checkpoint) -> None:
        nonlocal writes
        writes += 1
        clock.passed += 1000

    def asked(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        told.append(facts.spent + sum(record.seconds for record in history) - 1000 * writes)
        return STRATEGIES["rules"](groups, facts, history)

    fit(small_classifier(), pixels, asked, replace(rules(HEAD, WHOLE), budget=1e6, spent=7.0), save=save)
    assert writes > 3
    assert told == pytest.approx([7.0] * 3, abs=60)


def test_no_epoch_is_begun_whose_validation_has_no_time(pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, rehearsed = Slow(pixels, Clock(monkeypatch), judging=10_000), 3
    # Rehearsing, one look at two images, an epoch, its validation, and half of another one.
    seconds = 1000.0 * (rehearsed + 10 + TRAIN // 2 + 10 + 5)
    records, _ = fit(small_classifier(), pixels, "rules", rules(HEAD, replace(WHOLE, seconds=seconds)), noted=slow)
    assert [record.epoch for record in records if record.epoch] == [1]
    assert len(slow.log) == rehearsed + TRAIN // 2


def slow_auto(
    monkeypatch: pytest.MonkeyPatch, val: int, budget: float, wrong: float = 1.0
) -> tuple[float, list[EpochRecord], Outcome]:
    """Seconds that ``auto`` takes where a batch takes a thousand and a state two thousand; what it did."""
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        material = PixelInputs(pixels_of([*colored(TRAIN, 1), *colored(val, 2)]))
        epoch = 1000.0 * (TRAIN // 2) * wrong
        seconds = {"stem": epoch, "stage1": epoch / 2}
        facts = replace(FACTS, val_images=val, epochs=5, budget=budget, epoch_seconds=seconds)

        def save(state: Checkpoint) -> None:
            clock.passed += 2000

        slow, choices = Slow(material, clock), replace(CHOICES, steps=replace(CHOICES.steps, keep_minutes=1e9))
        found = fit(small_classifier(), material, "auto", facts, noted=slow, choices=choices, blind=True, save=save)
        return clock.passed, *found


@pytest.mark.parametrize(("wrong", "share"), [(0.3, 0.35), (0.3, 0.6), (1.0, 0.6), (2.0, 0.6)])
@pytest.mark.parametrize("val", [VAL, SELECTION_MINIMUM])
def test_a_budget_is_kept_also_where_what_was_predicted_is_wrong(
    monkeypatch: pytest.MonkeyPatch, wrong: float, share: float, val: int
) -> None:
    """Within a tenth; and it is made use of."""
    whole, _, _ = slow_auto(monkeypatch, val, 1e12)
    budget = share * whole
    took, records, outcome = slow_auto(monkeypatch, val, budget, wrong)
    assert 0.3 * budget < took <= 1.1 * budget
    assert len({record.phase for record in records}) > 1
    assert outcome.taken


@pytest.mark.parametrize(
    ("val", "late"),
    [
        (VAL, "in its folds"),
        (VAL, "after its folds"),
        (VAL, "just"),
        (SELECTION_MINIMUM, ""),
        (SELECTION_MINIMUM, "just"),
    ],
)
def test_a_rung_whose_cache_takes_too_long_to_fill_is_given_up(
    monkeypatch: pytest.MonkeyPatch, val: int, late: str
) -> None:
    clock, given = Clock(monkeypatch), list[float | None]()
    material = PixelInputs(pixels_of([*colored(TRAIN, 1), *colored(val, 2)]))
    facts = replace(FACTS, val_images=val, epochs=5, budget=1e5, epoch_seconds={"stem": 1000.0, "stage1": 500.0})
    pair = features(small_classifier(), material)
    if late == "after its folds":  # so that there is much to gain above the head
        pair = blinded(pair)

    def filled(phase: Phase, rows: Any) -> Any:
        given.append(phase.seconds)
        assert phase.seconds is not None
        if phase.folds and late == "after its folds":
            return material
        clock.passed += phase.seconds
        if late == "just":
            return material
        raise OutOfTimeError("stem, plain: the time is up")

    inputs = Inputs(pair, filled, np.arange(TRAIN), np.arange(TRAIN, TRAIN + val))
    solved, classifier = small_classifier(), small_classifier()
    drain(train(solved, STRATEGIES["head"], facts, inputs, CHOICES))
    run = train(classifier, STRATEGIES["auto"], facts, inputs, CHOICES, lambda state: None)
    records, outcome = drain(run)
    assert clock.passed <= 1.1e5
    assert len(given) <= 5
    assert [phase.name for phase in outcome.taken] == ["head"]
    assert outcome.stalled == (), "with more time it may well hold"
    named = untried(tuple(classifier.groups), facts, records)
    if late == "after its folds":
        best = max((record for record in records if record.folds), key=standing)
        assert standing(best) > standing(records[0]), "or the test shows nothing"
        assert named == best.name.removeprefix("from ")
    else:
        assert named == "stage1"
    assert same(classifier.state_dict(), solved.state_dict())


def test_a_rung_that_loses_what_was_known_takes_no_time_to_try_other_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "has_diverged", lambda losses, chance: len(losses) >= 25)
    budget = 60_000.0
    took, _, outcome = slow_auto(monkeypatch, SELECTION_MINIMUM, budget, wrong=0.3)
    assert took <= 1.1 * budget
    assert outcome.stalled == ("from stem",) or outcome.stalled == ("from stage1",)
    assert [phase.name for phase in outcome.taken] == ["head"]


def test_what_coming_back_takes_is_taken_off_the_phase_under_way(pixels: PixelInputs) -> None:
    def timed(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        if facts.spent > 1000:
            return None
        return (HEAD, replace(WHOLE, seconds=1000.0), None)[history[-1].phase + 1 if history else 0]

    facts, kept = replace(FACTS, budget=2000.0, spent=5.0), list[Checkpoint]()
    fit(small_classifier(), pixels, timed, facts, save=lambda state: kept.append(copy.deepcopy(state)))
    begun = next(state for state in kept if state.state["under_way"] is not None)
    assert begun.state["inner"] is None, "what was decided is kept before it is done"
    for late, stepped in ((10.0, 3 + 2 * (TRAIN // 2)), (1100.0, 0)):
        noted = Noted(pixels)
        fit(small_classifier(), pixels, timed, replace(facts, spent=5.0 + late), noted=noted, resumed=begun)
        assert len(noted.log) == stepped, "three steps are rehearsed"


def test_a_fold_that_leaves_one_class_alone_answers_none(pixels: PixelInputs) -> None:
    """Of five images one fold holds the only one of its class."""
    of = pixels.labels.numpy()
    zeros, ones = np.flatnonzero(of == 0)[:4], np.flatnonzero(of == 1)[:1]
    train_at, val_at = np.concatenate([zeros[:2], ones]), zeros[2:]
    pair = features(small_classifier(), pixels)
    rows = np.concatenate([part.rows for part in pair])
    inputs = Inputs(
        (Labeled(rows[train_at], of[train_at]), Labeled(rows[val_at], of[val_at])),
        lambda phase, table: pixels, train_at, val_at,
    )  # fmt: skip

    def once(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        return (HEAD, replace(TOP, folds=5), None)[history[-1].phase + 1 if history else 0]

    records, _ = drain(train(small_classifier(), once, FACTS, inputs, CHOICES))
    tried = [record for record in records if record.folds]
    assert [record.epoch for record in tried] == [1, 2]
    assert all(
        record.val_top1 is not None and (record.val_top1.n, record.val_top1.value) == (5, 0.8) for record in tried
    )


def test_a_tried_rung_is_trained_under_a_number_of_its_own(pixels: PixelInputs) -> None:
    records, outcome = fit(small_classifier(), pixels, never_the_same)
    assert [(r.phase, r.name) for r in records if r.epoch == 1] == [(1, "top"), (2, "whole"), (3, "whole")]
    assert [phase.name for phase in outcome.taken] == ["head", "whole"]
    assert (outcome.selection["by"], outcome.selection["images"]) == ("out-of-fold", TRAIN + VAL)


def test_what_folds_have_chosen_is_trained_to_its_last_epoch(many: PixelInputs) -> None:
    """How many epochs was chosen by all images; the few that validate do not choose again."""
    classifier = small_classifier()
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore"))

    def harmful(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        phase = never_the_same(groups, facts, history)
        return replace(phase, lr=0.5, keep_last=True) if phase is not None and phase == WHOLE else phase

    records, outcome = fit(classifier, many, harmful, choices=choices, blind=True)
    assert standing(records[-1]) < standing(best_of(records)), "or the test shows nothing"
    assert outcome.selection["epoch"] == 2
    assert soft_cross_entropy(classifier, many) == pytest.approx(records[-1].val_loss, rel=1e-4)


def test_what_is_cut_before_the_epochs_that_folds_chose_has_to_be_better(many: PixelInputs) -> None:
    solved, classifier = small_classifier(), small_classifier()
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore"))
    fit(solved, many, "head")

    def cut(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        phase = never_the_same(groups, facts, history)
        return replace(phase, lr=0.5, seconds=1e-9, keep_last=True) if phase is not None and phase == WHOLE else phase

    records, outcome = fit(classifier, many, cut, choices=choices)
    assert records[-1].train_top1 is not None
    assert records[-1].train_top1.n < TRAIN, "or nothing was cut"
    assert standing(records[-1]) < standing(best_of(records)), "or the test shows nothing"
    assert outcome.selection["phase"] == "head"
    assert same(classifier.state_dict(), solved.state_dict())


@pytest.mark.parametrize("budget", [100.0, None])
def test_a_rung_of_auto_that_loses_what_was_known_is_no_loss(
    many: PixelInputs, monkeypatch: pytest.MonkeyPatch, budget: float | None
) -> None:
    def stalls(*_: Any, **__: Any) -> Any:
        raise TrainingStalledError(1.0, 25, 9.0, 1.0, None, {}, known=True)
        yield

    solved, classifier = small_classifier(), small_classifier()
    fit(solved, many, "head")
    for module in (gradient_phase, cross_validation):
        monkeypatch.setattr(module, "run_phase", stalls)
    facts = replace(rules(HEAD, WHOLE), budget=budget)
    if budget is None:  # the user has asked for this phase
        with pytest.raises(TrainingStalledError):
            fit(classifier, many, "rules", facts)
        return
    _, outcome = fit(classifier, many, "rules", facts)
    assert [phase.name for phase in outcome.taken] == list(outcome.phases) == ["head"]
    assert same(classifier.state_dict(), solved.state_dict())


@pytest.mark.parametrize("keep_last", [False, True])
def test_what_was_cut_is_replayed_as_far_as_it_came(many: PixelInputs, keep_last: bool) -> None:
    """Step by step, with the rates of the longer schedule."""
    material = Noted(many, stop_at=3 + 2 * (TRAIN // 2) + 7)
    lively = replace(WHOLE, epochs=4, lr=0.01, keep_last=keep_last)
    straight = small_classifier()
    records, outcome = fit(straight, many, "rules", rules(HEAD, lively), noted=material, blind=True)
    assert outcome.interrupted
    assert outcome.taken[-1].until == 2.0
    again = small_classifier()
    facts = rules(*outcome.taken)
    heard, replayed = fit(again, many, "rules", facts, blind=True)
    assert heard == records
    assert replayed.taken == outcome.taken
    assert same(again.state_dict(), straight.state_dict())


def test_a_phase_that_time_has_cut_is_replayed_to_the_same_step(
    many: PixelInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def cut(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        lively = replace(WHOLE, epochs=4, lr=0.01, seconds=66_000.0)
        return (HEAD, lively, None)[history[-1].phase + 1 if history else 0]

    straight, again = small_classifier(), small_classifier()
    slow = Slow(many, clock)
    records, outcome = fit(straight, many, cut, noted=slow, blind=True)
    (taken,) = outcome.taken[1:]
    assert taken.until is not None
    assert 2 < taken.until < 3
    heard, replayed = fit(again, many, "rules", rules(*(replace(p, seconds=None) for p in outcome.taken)), blind=True)
    assert heard == records
    assert [replace(phase, seconds=None) for phase in outcome.taken] == list(replayed.taken)
    assert same(again.state_dict(), straight.state_dict())


def test_ctrl_c_within_a_phase_leaves_the_best_epoch(many: PixelInputs) -> None:
    base = rules(HEAD, replace(WHOLE, epochs=3, lr=0.01))
    steps = TRAIN // 2
    rehearsal = 3
    whole, noted = small_classifier(), Noted(many)
    records, _ = fit(whole, many, "rules", base, noted=noted, blind=True)
    assert len(noted.log) == rehearsal + 3 * steps
    first = next(record for record in records if record.epoch == 1)
    head = next(record for record in records if record.chosen)
    assert standing(first) > standing(head), "or the test shows nothing"
    classifier = small_classifier()
    stopped = Noted(many, stop_at=rehearsal + steps + 3)
    heard, outcome = fit(classifier, many, "rules", base, noted=stopped, blind=True)
    assert heard == records[: len(heard)]
    assert heard[-1].epoch == 1
    assert outcome.interrupted
    assert [phase.name for phase in outcome.taken] == ["head", "whole"]
    assert outcome.selection["phase"] == "whole"
    assert outcome.selection["epoch"] == 1
    assert soft_cross_entropy(classifier, many) == pytest.approx(first.val_loss, rel=1e-4)


def test_ctrl_c_before_the_first_epoch_leaves_what_was_there(pixels: PixelInputs) -> None:
    solved, classifier = small_classifier(), small_classifier()
    fit(solved, pixels, "head")
    for folds in (0, 2):
        facts = rules(HEAD, replace(WHOLE, folds=folds))
        _, outcome = fit(classifier, pixels, "rules", facts, noted=Noted(pixels, stop_at=5))
        assert outcome.interrupted
        assert [phase.name for phase in outcome.taken] == ["head"]
        assert same(classifier.state_dict(), solved.state_dict())
    with pytest.raises(KeyboardInterrupt):
        fit(small_classifier(), pixels, "rules", rules(WHOLE), noted=Noted(pixels, stop_at=5))


def test_ctrl_c_while_a_state_is_written_is_no_loss(pixels: PixelInputs) -> None:
    def save(state: Checkpoint) -> None:
        raise KeyboardInterrupt

    solved, classifier = small_classifier(), small_classifier()
    fit(solved, pixels, "head")
    _, outcome = fit(classifier, pixels, "rules", rules(HEAD, WHOLE), save=save)
    assert outcome.interrupted
    assert same(classifier.state_dict(), solved.state_dict())


def test_ctrl_c_while_the_state_after_an_epoch_is_written_leaves_that_epoch(many: PixelInputs) -> None:
    """Its weights, its record, and a selection that names it."""
    for at in (1, 2):
        classifier = small_classifier()

        def save(state: Checkpoint, at: int = at) -> None:
            if state.state["inner"] is not None and state.state["inner"]["now"]["epoch"] == at + 1:
                raise KeyboardInterrupt

        choices = replace(CHOICES, steps=replace(CHOICES.steps, keep_minutes=1e9))
        lively = rules(HEAD, replace(WHOLE, epochs=4, lr=0.01))
        records, outcome = fit(classifier, many, "rules", lively, choices=choices, blind=True, save=save)
        best = best_of(records)
        assert records[-1].epoch == at
        assert outcome.interrupted
        assert outcome.taken[-1].until == at
        assert outcome.selection["epoch"] == best.epoch
        assert soft_cross_entropy(classifier, many) == pytest.approx(best.val_loss, rel=1e-4)


def test_a_rung_that_stalls_leaves_the_one_that_folds_have_chosen(
    pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = epochs.run_phase

    def stalls(classifier: Any, phase: Phase, *given: Any, **named: Any) -> Any:
        if phase.name == "from stem":
            raise TrainingStalledError(phase.lr, 25, 9.0, 1.0, None, {}, known=True)
        yield from real(classifier, phase, *given, **named)

    for module in (gradient_phase, cross_validation):
        monkeypatch.setattr(module, "run_phase", stalls)
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore"))
    facts = replace(FACTS, budget=1e6, epochs=6, lr=0.01, epoch_seconds={"stem": 1.0, "stage1": 0.5})
    kept = list[Checkpoint]()
    records, outcome = fit(
        small_classifier(), pixels, "auto", facts, choices=choices, blind=True,
        save=lambda state: kept.append(copy.deepcopy(state)),
    )  # fmt: skip
    assert outcome.stalled == ("from stem",)
    assert [phase.name for phase in outcome.taken] == list(outcome.phases) == ["head", "from stage1"]
    assert outcome.selection["phase"] == "from stage1"
    assert untried(("stem", "stage1", "head"), replace(facts, stalled=outcome.stalled), records) is None
    after = next(state for state in kept if state.state["facts"]["stalled"])
    again = replace(facts, stalled=("from stem",))  # as a resumed fit takes them from the state
    _, ended = fit(small_classifier(), pixels, "auto", again, choices=choices, blind=True, resumed=after)
    assert [replace(phase, seconds=None) for phase in ended.taken] == [
        replace(phase, seconds=None) for phase in outcome.taken
    ]
    assert replace(ended, taken=()) == replace(outcome, taken=())


def test_answers_that_are_no_numbers_end_a_rung_and_not_the_fit(
    many: PixelInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(run: Any) -> Any:
        return np.full((SELECTION_MINIMUM, 3), np.nan, dtype=np.float32), many.labels.numpy()[TRAIN:]

    solved, classifier = small_classifier(), small_classifier()
    fit(solved, many, "head")
    monkeypatch.setattr(epochs, "validate", breaks)
    with pytest.raises(NotANumberError, match="lower --lr"):
        fit(small_classifier(), many, "rules", rules(HEAD, WHOLE))
    _, outcome = fit(classifier, many, "rules", replace(rules(HEAD, WHOLE), budget=100.0))
    assert outcome.stalled == ("whole",)
    assert same(classifier.state_dict(), solved.state_dict())


def test_a_range_test_gives_the_rate_and_a_resumed_phase_keeps_it(pixels: PixelInputs, tmp_path: Path) -> None:
    steps = replace(CHOICES.steps, stalled="ignore")  # of pairs of images a loss jumps about
    choices, kept = replace(CHOICES, find_lr=True, steps=steps), list[Path]()

    def save(state: Checkpoint) -> None:
        kept.append(tmp_path / f"{len(kept)}.safetensors")
        checkpoint.write(kept[-1], state)

    straight = small_classifier()
    records, outcome = fit(straight, pixels, "rules", rules(HEAD, WHOLE), choices=choices, save=save)
    solved = small_classifier()
    fit(solved, pixels, "head")
    before = state_of(solved)
    rows: dict[str, float | None] = {"stem": 1.0, "stage1": 1.0, "head": 1.0}
    rate, _ = lr_range_test(solved, rows, pixels, np.arange(TRAIN), CHOICES.steps, 1e-3)
    assert same(before, solved.state_dict())
    assert outcome.taken[-1].lr == rate != WHOLE.lr
    assert {record.lr for record in records if record.epoch} == {rate}
    within = checkpoint.read(kept[1])
    assert within is not None
    assert within.state["inner"] is not None
    again, more = small_classifier(), Noted(pixels)
    heard, ended = fit(again, pixels, "rules", rules(HEAD, WHOLE), choices=choices, noted=more, resumed=within)
    assert (heard, ended) == (records, outcome)
    assert same(again.state_dict(), straight.state_dict())
    assert len(more.log) == 2 * (TRAIN // 2) - 25, "the range test was not run again"


def test_what_is_tried_in_folds_has_the_rate_of_the_range_test_too(pixels: PixelInputs) -> None:
    steps = replace(CHOICES.steps, stalled="ignore")
    choices, noted = replace(CHOICES, find_lr=True, steps=steps), Noted(pixels)
    kept: list[Checkpoint] = []
    trying = replace(WHOLE, folds=2, epochs=1)
    facts = rules(HEAD, trying, replace(WHOLE, epochs=1))
    records, _ = fit(small_classifier(), pixels, "rules", facts, choices=choices, noted=noted, save=kept.append)
    rates = {record.lr for record in records if record.epoch}
    assert len(rates) == 1, "tried and trained at one rate"
    assert rates != {WHOLE.lr}
    tried = next(state for state in kept if len(state.state["folds"]) == 1)
    more = Noted(pixels)
    heard, _ = fit(small_classifier(), pixels, "rules", facts, choices=choices, noted=more, resumed=tried)
    assert heard == records
    assert len(more.log) < len(noted.log) - TRAIN // 2, "neither that test nor the first fold was run again"


def test_folds_of_auto_are_those_of_the_defaults(pixels: PixelInputs) -> None:
    records, _ = fit(small_classifier(), pixels, "auto")
    assert {record.folds for record in records} == {0, FOLDS}


def test_a_rate_that_spoils_the_network_in_few_steps_is_said_and_remembered(
    many: PixelInputs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few steps for the look at the loss after 25 of them."""
    choices = replace(CHOICES, steps=replace(CHOICES.steps, batch_size=16))
    one = replace(WHOLE, epochs=1)
    records, outcome = fit(small_classifier(), many, "rules", rules(HEAD, replace(one, lr=30.0)), choices=choices)
    (remark,) = outcome.remarks
    assert f"after epoch 1 of {WHOLE.name}" in remark
    assert remark in capsys.readouterr().err
    assert remark in explain.remarks(outcome, FACTS, records)
    _, outcome = fit(small_classifier(), many, "rules", rules(HEAD, replace(one, lr=1e-4)), choices=choices)
    assert outcome.remarks == ()


def test_it_is_said_too_where_cross_validation_tries_the_rate(
    pixels: PixelInputs, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = replace(CHOICES, steps=replace(CHOICES.steps, batch_size=16))
    records, outcome = fit(small_classifier(), pixels, "auto", replace(FACTS, lr=30.0, epochs=1), choices=choices)
    assert next(record.folds for record in records if record.epoch) == FOLDS
    assert outcome.remarks
    assert outcome.remarks[0] in capsys.readouterr().err
