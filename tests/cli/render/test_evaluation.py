"""What stands on standard output: every number with its n, nothing cut off, 80 columns enough for tables."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fitted import CLASSES, fitted

from topgraft import metrics
from topgraft.api import devices
from topgraft.cli.render import dataset, fit, network
from topgraft.cli.render import devices as devices_module
from topgraft.cli.render.evaluation import evaluated, predicted, predicted_csv
from topgraft.data.samples import Duplicate, Unreadable
from topgraft.data.survey import Range, Survey
from topgraft.evaluation.results import Evaluation, Prediction, Predictions
from topgraft.models.catalog import list_backbones, summary
from topgraft.training.inspection import Inspection, PlannedPhase, TableRow

Print = Callable[..., str]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_80_columns(monkeypatch: pytest.MonkeyPatch) -> Print:
    """What a function prints on a terminal of 80 columns."""

    def run(print_: Callable[..., None], *arguments: Any, **options: Any) -> str:
        for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "dumb", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        shown = _Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", shown)
            print_(*arguments, **options)
        return shown.getvalue()

    return run


def evaluation(classes: tuple[str, ...] = CLASSES) -> Evaluation:
    labels = np.arange(len(classes) * 2) % len(classes)
    logits = np.eye(len(classes), dtype=np.float32)[np.r_[labels[:-1], 0]] * 4
    names = tuple(map(str, labels))
    return Evaluation("test", False, names, logits, labels, classes, metrics.evaluate_logits(logits, labels, classes))


def test_an_evaluation_ends_with_its_top1_and_interval(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(evaluation())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "top-1 (test): 83.3 % (95 % interval 43.6 to 97.0, n = 6)"
    assert "most often confused: Käfer taken for ant (1)" in lines
    assert any("n = 6, without interval" in line for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.strip()][-3:] == list(CLASSES)
    assert not any("top-5" in line for line in lines)


def test_many_classes_are_no_table_but_have_a_top5(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(evaluation(tuple(f"class {n}" for n in range(50))))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("top-5 (test): ")


def test_a_fit_says_what_it_did_and_quietly_only_how_good_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    model = fitted()
    fit.fitted(model, Path("runs/[a]"), {"open": 0.5, "total": 1.5}, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 classes; train 3, validation 5, test 1 (")
    assert "saved: runs/[a]" in lines
    assert "seconds: open 0.50 s; total 1.50 s" in lines
    fit.fitted(model, Path("runs/a"), {"total": 1.5}, quiet=True)
    (only,) = capsys.readouterr().out.splitlines()
    assert only == lines[-1]
    assert only.startswith("top-1 (validation, used for selection): ")


def test_answers_are_a_table_or_csv(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Predictions((Prediction("a,[b].png", ("Käfer", "ant"), (0.75, 0.25)),))
    predicted(answers)
    assert capsys.readouterr().out.split("─")[-1].split() == ["a,[b].png", "Käfer", "75.0", "%", "ant", "25.0", "%"]
    predicted_csv(answers)
    assert capsys.readouterr().out.splitlines() == [
        "image,rank,class,probability", '"a,[b].png",1,Käfer,0.750000', '"a,[b].png",2,ant,0.250000',
    ]  # fmt: skip


def survey(**changes: Any) -> Survey:
    group = Duplicate("d", ("a/1.png", "b/1.png"), (0, 1), ("train", "test"), ("a/1.png",))
    made: dict[str, Any] = {
        "where": "photos", "classes": ("a", "b"), "counts": {"train": {"a": 3, "b": 1}, "test": {"a": 1, "b": 1}},
        "images": 6, "made": (), "split_seed": 0, "widths": Range(8, 10.5, 1200), "heights": Range(8, 8, 8),
        "formats": {"JPEG": 5, "PNG": 1}, "unreadable": (Unreadable("b/[x].png", "is empty (0 bytes)"),),
        "duplicates": (group,), "under_two_labels": ("d",), "across_splits": ("d",), "imbalance": 2.0,
        "notes": ("left aside: extra",), "problem": None,
    }  # fmt: skip
    return Survey(**(made | changes))


def test_a_survey_names_everything_odd(capsys: pytest.CaptureFixture[str]) -> None:
    dataset.surveyed(survey())
    text = capsys.readouterr().out
    for line in (
        "6 images, 2 classes", "width: 8 to 1,200 pixels, median 10.5", "formats: JPEG 5, PNG 1", "left aside: extra",
        "imbalance: the largest class has 2.0 times the images of the smallest", "unreadable: 1",
        "  b/[x].png: is empty (0 bytes)", "exact duplicates: 1 group",
        "  a/1.png = b/1.png (under two labels, across splits)",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert "refuse" not in text


def test_a_survey_of_what_cannot_be_fitted_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    dataset.surveyed(survey(counts={"undivided": {"a": 2, "b": 1}}, images=1, problem="too few"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["class", "images", "total"]
    assert lines[-1] == "fit would refuse these images: too few"
    assert "1 image, 2 classes" in lines


def test_tables_fit_into_80_columns(on_80_columns: Print) -> None:
    texts = [
        on_80_columns(network.backbones, list_backbones()),
        on_80_columns(network.summarized, summary("efficientnet_lite0", 64)),
        on_80_columns(evaluated, evaluation()),
        on_80_columns(dataset.surveyed, survey()),
        on_80_columns(predicted, Predictions((Prediction("x" * 200, ("Käfer", "ant"), (0.75, 0.25)),))),
    ]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80
    assert "efficientnet_lite0" in texts[0]  # not broken in two
    assert "0.depthwise.conv" in texts[1]
    assert "also shows" in texts[1]


def test_nothing_is_left_out_where_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    network.backbones(list_backbones())
    network.summarized(summary("efficientnet_lite0", 64))
    text = capsys.readouterr().out
    for column in ("year", "multiply-adds", "license", "type", "activations", "sees"):
        assert column in text
    assert "also shows" not in text


def test_devices_say_what_is_here_and_that_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices_module.devices(devices(cache_dir=tmp_path))
    text = capsys.readouterr().out
    assert text.startswith("processor: ")
    assert "default: " in text
    assert "not measured yet" in text


def inspection(*names: str) -> Inspection:
    """The head, then phases that thaw one group more each, at a rate of 0.001."""
    groups = ("stem", "stage1", "head")
    phases = [PlannedPhase("head", 0, 0.0, {"stem": None, "stage1": None, "head": 1.0})]
    for number, name in enumerate(names):
        rates = {"stem": 0.5 if number else None, "stage1": 0.7, "head": 1.0}
        phases.append(PlannedPhase(name, 3, 1e-3, rates))
    modes = ("keeps its statistics", "takes its statistics from the batches", "–")
    table = tuple(
        TableRow(group, 1000 * (at + 1), phases[-1].multipliers[group], modes[at]) for at, group in enumerate(groups)
    )
    return Inspection("tiny", "auto", table, (), (), phases=tuple(phases))


def test_an_inspection_shows_each_phases_rates_beside_parameters_and_batchnorm(
    capsys: pytest.CaptureFixture[str],
) -> None:
    network.inspected(inspection("from stage1", "from stem"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "tiny, strategy auto"
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    for row in (
        ["group", "parameters", "head", "from stage1", "from stem", "BatchNorm"],
        ["stem", "1,000", "frozen", "frozen", "0.0005", "keeps its statistics"],
        ["stage1", "2,000", "frozen", "0.0007", "0.0007", "takes its statistics from the batches"],
        ["head", "3,000", "solved", "0.001", "0.001", "–"],
    ):
        assert row in rows


def test_an_inspection_of_many_phases_names_those_that_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    network.inspected(inspection("one", "two", "three", "four"))
    text = capsys.readouterr().out
    header = next(line.split() for line in text.splitlines() if "parameters" in line)
    assert header == ["group", "parameters", "head", "one", "four", "BatchNorm"]
    assert "if they help and the time lasts: two, three\n" in text


def test_a_fit_says_what_it_would_try_with_more_time(capsys: pytest.CaptureFixture[str]) -> None:
    model = fitted()
    for untried in ("stage2", None):
        found = replace(model, config={**model.config, "auto": {"untried": untried}})
        fit.fitted(found, Path("run"), {"total": 1.5}, quiet=False)
        said = "with more time it would also train from stage2: --budget" in capsys.readouterr().out.splitlines()
        assert said == (untried is not None)
