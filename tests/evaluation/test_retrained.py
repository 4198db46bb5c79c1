"""A model that was trained on after its fit has no results until it is evaluated again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fitted import add_tiny, fitted

from topgraft.artifacts import load, save
from topgraft.errors import ArtifactError
from topgraft.evaluation.evaluate import head_logits
from topgraft.evaluation.results import FittedClassifier
from topgraft.evaluation.retrained import NOTE, without_former_results
from topgraft.models.weights.digest import fingerprint
from topgraft.training import summary


@pytest.fixture(autouse=True)
def _tiny() -> None:
    add_tiny()


def model() -> FittedClassifier:
    """As a fit returns it: with the SHA-256 of its weights, and what it has said of them."""
    made = fitted()
    said = {"largest_class": {"message": "m"}, "forgetting": {"short": "0 points"}, "kept": "kept: the head"}
    return replace(
        made, config={**made.config, **said, "classifier_sha256": fingerprint(made.classifier.groups), "auto": None}
    )


def train_by_hand(made: FittedClassifier) -> None:
    """One step, as a user takes it."""
    made.classifier.train()
    optimizer = torch.optim.SGD(made.classifier.head.parameters(), lr=1.0)
    images = torch.randint(0, 256, (4, 36, 36, 3), dtype=torch.uint8)[:, :32, :32]
    torch.nn.functional.cross_entropy(made.classifier(images), torch.arange(4) % 3).backward()
    optimizer.step()


def test_a_model_as_it_was_fitted_keeps_its_results(capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    assert without_former_results(made) is made
    made.classifier.train()  # a mode is not a weight
    assert without_former_results(made) is made
    older = replace(made, config={**made.config, "classifier_sha256": None})
    train_by_hand(older)
    assert without_former_results(older) is older, "nothing is known of it"
    assert capsys.readouterr().err == ""


def test_new_weights_are_saved_without_the_numbers_of_the_old_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model()
    train_by_hand(made)
    folder = save.save(made, tmp_path / "run")
    assert NOTE in capsys.readouterr().err
    assert not (folder / "logits").exists()
    assert json.loads((folder / "metrics.json").read_text()) == {}
    card, config = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
    assert f"Note: {NOTE}." in card
    assert "None yet." in card
    assert "%" not in card.split("## Data")[0].split("## Results")[1].split("Intervals")[0]
    assert config["changed_after_fit"] is True
    assert (config["largest_class"], config["forgetting"], config["kept"]) == (None, None, None)
    assert config["notes"] == ["one note", NOTE]


def test_such_an_artifact_is_loaded_evaluated_and_saved_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model()
    train_by_hand(made)
    loaded = load.load(save.save(made, tmp_path / "run"))
    assert loaded.validation is None
    features = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    assert np.array_equal(head_logits(loaded.classifier, features), head_logits(made.classifier.eval(), features))
    assert NOTE.split(":")[0] in repr(loaded)
    assert not any("top-1" in line for line in summary.lines(loaded, {"total": 1.0}))
    capsys.readouterr()
    again = load.load(save.save(loaded, tmp_path / "again"))
    assert again.validation is None
    assert again.config["notes"] == ["one note", NOTE]
    assert capsys.readouterr().err == "", "it was said when it was new"
    result = model().validation
    assert result is not None
    assert save.add_results(tmp_path / "again", result)
    evaluated = load.load(tmp_path / "again")
    assert evaluated.validation is not None
    assert without_former_results(evaluated) is evaluated


def test_results_of_an_untouched_model_that_are_missing_are_still_damage(tmp_path: Path) -> None:
    folder = save.save(model(), tmp_path / "run")
    (folder / "logits" / "val.npz").unlink()
    with pytest.raises(ArtifactError, match=r"no logits/val\.npz"):
        load.load(folder)
