"""Training from nothing, through the verbs: random weights, every group stepping, an artifact like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import topgraft as tg
from topgraft.cli.main import main

NETWORK = ["--backbone", "resnet18", "--weights", "random", "--strategy", "full", "--input-size", "32"]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[:400] * 15).astype(np.uint8), found.target[:400]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "scratch"
    arguments = ["fit", "digits", *NETWORK, "--epochs", "3", "--lr", "0.001", "--limit", "600", "--out", str(out)]
    assert main([*arguments, "--quiet"]) == 0
    return out


def test_it_learns_and_says_how(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["backbone"]["weights"] == "random"
    assert config["phases"] == {"full": dict.fromkeys(config["phases"]["full"], 1.0)}
    assert config["selection"]["by"] == "validation"
    assert config["settings"]["lr"] == 0.001
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert main(["evaluate", str(run), "digits", "--limit", "600", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["top1"]["value"] > 0.3, "ten classes: chance is 0.1"


def test_a_replay_ends_in_the_same_bits(run: Path, tmp_path: Path) -> None:
    assert main(["fit", "digits", "--config", str(run), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    files = [folder / "model.safetensors" for folder in (run, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_saved_validation_is_what_the_loaded_model_gives(digits: tuple[np.ndarray, np.ndarray]) -> None:
    choices: dict[str, Any] = {"backbone": "resnet18", "weights": "random", "strategy": "full", "input_size": 32}
    model = tg.fit(digits, **choices, epochs=1, seed=2)
    again = tg.evaluate(model, digits, split="val", include_seen=True)
    assert again.names == model.validation.names
    np.testing.assert_allclose(again.logits, model.validation.logits, atol=0.02)  # the cache keeps float16
    assert model.history[0].val_top1 is not None
    assert model.history[0].val_top1.n == model.validation.metrics.n


def test_epochs_are_shown(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "digits", *NETWORK, "--epochs", "1", "--limit", "300", "--batch-size", "4",
                 "--out", str(tmp_path / "one")]  # fmt: skip
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "kept: epoch 1" in out
    (epoch,) = [line for line in err.splitlines() if "epoch 1/1: loss" in line]
    assert "%" in epoch
    assert "images/s" in err


def test_what_cannot_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    assert main(["fit", "digits", "--backbone", "descriptor_coding", "--strategy", "full"]) == 2
    assert "takes no steps" in capsys.readouterr().err
