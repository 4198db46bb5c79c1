"""A baseline goes the whole line: every verb, from scans to predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import topgraft as tg
from topgraft.cli.main import main
from topgraft.errors import UsageError

NAME = "descriptor_coding"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits as PNG files in class folders, one of them damaged."""
    root = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for label in (0, 1, 4):
        (root / str(label)).mkdir()
        for number, image in enumerate(digits.images[digits.target == label][:24]):
            Image.fromarray((image * 15).astype(np.uint8)).save(root / str(label) / f"{number:02}.png")
    (root / "0" / "damaged.png").write_bytes((root / "0" / "00.png").read_bytes()[:60])
    return root


@pytest.fixture(scope="module")
def fitted(photos: Path) -> tg.FittedClassifier:
    return tg.fit(photos, backbone=NAME, strategy="head")


def test_it_learns_and_says_how(fitted: tg.FittedClassifier) -> None:
    assert fitted.validation.metrics.top1.value > 0.8
    assert fitted.cost.seconds["dictionary"] > 0
    assert [Path(entry.name).name for entry in fitted.unreadable] == ["damaged.png"]
    backbone, resolved = fitted.config["backbone"], fitted.config["resolved"]
    assert (backbone["name"], backbone["weights"]) == (NAME, "learnt")
    assert (resolved["engine"]["name"], resolved["engine"]["precision"]) == ("torch", "fp32")
    assert "OpenCV" in resolved["engine_why"]
    assert "opencv-python-headless" in fitted.config["versions"]
    assert sum(record.chosen for record in fitted.history) == 1
    assert [record.strength for record in fitted.history if record.chosen] == [fitted.config["selection"]["strength"]]


def test_a_saved_model_answers_as_before(fitted: tg.FittedClassifier, photos: Path, tmp_path: Path) -> None:
    model = tg.load(tg.save(fitted, tmp_path / "run"))
    state = fitted.classifier.groups.state_dict()
    assert all(bool((state[key] == tensor).all()) for key, tensor in model.classifier.groups.state_dict().items())
    one, two = tg.evaluate(fitted, photos), tg.evaluate(model, photos)
    assert np.array_equal(one.logits, two.logits)
    assert one.metrics.top1.value > 0.8
    answers = tg.predict(model, [photos / "1" / "03.png"], top_k=1)
    assert answers.predictions[0].classes == ("1",)
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "learned from these images alone" in card
    assert "published network" not in card
    assert tg.inspect(tmp_path / "run").stations[2].name == "base"


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    fitted: tg.FittedClassifier, photos: Path, tmp_path: Path
) -> None:
    def weight(model: tg.FittedClassifier) -> Any:
        return model.classifier.head.weight

    again = tg.fit(photos, backbone=NAME, cache_dir=tmp_path, strategy="head")
    assert bool((weight(again) == weight(fitted)).all())
    images = again.config["data"]["images"]
    assert again.cost.images_decoded == images["train"] + images["val"], "the damaged one is not among them"
    warm = tg.fit(photos, backbone=NAME, cache_dir=tmp_path, workers=0, strategy="head")
    assert warm.cost.images_decoded == 0, "the same dictionary finds the rows that it has made"
    other = tg.fit(photos, backbone=NAME, seed=1, strategy="head")
    assert not bool((weight(other) == weight(fitted)).all())


def test_balanced_weights_and_refit_are_taken(photos: Path) -> None:
    model = tg.fit(photos, backbone=NAME, class_weight="balanced", refit=True, strategy="head")
    assert model.validation.metrics.top1.value > 0.9


def test_an_engine_that_cannot_run_it_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"runs on torch in fp32 on cpu only, not with openvino: OpenCV"):
        tg.fit(photos, backbone=NAME, engine="openvino", strategy="head")
    assert (
        tg.fit(photos, backbone=NAME, engine="torch", strategy="head").config["resolved"]["engine"]["precision"]
        == "fp32"
    )


def test_looking_verbs(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["inspect", photos, "--backbone", NAME],
        ["features", photos, "--backbone", NAME, "--out", tmp_path / "f.npz"],
        ["summary", NAME, "--input-size", 64, "--classes", 3],
        ["backbones"],
    ):
        assert main([str(word) for word in command]) == 0
        assert NAME in capsys.readouterr().out
    assert main(["summary", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backbone"] == NAME
    rows = {row["name"]: row for row in tg.list_backbones()}
    row = rows[NAME]
    assert (row["year"], row["top1"], row["license"], row["parameters"]) == (2010, None, "–", None)
    assert json.dumps(rows)
    found = tg.summary(NAME, classes=3)
    assert [layer.group for layer in found.layers] == ["base", "head"]
    assert found.layers[0].receptive_field >= 224
    assert found.layers[0].parameters == 128 + 128 * 64 + 32 + 2 * 32 * 64
