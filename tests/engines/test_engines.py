"""Which engine is chosen, and what happens without OpenVINO."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from topgraft import engines
from topgraft.engines import EngineChoice, spec
from topgraft.engines.torch import arithmetic
from topgraft.errors import UsageError


def with_kinds(monkeypatch: pytest.MonkeyPatch, **changes: dict[str, object]) -> None:
    """The table, with the named parts of some engines replaced."""
    table = {name: replace(kind, **changes.get(name, {})) for name, kind in engines.ENGINES.items()}
    monkeypatch.setattr(engines, "ENGINES", table)


def machine(monkeypatch: pytest.MonkeyPatch, *, openvino: bool = True, cuda: bool = False, bf16: bool = True) -> None:
    """A machine that has what is said, whatever this one has."""
    can = ("bf16", "fp32") if bf16 else ("fp32",)
    sizes = {"cpu": 4, "cuda": 64}
    shared = {"precisions": lambda device: can, "batch_size": sizes.__getitem__}
    with_kinds(
        monkeypatch,
        openvino={"devices": lambda: ("cpu",) if openvino else (), **shared},
        torch={"devices": lambda: ("cuda", "cpu") if cuda else ("cpu",), **shared},
    )


@pytest.mark.parametrize(
    ("has", "asked", "expected"),
    [
        ({}, {}, ("openvino", "bf16", "cpu", 4)),
        ({"bf16": False}, {}, ("openvino", "fp32", "cpu", 4)),
        ({"openvino": False}, {}, ("torch", "bf16", "cpu", 4)),
        ({"openvino": False, "bf16": False}, {}, ("torch", "fp32", "cpu", 4)),
        ({"cuda": True}, {}, ("torch", "bf16", "cuda", 64)),
        ({"cuda": True}, {"device": "cpu"}, ("openvino", "bf16", "cpu", 4)),
        ({"cuda": True}, {"engine": "openvino"}, ("openvino", "bf16", "cpu", 4)),
        ({"cuda": True, "openvino": False}, {"device": "cpu"}, ("torch", "bf16", "cpu", 4)),
        ({}, {"engine": "torch", "precision": "fp32"}, ("torch", "fp32", "cpu", 4)),
        ({}, {"device": "cpu", "precision": "fp32"}, ("openvino", "fp32", "cpu", 4)),
    ],
)
def test_the_rule(
    monkeypatch: pytest.MonkeyPatch,
    has: dict[str, bool],
    asked: dict[str, str],
    expected: tuple[str, str, str, int],
) -> None:
    machine(monkeypatch, **has)
    name, precision, device, size = expected
    assert engines.choose(**asked) == EngineChoice(name, precision, device, size, torch.get_num_threads())


@pytest.mark.parametrize(
    ("has", "asked", "said"),
    [
        (
            {"openvino": False},
            {"engine": "openvino"},
            "is not installed; pip install openvino, or use --engine torch",
        ),
        ({"bf16": False}, {"precision": "bf16"}, "no bf16 on this processor; it can compute in fp32"),
        ({}, {"device": "cuda"}, "the engine torch has no cuda here; it can use cpu"),
        (
            {"cuda": True},
            {"engine": "openvino", "device": "cuda"},
            "openvino has no cuda here; it can use cpu",
        ),
        ({"cuda": True, "bf16": False}, {"precision": "bf16"}, "no bf16 on this GPU; it can compute in fp32"),
        ({}, {"engine": "tpu"}, "no engine 'tpu'; it is one of auto, openvino, torch, fastest"),
        ({}, {"precision": "int4"}, "no precision 'int4'; it is one of auto, bf16, fp32"),
        ({}, {"device": "mps"}, "no device 'mps'; it is one of auto, cpu, cuda"),
    ],
)
def test_what_is_not_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], asked: dict[str, str], said: str
) -> None:
    machine(monkeypatch, **has)
    with pytest.raises(UsageError) as caught:
        engines.choose(**asked)
    assert said in str(caught.value)


def test_a_recorded_choice_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, cuda=True)
    recorded = engines.choose()
    machine(monkeypatch)
    with pytest.raises(UsageError, match="no cuda here"):
        engines.build_engine(recorded, torch.nn.Identity().eval(), input_size=8, key="k", folder=tmp_path)


def test_every_choice_is_listed_once_the_default_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True)
    found = [(choice.name, choice.precision, choice.device) for choice in engines.possible()]
    assert found == [
        ("torch", "bf16", "cuda"),
        ("openvino", "bf16", "cpu"),
        ("openvino", "fp32", "cpu"),
        ("torch", "fp32", "cuda"),
        ("torch", "bf16", "cpu"),
        ("torch", "fp32", "cpu"),
    ]


def save_measurement(folder: Path, rates: dict[tuple[str, str], float]) -> None:
    measured = [
        {"choice": asdict(engines.choose(name, precision)), "images_per_second": {"median": rate}}
        for (name, precision), rate in rates.items()
    ]
    engines.measurement_path(folder).write_text(json.dumps({"engines": measured}), encoding="utf-8")


def test_fastest_is_the_best_that_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch)
    save_measurement(tmp_path, {("openvino", "bf16"): 90.0, ("torch", "bf16"): 100.0, ("openvino", "fp32"): 50.0})
    assert engines.choose("fastest", folder=tmp_path) == engines.choose("torch", "bf16")
    assert engines.choose("fastest", "fp32", folder=tmp_path) == engines.choose("openvino", "fp32")
    with pytest.raises(UsageError, match="on device cuda was measured"):
        engines.choose("fastest", device="cuda", folder=tmp_path)


@pytest.mark.parametrize("content", [None, "", "[]", '{"engines": [{"choice": {}}]}', '{"engines": []}'])
def test_fastest_needs_a_measurement(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        engines.measurement_path(tmp_path).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="run `topgraft devices --measure` first"):
        engines.choose("fastest", folder=tmp_path)


def test_a_measurement_of_another_machine_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_measurement(tmp_path, {("torch", "fp32"): 100.0})
    assert engines.choose("fastest", folder=tmp_path).name == "torch"
    monkeypatch.setattr(engines, "processor_features", lambda: ("another",))
    with pytest.raises(UsageError, match="needs a measurement of this machine"):
        engines.choose("fastest", folder=tmp_path)


def test_versions_without_an_import() -> None:
    assert spec.installed_version("torch") == f"torch {torch.__version__}"
    assert spec.installed_version("no_such_package") is None
    assert engines.available()["torch"] == engines.version("torch")


WITHOUT_OPENVINO = """
import sys
sys.modules["openvino"] = None  # as if it were not installed
import numpy as np, torch
from pathlib import Path
from topgraft import engines
from topgraft.dataset import Batch
from topgraft.errors import UsageError

assert engines.available()["openvino"] is None
choice = engines.choose()
assert choice.name == "torch", choice
assert {found.name for found in engines.possible()} == {"torch"}
built = engines.build_engine(choice, torch.nn.Flatten().eval(), input_size=2, key="k", folder=Path(sys.argv[1]))
[(indices, rows)] = built.run([Batch(np.array([0]), torch.full((1, 2, 2, 3), 7, dtype=torch.uint8))])
assert rows.tolist() == [[7.0] * 12]
try:
    engines.choose("openvino")
except UsageError as error:
    print(error)
"""


def test_everything_works_without_openvino(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_OPENVINO, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout == "the engine openvino is not installed; pip install openvino, or use --engine torch\n"
    assert list(tmp_path.iterdir()) == []


def test_on_a_gpu_cudnn_stays_on_and_rounds_as_float32() -> None:
    """Its switch is off by default where flags are set, and nothing but the speed would tell."""
    choice = EngineChoice("torch", "fp32", "cuda", 64, 1)
    for _ in range(2):
        with arithmetic(choice):
            assert torch.backends.cudnn.enabled
            assert not torch.backends.cudnn.allow_tf32
            assert torch.is_inference_mode_enabled()
