"""Several phases: the best state of all stays, folds only try, and a fit that was stopped anywhere goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Noted, coloured, pixels_of, same, small_classifier, state_of

import topgraft.train
from topgraft import checkpoint
from topgraft.checkpoint import Checkpoint
from topgraft.classifier import Classifier
from topgraft.defaults import FOLDS, SELECTION_MINIMUM
from topgraft.errors import Stalled
from topgraft.fitting import drain
from topgraft.material import PixelMaterial
from topgraft.metrics import standing
from topgraft.plan import Phase, Rule
from topgraft.rates import find_rate
from topgraft.records import EpochRecord
from topgraft.stepping import StepChoices
from topgraft.strategies import STRATEGIES
from topgraft.strategies.spec import HEAD, Facts, Strategy
from topgraft.train import Inputs, Labelled, Outcome, TrainChoices, train

TRAIN, VAL = 52, 26
CHOICES = TrainChoices(None, False, 0, StepChoices("adam", 2, "fp32", "cpu", keep_minutes=0.0))
TOP = Phase("top", (Rule("stem", None), Rule("*", 1.0)), 2, 0.003)
WHOLE = Phase("whole", (Rule("*", 1.0),), 2, 0.002)
FACTS = Facts(TRAIN, VAL, 3, epochs=2, lr=0.003, probes={"stem": 0.5, "stage1": 0.4}, probe_images=TRAIN + VAL)


@pytest.fixture(scope="module")
def pixels() -> PixelMaterial:
    return PixelMaterial(pixels_of([*coloured(TRAIN, 1), *coloured(VAL, 2)]))


@pytest.fixture(scope="module")
def many() -> PixelMaterial:
    """So many validation images that those alone judge the head, as they judge epochs."""
    return PixelMaterial(pixels_of([*coloured(TRAIN, 1), *coloured(SELECTION_MINIMUM, 2)]))


def features(classifier: Classifier, pixels: PixelMaterial) -> tuple[Labelled, Labelled]:
    assert pixels.pixels.kept is not None
    with torch.inference_mode():
        rows = classifier.features(pixels.pixels.kept).numpy()
    labels = pixels.labels.numpy()
    return Labelled(rows[:TRAIN], labels[:TRAIN]), Labelled(rows[TRAIN:], labels[TRAIN:])


def fit(
    classifier: Classifier, pixels: PixelMaterial, strategy: Strategy | str, facts: Facts = FACTS, *,
    blind: bool = False, noted: Noted | None = None, choices: TrainChoices = CHOICES,
    save: Any = None, resumed: Checkpoint | None = None,
) -> tuple[list[EpochRecord], Outcome]:  # fmt: skip
    """With `blind` the head is solved on noise, so that there is much to gain above it."""
    material, pair = noted or Noted(pixels), features(small_classifier(), pixels)
    if blind:
        noise = np.random.default_rng(0)
        one, other = (replace(part, rows=noise.normal(size=part.rows.shape).astype(np.float32)) for part in pair)
        pair = one, other
    inputs = Inputs(pair, lambda phase, rows: material, np.arange(TRAIN), np.arange(TRAIN, len(pixels.labels)))
    chosen = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    records, outcome = drain(train(classifier, chosen, facts, inputs, choices, save, resumed))
    return [replace(record, seconds=0.0) for record in records], outcome


def rules(*phases: Phase) -> Facts:
    return replace(FACTS, phases=phases)


def best_of(records: Sequence[EpochRecord]) -> EpochRecord:
    """The first of the best among those that judge on the validation images."""
    return max([r for r in records if not r.folds and (r.chosen or r.epoch)], key=standing)


def loss_of(classifier: Classifier, pixels: PixelMaterial) -> float:
    assert pixels.pixels.kept is not None
    with torch.inference_mode():
        logits = classifier(pixels.pixels.kept[TRAIN:])
    return float(torch.nn.functional.cross_entropy(logits, pixels.labels[TRAIN:]))


@pytest.mark.parametrize(
    ("lrs", "name"), [((0.003, 0.01), "whole"), ((0.01, 3.0), "top"), ((3.0, 3.0), "head")], ids=lambda g: str(g)
)
def test_the_best_state_of_all_phases_stays(many: PixelMaterial, lrs: tuple[float, float], name: str) -> None:
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
        assert loss_of(classifier, many) == pytest.approx(best.val_loss, rel=1e-4)


def test_every_phase_starts_from_the_best_state(many: PixelMaterial) -> None:
    """A phase that only did harm is as if it had not been."""
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore", batch_size=16))
    harm = replace(WHOLE, name="harm", lr=3.0, epochs=1)
    one, other = small_classifier(), small_classifier()
    again = replace(TOP, name="again")
    records, _ = fit(one, many, "rules", rules(HEAD, TOP, harm, again), choices=choices, blind=True)
    direct, _ = fit(other, many, "rules", rules(HEAD, TOP, again), choices=choices, blind=True)
    harmed = next(record for record in records if record.name == "harm")
    assert standing(harmed) < standing(best_of(records))
    assert [r.phase for r in records][-2:] == [3, 3]
    assert [replace(r, phase=2) for r in records[-2:]] == direct[-2:]
    assert same(one.state_dict(), other.state_dict())


def test_folds_try_and_leave_every_bit_as_it_was(pixels: PixelMaterial) -> None:
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
def test_it_goes_on_from_every_checkpoint(
    pixels: PixelMaterial, tmp_path: Path, strategy: Strategy | str, facts: Facts, ema: float, batch: int
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
    # Each phase's end; within each epoch and between the epochs; and each fold.
    assert len(kept) >= (3 if batch == 2 else 1) * stepping + folds
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


def test_a_tried_rung_is_trained_under_a_number_of_its_own(pixels: PixelMaterial) -> None:
    records, outcome = fit(small_classifier(), pixels, never_the_same)
    assert [(r.phase, r.name) for r in records if r.epoch == 1] == [(1, "top"), (2, "whole"), (3, "whole")]
    assert [phase.name for phase in outcome.taken] == ["head", "whole"]
    assert (outcome.selection["by"], outcome.selection["images"]) == ("out-of-fold", TRAIN + VAL)


def test_what_folds_have_chosen_is_trained_to_its_last_epoch(many: PixelMaterial) -> None:
    """How many epochs was chosen by all images; the few that validate do not choose again."""
    classifier = small_classifier()
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore"))

    def harmful(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        phase = never_the_same(groups, facts, history)
        return replace(phase, lr=0.5) if phase is not None and phase == WHOLE else phase

    records, outcome = fit(classifier, many, harmful, choices=choices, blind=True)
    assert standing(records[-1]) < standing(best_of(records)), "or the test shows nothing"
    assert outcome.selection["epoch"] == 2
    assert loss_of(classifier, many) == pytest.approx(records[-1].val_loss, rel=1e-4)


def test_what_is_cut_before_the_epochs_that_folds_chose_has_to_be_better(many: PixelMaterial) -> None:
    solved, classifier = small_classifier(), small_classifier()
    choices = replace(CHOICES, steps=replace(CHOICES.steps, stalled="ignore"))
    fit(solved, many, "head")

    def cut(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
        phase = never_the_same(groups, facts, history)
        return replace(phase, lr=0.5, seconds=1e-9) if phase is not None and phase == WHOLE else phase

    records, outcome = fit(classifier, many, cut, choices=choices)
    assert records[-1].train_top1 is not None
    assert records[-1].train_top1.n < TRAIN, "or nothing was cut"
    assert standing(records[-1]) < standing(best_of(records)), "or the test shows nothing"
    assert outcome.selection["phase"] == "head"
    assert same(classifier.state_dict(), solved.state_dict())


@pytest.mark.parametrize("budget", [100.0, None])
def test_a_rung_of_auto_that_loses_what_was_known_is_no_loss(
    many: PixelMaterial, monkeypatch: pytest.MonkeyPatch, budget: float | None
) -> None:
    def stalls(*_: Any, **__: Any) -> Any:
        raise Stalled(1.0, 25, 9.0, 1.0, None, {}, known=True)
        yield

    solved, classifier = small_classifier(), small_classifier()
    fit(solved, many, "head")
    monkeypatch.setattr(topgraft.train, "run_phase", stalls)
    facts = replace(rules(HEAD, WHOLE), budget=budget)
    if budget is None:  # the user has asked for this phase
        with pytest.raises(Stalled):
            fit(classifier, many, "rules", facts)
        return
    _, outcome = fit(classifier, many, "rules", facts)
    assert [phase.name for phase in outcome.taken] == list(outcome.phases) == ["head"]
    assert same(classifier.state_dict(), solved.state_dict())


def test_ctrl_c_within_a_phase_leaves_the_best_epoch(many: PixelMaterial) -> None:
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
    assert loss_of(classifier, many) == pytest.approx(first.val_loss, rel=1e-4)


def test_ctrl_c_before_the_first_epoch_leaves_what_was_there(pixels: PixelMaterial) -> None:
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


def test_ctrl_c_while_a_state_is_written_is_no_loss(pixels: PixelMaterial) -> None:
    def save(state: Checkpoint) -> None:
        raise KeyboardInterrupt

    solved, classifier = small_classifier(), small_classifier()
    fit(solved, pixels, "head")
    _, outcome = fit(classifier, pixels, "rules", rules(HEAD, WHOLE), save=save)
    assert outcome.interrupted
    assert same(classifier.state_dict(), solved.state_dict())


def test_a_range_test_gives_the_rate_and_a_resumed_phase_keeps_it(pixels: PixelMaterial, tmp_path: Path) -> None:
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
    rate, _ = find_rate(solved, rows, pixels, np.arange(TRAIN), CHOICES.steps, 1e-3)
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


def test_what_is_tried_in_folds_has_the_rate_of_the_range_test_too(pixels: PixelMaterial) -> None:
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


def test_folds_of_auto_are_those_of_the_defaults(pixels: PixelMaterial) -> None:
    records, _ = fit(small_classifier(), pixels, "auto")
    assert {record.folds for record in records} == {0, FOLDS}
