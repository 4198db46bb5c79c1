"""What a phase may be asked to do besides stepping: means of weights, pulls, patience, time, BatchNorm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.small import Noted, colored, pixels_of, same, small_classifier, state_of
from torch import nn

from topgraft.errors import TrainingStalledError
from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.models.weights.digest import fingerprint
from topgraft.strategies.history import EpochRecord, standing
from topgraft.strategies.plan import Phase, Rule, table
from topgraft.training.inputs import PixelInputs
from topgraft.training.sgd import epochs
from topgraft.training.sgd.divergence import is_learning
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.step import Run, StepChoices, one_step
from topgraft.training.state import Position

TRAIN, VAL = 32, 30
CHOICES = StepChoices("sgd", 32, "fp32", "cpu")  # one step an epoch
ALL = Phase("all", (Rule("*", 1.0),), 4, 0.05)
TOP = Phase("top", (Rule("stem", None), Rule("*", 1.0)), 2, 0.05)


@pytest.fixture(scope="module")
def pixels() -> PixelInputs:
    return PixelInputs(pixels_of([*colored(TRAIN, 1), *colored(VAL, 2)]))


def run(
    classifier: Classifier,
    material: Any,
    choices: StepChoices,
    phase: Phase = ALL,
    train: int = TRAIN,
    keep: Any = None,
) -> list[EpochRecord]:
    rows = table(tuple(classifier.groups), phase.rules)
    groups = dict(classifier.groups.items())
    freeze.apply(groups, rows)
    with freeze.frozen_stays_frozen(groups, rows):
        ends = np.arange(train), np.arange(train, train + VAL)
        return list(run_phase(classifier, phase, 0, rows, material, *ends, choices, keep))


@pytest.mark.parametrize("ema", [0.5, 0.999])
def test_the_running_mean_is_what_is_kept(pixels: PixelInputs, ema: float) -> None:
    weights: list[dict[str, torch.Tensor]] = [state_of(small_classifier())]

    def keep(position: Position) -> None:
        weights.append(
            {k.removeprefix("network/"): t.clone() for k, t in position.tensors.items() if k.startswith("network/")}
        )

    plain, averaged = small_classifier(), small_classifier()
    run(plain, pixels, replace(CHOICES, keep_last=True), keep=keep)
    assert len(weights) == 5
    assert same(weights[-1], state_of(plain))
    (*_, last) = run(averaged, pixels, replace(CHOICES, keep_last=True, ema=ema))
    mean = {key: tensor.double() for key, tensor in weights[0].items()}
    for step, state in enumerate(weights[1:]):
        share = max(1 - ema, 1 / (step + 2))
        mean = {key: (1 - share) * tensor + share * state[key] for key, tensor in mean.items()}
    if ema == 0.999:  # of few steps it is the mean of all, the start included
        for key, tensor in mean.items():
            torch.testing.assert_close(tensor, torch.stack([w[key].double() for w in weights]).mean(0))
    for key, tensor in averaged.state_dict().items():
        torch.testing.assert_close(tensor.double(), mean[key], rtol=1e-4, atol=1e-6)
    assert pixels.pixels.kept is not None
    with torch.inference_mode():
        logits = averaged(pixels.pixels.kept[TRAIN:])
    assert float(nn.functional.cross_entropy(logits, pixels.labels[TRAIN:])) == pytest.approx(last.val_loss, rel=1e-4)


def test_the_mean_leaves_every_bit_of_what_is_frozen(pixels: PixelInputs) -> None:
    """Also a negative zero: as a number it equals zero, and its mean with itself would be one."""
    classifier = small_classifier()
    with torch.no_grad():
        classifier.groups["stem"][0].weight[0] = -0.0
        classifier.groups["stem"][1].running_mean[0] = -0.0
    before = fingerprint(classifier.groups["stem"])
    run(classifier, pixels, replace(CHOICES, ema=0.9), TOP)
    assert fingerprint(classifier.groups["stem"]) == before


def test_the_pull_is_the_gradient_of_the_distance(pixels: PixelInputs) -> None:
    """One step with it differs from one without by rate·α·(w - w₀), in the penalized weights of the base alone."""
    rate, alpha, found = 0.1, 0.7, []
    assert pixels.pixels.kept is not None
    images, labels = pixels.pixels.kept[:8], pixels.labels[:8]
    started = state_of(small_classifier(seed=1))
    for pull in (0.0, alpha):
        classifier = small_classifier()
        rows: dict[str, float | None] = dict.fromkeys(classifier.groups, 1.0)
        freeze.apply(dict(classifier.groups.items()), rows)
        choices = replace(CHOICES, l2_sp=pull)
        job = Run(classifier, rows, pixels, np.arange(8), np.arange(8, 16), choices, {}, started)
        one_step(job, job.optimizer(rate), images, labels, (0, 1, 0))
        found.append(state_of(classifier))
    begun = state_of(small_classifier())
    for key, tensor in found[0].items():
        pulled = key in ("groups.stem.0.weight", "groups.stage1.0.weight")
        expected = tensor - rate * alpha * (begun[key] - started[key]) if pulled else tensor
        torch.testing.assert_close(found[1][key], expected, rtol=1e-4, atol=1e-6)


def test_pulled_weights_stay_nearer(pixels: PixelInputs) -> None:
    begun, away = state_of(small_classifier()), []
    for pull in (0.0, 5.0):
        classifier = small_classifier()
        run(classifier, pixels, replace(CHOICES, l2_sp=pull, keep_last=True), replace(ALL, epochs=12))
        after = classifier.state_dict()
        away.append(float((after["groups.stage1.0.weight"] - begun["groups.stage1.0.weight"]).norm()))
    assert away[1] < 0.5 * away[0]


def test_what_weights_are_pulled_to_may_be_older_than_the_phase(pixels: PixelInputs) -> None:
    """A second phase begins from tuned weights, and is pulled to the published ones all the same."""
    published, away = state_of(small_classifier(seed=1)), []
    for anchor in (None, published):
        classifier = small_classifier()
        rows = table(tuple(classifier.groups), ALL.rules)
        freeze.apply(dict(classifier.groups.items()), rows)
        ends, choices = (np.arange(TRAIN), np.arange(TRAIN, TRAIN + VAL)), replace(CHOICES, l2_sp=5.0, keep_last=True)
        list(run_phase(classifier, replace(ALL, epochs=30), 0, rows, pixels, *ends, choices, anchor=anchor))
        after = classifier.state_dict()
        away.append(float((after["groups.stage1.0.weight"] - published["groups.stage1.0.weight"]).norm()))
    assert away[1] < 0.5 * away[0]


def test_it_ends_where_nothing_gets_better(pixels: PixelInputs, capsys: pytest.CaptureFixture[str]) -> None:
    still = replace(ALL, epochs=9, lr=1e-30)  # no weight moves, so that no epoch is better than the first
    assert len(run(small_classifier(), pixels, replace(CHOICES, patience=2), still)) == 3
    assert "2 epochs in a row were no better" in capsys.readouterr().err
    assert len(run(small_classifier(), pixels, CHOICES, still)) == 9


def test_the_last_epoch_may_be_what_stays(pixels: PixelInputs) -> None:
    harmful = replace(ALL, lr=20.0, epochs=3)
    last, best = small_classifier(), small_classifier()
    records = run(last, pixels, replace(CHOICES, keep_last=True, stalled="ignore"), harmful)
    assert pixels.pixels.kept is not None
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(last(pixels.pixels.kept[TRAIN:]), pixels.labels[TRAIN:])
    assert float(loss) == pytest.approx(records[-1].val_loss, rel=1e-3)
    run(best, pixels, replace(CHOICES, stalled="ignore"), harmful)
    assert not same(last.state_dict(), best.state_dict()), "or the last was the best, and the test shows nothing"


def test_time_that_runs_out_cuts_an_epoch_which_is_judged_all_the_same() -> None:
    material = Noted(PixelInputs(pixels_of([*colored(80, 1), *colored(VAL, 2)])))
    classifier = small_classifier()
    before = state_of(classifier)
    # In folds nothing is rehearsed, so that all that is noted was stepped on.
    short = replace(ALL, seconds=1e-9, folds=2)
    (record,) = run(classifier, material, replace(CHOICES, batch_size=2), short, train=80)
    assert len(material.log) == 1, "one step, after which the time is looked at"
    assert (record.epoch, record.train_top1.n if record.train_top1 else 0) == (1, 2)
    assert record.val_top1 is not None
    assert record.val_top1.n == VAL
    assert not same(classifier.state_dict(), before)


@pytest.mark.parametrize("updates", [False, True])
def test_batchnorm_of_groups_that_train(pixels: PixelInputs, updates: bool) -> None:
    """Scale and shift train with their group; statistics follow the batches only where that is asked for."""
    for phase, trains in ((ALL, True), (TOP, False)):
        classifier = small_classifier()
        before = state_of(classifier)
        run(classifier, pixels, replace(CHOICES, updates_batchnorm=updates), phase)
        moved = {key for key, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[key])}
        assert ({"groups.stem.1.weight", "groups.stem.1.bias"} <= moved) == trains
        assert ("groups.stem.1.running_mean" in moved) == (trains and updates)
        assert ("groups.stem.1.num_batches_tracked" in moved) == (trains and updates)


def many_images() -> PixelInputs:
    return PixelInputs(pixels_of([*colored(900, 1), *colored(VAL, 2)]))


def knowing() -> tuple[Classifier, StepChoices]:
    """A network that has learned from many images, and how it steps from there, as from published weights."""
    classifier = small_classifier()
    learning = replace(CHOICES, batch_size=16, optimizer="adam", updates_batchnorm=True)
    run(classifier, many_images(), learning, replace(ALL, epochs=4, lr=0.02), train=900)
    return classifier, replace(learning, updates_batchnorm=False, schedule="cosine")


def test_a_rate_that_tears_what_was_known_stops_and_one_that_holds_is_named() -> None:
    classifier, published = knowing()
    # Its first steps, at a rate that is rising still, show that it knew something.
    with pytest.raises(TrainingStalledError) as caught:
        run(classifier, many_images(), published, replace(ALL, lr=3.0), train=900)
    stall = caught.value
    assert stall.rate in (pytest.approx(0.3), pytest.approx(0.03))
    assert f"--lr {stall.rate:g}" in str(stall)
    losses = [loss for _, loss in stall.curves[stall.rate]]
    assert is_learning(losses * 25, stall.curves[3.0][-1][1], known=True)


@pytest.mark.parametrize("own", [True, False])
def test_under_a_time_limit_a_rate_that_holds_is_looked_for_where_a_user_gave_one(own: bool) -> None:
    classifier, published = knowing()
    with pytest.raises(TrainingStalledError) as caught:
        run(classifier, many_images(), replace(published, own_rate=own), replace(ALL, lr=3.0, seconds=1e6), train=900)
    assert (caught.value.rate is not None) == own


def test_few_images_are_walked_over_again_until_a_rate_has_shown_that_it_holds() -> None:
    """An epoch of them has fewer steps than it takes to tell."""
    classifier, published = knowing()
    few = PixelInputs(pixels_of([*colored(100, 1), *colored(VAL, 2)]))
    with pytest.raises(TrainingStalledError) as caught:
        run(classifier, few, published, replace(ALL, lr=3.0, epochs=20), train=100)
    assert caught.value.rate in (pytest.approx(0.3), pytest.approx(0.03), pytest.approx(0.003))


def test_where_no_lower_rate_does_better_it_is_asked_once(pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(epochs, "has_diverged", lambda losses, chance: len(losses) >= 25)
    monkeypatch.setattr(epochs, "try_lower_lrs", lambda lr, *_: asked.append(lr))
    run(small_classifier(), pixels, replace(CHOICES, batch_size=4, patience=None), replace(ALL, epochs=12, lr=1e-3))
    assert asked == [1e-3]


def test_a_lower_rate_takes_over_after_some_epochs_too(pixels: PixelInputs) -> None:
    classifier, published = knowing()
    few = PixelInputs(pixels_of([*colored(100, 1), *colored(VAL, 2)]))
    lowering = replace(published, stalled="lower")
    records = run(classifier, few, lowering, replace(ALL, lr=3.0, epochs=20), train=100)
    assert [record.epoch for record in records] == list(range(1, len(records) + 1)), "no epoch is told twice"
    rates = [record.lr for record in records]
    assert rates[0] == 3.0
    assert rates[-1] in (pytest.approx(0.3), pytest.approx(0.03), pytest.approx(0.003))
    assert max(records, key=standing).lr == rates[-1]


@pytest.mark.parametrize(("schedule", "last"), [("constant", 205), ("cosine", 355)])
def test_a_rate_is_looked_at_until_it_is_at_its_height(
    monkeypatch: pytest.MonkeyPatch, schedule: str, last: int
) -> None:
    """Epochs of 30 steps: 200 is within a block; 100 epochs rise for 300 steps."""
    looks: list[tuple[int, bool]] = []
    monkeypatch.setattr(epochs, "_look", lambda run, now, last, *_: looks.append((len(now.first), last)))
    material = PixelInputs(pixels_of([*colored(60, 1), *colored(VAL, 2)]))
    phase = replace(ALL, epochs=100, lr=1e-5, until=14.0)
    run(small_classifier(), material, replace(CHOICES, batch_size=2, schedule=schedule, patience=None), phase, train=60)
    assert [at for at, _ in looks[:3]] == [25, 30, 55]
    assert looks[-1] == (last, True)
    assert not any(is_last for _, is_last in looks[:-1])


def test_random_weights_may_rise_above_chance_and_come_down(
    pixels: PixelInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "has_diverged", lambda losses, chance: True)
    monkeypatch.setattr(epochs, "at_chance", lambda losses, chance: False)
    tried = replace(CHOICES, batch_size=4, stalled="stop")
    monkeypatch.setattr(epochs, "try_lower_lrs", lambda lr, *_: TrainingStalledError(lr, 1, 1.0, 1.0, None, {}))
    with pytest.raises(TrainingStalledError):
        run(small_classifier(), pixels, replace(tried, updates_batchnorm=True), ALL)
    run(small_classifier(), pixels, replace(tried, pretrained=False), ALL)
