"""What the machine has and does. Nothing here asserts a speed."""

from __future__ import annotations

import getpass
import io
import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from topgraft.features import benchmark, engines
from topgraft.features.benchmark import Spread, Work
from topgraft.features.engines import choose
from topgraft.features.engines.base import EngineChoice
from topgraft.system import hardware


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[benchmark.Measurement, Path]:
    folder = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "_SECONDS", 0.01)
        patch.setattr(benchmark, "_RUNS", 2)
        return benchmark.measure_machine(folder), folder


def test_every_engine_and_precision_is_measured(measured: tuple[benchmark.Measurement, Path]) -> None:
    found, _ = measured
    assert [rate.choice for rate in found.engines] == choose.possible()
    spreads = [found.fp32_gflops, found.decode, *(rate.images_per_second for rate in found.engines)]
    assert (found.bf16_gflops is not None) == hardware.has_bf16()
    for spread in spreads if found.bf16_gflops is None else [*spreads, found.bf16_gflops]:
        assert 0 < spread.low <= spread.median <= spread.high
        assert spread.n == 2


def test_the_measurement_is_kept_without_names(measured: tuple[benchmark.Measurement, Path]) -> None:
    found, folder = measured
    text = choose.measurement_path(folder).read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(asdict(found)))
    for name in (platform.node(), getpass.getuser(), str(Path.home())):
        assert f'"{name}"' not in text
    assert benchmark.describe_devices(folder)["measured"] == json.loads(text)


def test_the_fastest_is_among_the_measured(measured: tuple[benchmark.Measurement, Path]) -> None:
    found, folder = measured
    best = max(found.engines, key=lambda rate: rate.images_per_second.median)
    assert choose.choose("fastest", folder=folder) == best.choice
    slow = [rate for rate in found.engines if rate.choice.precision == "fp32"]
    expected = max(slow, key=lambda rate: rate.images_per_second.median).choice
    assert choose.choose("fastest", "fp32", folder=folder) == expected


def test_devices_are_described_without_measuring(tmp_path: Path) -> None:
    found = benchmark.describe_devices(tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    assert found["memory"] is None or found["memory"] > 100_000_000
    assert found["engines"] == engines.available()
    assert EngineChoice(**found["default"]) == choose.choose()
    assert found["measured"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"engines": []}'])
def test_a_damaged_measurement_is_none(tmp_path: Path, content: str) -> None:
    choose.measurement_path(tmp_path).write_text(content, encoding="utf-8")
    assert benchmark.describe_devices(tmp_path)["measured"] is None


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (EngineChoice("openvino", "bf16", "cpu", 4, 1), "OpenVINO is installed; the processor has bf16"),
        (EngineChoice("openvino", "fp32", "cpu", 4, 1), "OpenVINO is installed; the processor has no bf16"),
        (EngineChoice("torch", "bf16", "cpu", 4, 1), "OpenVINO is not installed; the processor has bf16"),
        (EngineChoice("torch", "bf16", "cuda", 64, 1), "PyTorch sees a CUDA device; the GPU has bf16"),
    ],
)
def test_the_default_says_why(monkeypatch: pytest.MonkeyPatch, choice: EngineChoice, said: str) -> None:
    monkeypatch.setattr(choose, "choose", lambda: choice)
    monkeypatch.setattr(benchmark, "has_bf16", lambda: False)
    assert benchmark.describe_devices()["why"] == said
    if choice.precision == "fp32":
        monkeypatch.setattr(benchmark, "has_bf16", lambda: True)
        assert benchmark.describe_devices()["why"].endswith("the processor has bf16, but is faster without")


def test_rates_are_amounts_over_seconds_and_runs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    order: list[str] = []

    def work(name: str, seconds: float) -> Work:
        def run(times: int) -> None:
            nonlocal now
            now += times * seconds
            order.append(name)

        return Work(run, amount=3)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    fast, slow = benchmark.take_turns([work("fast", 0.25), work("slow", 4.0)], seconds=2.0, runs=3)
    assert fast == [12.0] * 3
    assert slow == [0.75] * 3
    assert order[-6:] == ["fast", "slow"] * 3


def test_the_spread_is_median_lowest_and_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 1.0, 2.0, 1.0, 4.0])  # to warm up, to size, and three runs
    now = 0.0

    def run(times: int) -> None:
        nonlocal now
        now += next(seconds)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    [found] = benchmark.take_turns([Work(run, amount=8)], seconds=1.0, runs=3)
    assert found == [4.0, 8.0, 2.0]
    assert Spread.of(found) == Spread(4.0, 2.0, 8.0, 3)


def test_the_photo_is_a_real_one_of_the_size_it_says() -> None:
    with Image.open(io.BytesIO(benchmark.photo())) as image:
        assert (image.format, image.size) == ("JPEG", (500, 375))
        assert len(image.getcolors(maxcolors=1 << 20) or ()) > 10_000


def test_another_machine_or_version_has_another_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = choose.measurement_path(tmp_path)
    assert here.parent == tmp_path
    changed = {name: replace(kind, package="numpy") for name, kind in engines.ENGINES.items()}
    monkeypatch.setattr(engines, "ENGINES", changed)
    assert choose.measurement_path(tmp_path) != here
