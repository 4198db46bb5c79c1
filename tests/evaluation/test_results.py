"""What results say of themselves, and the methods of a fitted model."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.fitted import add_tiny, fitted

import topgraft as tg


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    add_tiny()


def test_the_accuracy_of_an_evaluation_and_its_interval() -> None:
    result = fitted().validation
    assert result is not None
    right = (result.logits.argmax(axis=1) == result.labels).mean()
    assert result.accuracy == result.top1.value == pytest.approx(right)
    assert result.top1.n == 5
    table = result.to_dicts()
    assert [row["name"] for row in table] == list(result.names)
    assert sum(row["correct"] for row in table) == round(5 * right)
    assert all(row["correct"] == (row["label"] == row["true_label"]) for row in table)
    assert all(1 / 3 <= row["probability"] <= 1 for row in table)


def test_a_prediction_has_its_best_class_first() -> None:
    answers = tg.Predictions((tg.Prediction("a.png", ("bee", "ant"), (0.75, 0.25)),))
    assert (answers[0].label, answers[0].probability) == ("bee", 0.75)
    assert answers.to_dicts() == [
        {"name": "a.png", "label": "bee", "probability": 0.75, "probabilities": {"bee": 0.75, "ant": 0.25}}
    ]


def test_a_history_is_a_list_of_the_fields_of_its_records() -> None:
    first, second = fitted().history.to_dicts()
    assert (first["name"], first["val_top1"]["n"], second["val_top1"]) == ("head", 5, None)


def test_pandas_gets_the_dictionaries(monkeypatch: pytest.MonkeyPatch) -> None:
    history = fitted().history
    monkeypatch.setitem(__import__("sys").modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert history.to_pandas() == ("frame", history.to_dicts())


def test_without_pandas_the_message_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(tg.UsageError, match="pip install pandas"):
        fitted().history.to_pandas()


def test_methods_do_what_the_functions_do(tmp_path: Path) -> None:
    model = fitted()
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert model.predict(image, top_k=2) == tg.predict(model, image, top_k=2)
    assert len(model.predict(image, top_k=2)[0].classes) == 2
    assert model.save(tmp_path / "run") == tmp_path / "run"
    with pytest.raises(tg.UsageError):
        model.save(tmp_path / "run")
    loaded = tg.load(tmp_path / "run")
    assert loaded.predict(image) == model.predict(image)


def test_the_module_takes_pixels_and_gives_logits() -> None:
    model = fitted()
    logits = model.module(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert (tuple(logits.shape), logits.dtype) == ((2, 3), torch.float32)


@pytest.mark.parametrize("name", ["predict", "evaluate", "save"])
def test_a_method_has_the_options_of_its_function(name: str) -> None:
    method = list(inspect.signature(getattr(tg.FittedClassifier, name)).parameters.values())
    function = list(inspect.signature(getattr(tg, name)).parameters.values())
    assert method[1:] == function[1:]
