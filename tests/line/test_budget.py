"""A budget is a wish: however small it is, the head is fitted to all images."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from topgraft.cli import commands, main
from topgraft.data.loader import Batch
from topgraft.features import frozen_base
from topgraft.features.engines.base import Rows
from topgraft.features.engines.choose import build_engine


@pytest.fixture
def _four_times_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each batch of the engine take three times as long again as it took."""

    def slow(*given: Any, **named: Any) -> SimpleNamespace:
        engine = build_engine(*given, **named)

        def run(batches: Iterable[Batch]) -> Iterator[Rows]:
            began = time.perf_counter()
            for rows in engine.run(batches):
                time.sleep(3 * (time.perf_counter() - began))
                yield rows
                began = time.perf_counter()

        return SimpleNamespace(choice=engine.choice, version=engine.version, run=run)

    monkeypatch.setattr(frozen_base, "build_engine", slow)


@pytest.mark.usefixtures("_four_times_slower")
def test_a_budget_of_a_second_gives_the_head_on_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "STARTED", time.perf_counter() - 1.0)
    out = tmp_path / "run"
    how = ["--limit", "60", "--input-size", "64", "--engine", "torch", "--precision", "fp32", "--device", "cpu"]
    assert main.main(["fit", "digits", "--out", str(out), *how, "--budget", "1s"]) == 0
    said = capsys.readouterr().err
    assert "base: the time is up after 4 of 50 images; the head is still fitted to all of them" in said
    assert "no time was left to train more than the head" in said
    config = json.loads((out / "config.json").read_text())
    assert list(config["phases"]) == ["head"]
    assert config["auto"]["untried"] == "stage7"
    assert any("no time was left to train" in note for note in config["notes"])
    assert main.main(["evaluate", str(out), "digits", "--quiet"]) == 0
