"""Settings in, a replayed run's choices among them; a run's config out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import topgraft as tg
from topgraft.data.samples import Sample, Splits
from topgraft.errors import DataError, UsageError
from topgraft.evaluation.results import FittedClassifier
from topgraft.features.extract import FeatureRows
from topgraft.settings import fields, verbs
from topgraft.strategies.facts import Facts
from topgraft.strategies.history import EpochRecord, line_of
from topgraft.strategies.plan import Phase
from topgraft.system import timing
from topgraft.system.files import checkpoint_file
from topgraft.system.threads import torch_threads
from topgraft.system.timing import counting_from
from topgraft.training import checkpoint, cross_validation, fit, gradient_phase
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.step import StepChoices


def rows(*kept: int) -> FeatureRows:
    return FeatureRows(np.array(kept), np.arange(8 * len(kept), dtype=np.float32).reshape(-1, 8), (), 0, 0.0)


def test_rows_are_parted_into_train_and_validation() -> None:
    samples = [Sample(str(n), n % 2) for n in range(6)]  # four of train, two of validation
    train, val = fit.labeled(rows(0, 1, 3, 5), samples, 4, ("ant", "bee"))
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 1], [1])
    assert np.array_equal(np.concatenate([train.rows, val.rows]), rows(0, 1, 3, 5).rows)
    with pytest.raises(DataError, match="no training image of the class ant can be read"):
        fit.labeled(rows(1, 3, 5), samples, 4, ("ant", "bee"))
    with pytest.raises(DataError, match="no validation image can be read"):
        fit.labeled(rows(0, 1), samples, 4, ("ant", "bee"))


def test_laps_are_the_seconds_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 4.0])
    monkeypatch.setattr(fit.time, "perf_counter", lambda: next(times))
    seconds: dict[str, float] = {}
    lap = timing.stopwatch(seconds)
    lap("open")
    lap("head")
    assert seconds == {"open": 0.5, "head": 2.5}


def test_refit_goes_with_a_solved_head_only() -> None:
    with pytest.raises(UsageError, match="use --strategy head"):
        tg.fit("digits", strategy="full", refit=True, weights="random", input_size=32)


class _Reached(Exception):
    """A phase was about to step."""


def fit_tiny(**choices: Any) -> FittedClassifier:
    """Twenty lopsided images; all groups step."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.repeat([0, 1], [14, 6])
    tiny = {"backbone": "squeezenet1_1", "weights": "random", "strategy": "full", "input_size": 32, "device": "cpu"}
    return tg.fit((images, labels), **{"epochs": 1, **tiny, **choices})


def about_to_step(monkeypatch: pytest.MonkeyPatch, **choices: Any) -> tuple[Phase, StepChoices]:
    """What the first phase of a fit is given; it takes no step."""

    def spy(*given: Any, **named: Any) -> None:
        raise _Reached(*given, *named.values())

    for module in (gradient_phase, cross_validation):
        monkeypatch.setattr(module, "run_phase", spy)
    with pytest.raises(_Reached) as caught:
        fit_tiny(**choices)
    (phase,) = [given for given in caught.value.args if isinstance(given, Phase)]
    (steps,) = [given for given in caught.value.args if isinstance(given, StepChoices)]
    return phase, steps


@pytest.mark.parametrize(
    ("choice", "heard"),
    [
        ({"ema": 0.9}, {"ema": 0.9}),
        ({"l2_sp": 0.25, "backbone": "efficientnet_lite0", "weights": None}, {"l2_sp": 0.25}),
        ({"mixup": 0.3}, {"mixup": 0.3}),
        ({"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
        ({"patience": 7}, {"patience": 7}),
        ({"schedule": "cosine"}, {"schedule": "cosine"}),
        ({"batchnorm": "keep"}, {"updates_batchnorm": False}),
        ({"optimizer": "sgd"}, {"optimizer": "sgd"}),
        ({"stalled": "lower"}, {"stalled": "lower"}),
        ({"checkpoint_minutes": 0.5}, {"keep_minutes": 0.5}),
        ({"batch_size": 5}, {"batch_size": 5}),
        ({"seed": 3}, {"seed": 3}),
        ({"lr": 1e-4}, {"own_rate": True}),
    ],
    ids=lambda given: next(iter(given)),
)
def test_each_choice_arrives_where_steps_are_taken(
    monkeypatch: pytest.MonkeyPatch, choice: dict[str, Any], heard: dict[str, Any]
) -> None:
    _, steps = about_to_step(monkeypatch, **choice)
    assert vars(steps) == vars(steps) | heard


def test_what_is_not_chosen_arrives_as_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    _, steps = about_to_step(monkeypatch, precision="fp32")
    assert steps == StepChoices(
        "adam", 32, "fp32", "cpu", pretrained=False, updates_batchnorm=True, stalled="ask", patience=5
    )


@pytest.mark.parametrize("weights", ["random", None])
def test_a_strategy_is_told_of_the_images_that_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: str | None
) -> None:
    """Whether folds choose hangs on them, as it does where the head is chosen."""
    for part, count in (("train", 6), ("val", 5)):
        for number in range(count):
            (tmp_path / part / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, count]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"class {number % 2}" / f"{number}.png")
    bad = tmp_path / "val" / "class 0" / "4.png"
    bad.write_bytes(bad.read_bytes()[:1500])  # its header can be read
    heard: list[Facts] = []

    def spy(classifier: Any, strategy: Any, facts: Facts, *_: Any) -> None:
        heard.append(facts)
        raise _Reached

    monkeypatch.setattr(fit, "train", spy)
    tiny = {"input_size": 32, "device": "cpu", "engine": "torch"}
    with pytest.raises(_Reached):
        tg.fit(tmp_path, **tiny, strategy="full" if weights else "auto", weights=weights)
    assert (heard[0].train_images, heard[0].val_images) == (6, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, True), ({"strategy": "partial"}, True), ({"strategy": "partial", "unfreeze_from": "stage5"}, False),
     ({"strategy": "full"}, False), ({"weights": "random"}, False)],
)  # fmt: skip
def test_who_looks_before_is_told_that_the_cut_is_found_later(
    capsys: pytest.CaptureFixture[str], given: dict[str, Any], said: bool
) -> None:
    splits = Splits("photos", ("a", "b"), (Sample("1", 0), Sample("2", 1)), (Sample("3", 0),), ())
    fit.strategy_and_facts(fields.make(verbs.InspectSettings, given), splits)
    assert ("finds where to cut by probes" in capsys.readouterr().err) == said


@pytest.mark.parametrize("strategy", ["auto", "partial"])
def test_three_images_of_each_class_are_enough(strategy: str) -> None:
    """Of the four that are not for testing a fold has none."""
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(6) % 2
    chosen = {"input_size": 32, "device": "cpu", "engine": "torch", "boundary_cache": "off", "epochs": 1}
    model = tg.fit((images, labels), **chosen, strategy=strategy)
    assert model.validation.metrics.n == 2
    if strategy == "auto":
        tried = [record for record in model.history if record.folds]
        assert tried
        assert all(record.val_top1 is not None and record.val_top1.n == 4 for record in tried)


def test_random_weights_take_a_step_however_small_the_budget() -> None:
    images = np.zeros((200, 32, 32, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = range(200)
    chosen = {"strategy": "auto", "weights": "random", "input_size": 32, "device": "cpu", "backbone": "squeezenet1_1"}
    with counting_from(time.perf_counter() - 10.0):
        model = tg.fit((images, np.arange(200) % 2), **chosen, batch_size=8, budget="1s")
    (record,) = model.history
    assert record.train_top1 is not None
    assert record.train_top1.n == 8
    assert model.validation.metrics.n == 40
    assert any("ended training after 8 of the 120 images" in note for note in model.config["notes"])
    assert np.isfinite(model.validation.logits).all()


def test_balanced_classes_arrive_as_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    _, steps = about_to_step(monkeypatch, class_weight="balanced")
    assert steps.class_weights is not None
    common, rare = steps.class_weights
    assert common < 1 < rare


def test_the_rate_of_a_range_test_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_phase, "lr_range_test", lambda *_: (0.0123, []))
    assert about_to_step(monkeypatch, find_lr=True)[0].lr == 0.0123
    assert about_to_step(monkeypatch)[0].lr == 0.001


def test_a_resumed_fit_steps_with_the_threads_that_its_state_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard: list[int] = []

    def watched(*given: Any, **named: Any) -> Iterator[EpochRecord]:
        for record in run_phase(*given, **named):
            heard.append(torch.get_num_threads())
            yield record
            if len(heard) == 2:
                raise _Reached

    for module in (gradient_phase, cross_validation):
        monkeypatch.setattr(module, "run_phase", watched)
    with torch_threads(2):
        with pytest.raises(_Reached):
            fit_tiny(epochs=2, checkpoint=tmp_path)
        saved = checkpoint.read(checkpoint_file(tmp_path))
        assert saved is not None
        assert saved.state["resolved"]["engine"]["threads"] == 2
        saved.state["resolved"]["engine"]["threads"] = 1
        checkpoint.write(checkpoint_file(tmp_path), saved)
        model = fit_tiny(epochs=2, checkpoint=tmp_path, resume=True)
        assert heard == [2, 2, 1]
        assert [record.epoch for record in model.history] == [1, 2]
        assert torch.get_num_threads() == 2


def test_the_history_grows_in_the_folder_and_ends_as_the_saved_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines: list[int] = []
    file = tmp_path / "history.jsonl"

    def watched(*given: Any, **named: Any) -> Iterator[EpochRecord]:
        for record in run_phase(*given, **named):
            yield record
            lines.append(len(file.read_text("utf-8").splitlines()))
            if len(lines) == 2:  # in the file, and not yet in the checkpoint
                raise _Reached

    for module in (gradient_phase, cross_validation):
        monkeypatch.setattr(module, "run_phase", watched)
    with pytest.raises(_Reached):
        fit_tiny(epochs=3, checkpoint=tmp_path)
    assert lines == [1, 2]
    lines += [0]
    model = fit_tiny(epochs=3, checkpoint=tmp_path, resume=True)
    written = "".join(map(line_of, model.history))
    assert [record.epoch for record in model.history] == [1, 2, 3]
    assert file.read_text("utf-8") == written
    saved = tg.save(model, tmp_path / "saved") / "history.jsonl"
    assert saved.read_text("utf-8") == written


@pytest.mark.parametrize(("lr", "said"), [(0.5, True), (0.01, False)])
def test_a_rate_far_above_the_default_is_said_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lr: float, said: bool
) -> None:
    about_to_step(monkeypatch, lr=lr)
    assert ("times the default" in capsys.readouterr().err) == said
