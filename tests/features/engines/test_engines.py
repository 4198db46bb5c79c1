"""Which engine is chosen, and what happens without OpenVINO."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from topgraft.errors import UsageError
from topgraft.features import engines
from topgraft.features.engines import base, choose
from topgraft.features.engines.base import EngineChoice
from topgraft.features.engines.torch import arithmetic, recorded
from topgraft.system.hardware import processor_features


def with_kinds(monkeypatch: pytest.MonkeyPatch, **changes: dict[str, object]) -> None:
    """The table, with the named parts of some engines replaced."""
    for name, kind in engines.ENGINES.items():
        monkeypatch.setitem(engines.ENGINES, name, replace(kind, **changes.get(name, {})))


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
    assert choose.choose(**asked) == EngineChoice(name, precision, device, size, torch.get_num_threads())


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
        choose.choose(**asked)
    assert said in str(caught.value)


def test_a_recorded_choice_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, cuda=True)
    recorded = choose.choose()
    machine(monkeypatch)
    with pytest.raises(UsageError, match="no cuda here"):
        choose.build_engine(recorded, torch.nn.Identity().eval(), input_size=8, key="k", folder=tmp_path)


def test_every_choice_is_listed_once_the_default_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True)
    found = [(choice.name, choice.precision, choice.device) for choice in choose.possible()]
    assert found == [
        ("torch", "bf16", "cuda"),
        ("openvino", "bf16", "cpu"),
        ("openvino", "fp32", "cpu"),
        ("torch", "fp32", "cuda"),
        ("torch", "bf16", "cpu"),
        ("torch", "fp32", "cpu"),
    ]


SAID = "no kernel image is available"


def test_a_gpu_that_computes_nothing_is_left_alone_and_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, cuda=True)
    monkeypatch.setattr(choose, "gpu_problem", lambda: SAID)
    choose._leave_alone.cache_clear()
    assert (choose.choose().name, choose.choose().device) == ("openvino", "cpu")
    assert choose.choose("torch").device == "cpu"
    assert {choice.device for choice in choose.possible()} == {"cpu"}
    assert capsys.readouterr().err.count(SAID) == 1


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_asked_for_a_gpu_that_computes_nothing_the_message_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    machine(monkeypatch, cuda=True)
    monkeypatch.setattr(choose, "gpu_problem", lambda: SAID)
    with pytest.raises(UsageError, match=rf"computes nothing on it \({SAID}\); install .* or use --device cpu$"):
        choose.choose(engine, device="cuda")
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="openvino has no cuda here; it can use cpu"):
        choose.choose("openvino", device="cuda")


def test_asked_for_the_processor_no_gpu_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True)
    monkeypatch.setattr(choose, "gpu_problem", lambda: pytest.fail("woken"))
    assert choose.choose(device="cpu").device == "cpu"
    assert choose.choose("torch", device="cpu").device == "cpu"


def save_measurement(folder: Path, rates: dict[tuple[str, str], float]) -> None:
    measured = [
        {"choice": asdict(choose.choose(name, precision)), "images_per_second": {"median": rate}}
        for (name, precision), rate in rates.items()
    ]
    choose.measurement_path(folder).write_text(json.dumps({"engines": measured}), encoding="utf-8")


def test_fastest_is_the_best_that_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch)
    save_measurement(tmp_path, {("openvino", "bf16"): 90.0, ("torch", "bf16"): 100.0, ("openvino", "fp32"): 50.0})
    assert choose.choose("fastest", folder=tmp_path) == choose.choose("torch", "bf16")
    assert choose.choose("fastest", "fp32", folder=tmp_path) == choose.choose("openvino", "fp32")
    with pytest.raises(UsageError, match="on device cuda was measured"):
        choose.choose("fastest", device="cuda", folder=tmp_path)


def test_a_measurement_is_of_a_machine_with_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for names in ([], ["NVIDIA A100"], ["NVIDIA T4"]):
        monkeypatch.setattr(choose, "gpu_names", lambda names=names: names)
        found.append(choose.machine_fingerprint())
    assert len(set(found)) == 3
    record = [processor_features(), torch.get_num_threads(), engines.available()]
    assert found[0] == hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16], "as it was without one"


@pytest.mark.parametrize("content", [None, "", "[]", '{"engines": [{"choice": {}}]}', '{"engines": []}'])
def test_fastest_needs_a_measurement(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        choose.measurement_path(tmp_path).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="run `topgraft devices --measure` first"):
        choose.choose("fastest", folder=tmp_path)


def test_a_measurement_of_another_machine_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_measurement(tmp_path, {("torch", "fp32"): 100.0})
    assert choose.choose("fastest", folder=tmp_path).name == "torch"
    monkeypatch.setattr(choose, "processor_features", lambda: ("another",))
    with pytest.raises(UsageError, match="needs a measurement of this machine"):
        choose.choose("fastest", folder=tmp_path)


def test_versions_without_an_import() -> None:
    assert base.installed_version("torch") == f"torch {torch.__version__}"
    assert base.installed_version("no_such_package") is None
    assert engines.available()["torch"] == engines.version("torch")


WITHOUT_OPENVINO = """
import sys
sys.modules["openvino"] = None  # as if it were not installed
import numpy as np, torch
from pathlib import Path
from topgraft.data.loader import Batch
from topgraft.features import engines
from topgraft.features.engines import choose
from topgraft.errors import UsageError

assert engines.available()["openvino"] is None
choice = choose.choose()
assert choice.name == "torch", choice
assert {found.name for found in choose.possible()} == {"torch"}
built = choose.build_engine(choice, torch.nn.Flatten().eval(), input_size=2, key="k", folder=Path(sys.argv[1]))
[(indices, rows)] = built.run([Batch(np.array([0]), torch.full((1, 2, 2, 3), 7, dtype=torch.uint8))])
assert rows.tolist() == [[7.0] * 12]
try:
    choose.choose("openvino")
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


class FakeGenerator:
    """Its state is a list, which a recording writes into."""

    def __init__(self, state: list[str]) -> None:
        self.state = state

    def graphsafe_get_state(self) -> FakeGenerator:
        return FakeGenerator(self.state)

    def graphsafe_set_state(self, other: FakeGenerator) -> None:
        self.state = other.state

    def clone_state(self) -> FakeGenerator:
        return FakeGenerator([*self.state])


class FakeCuda:
    """What recording a graph takes of ``torch.cuda``: a recording that fails keeps its stream and the generator."""

    CUDAGraph = staticmethod(lambda: SimpleNamespace(replay=lambda: None))

    def __init__(self) -> None:
        self.default_generators = [FakeGenerator([])]
        self.current, self.mode, self.recordings = "mine", 0, 0

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None)

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    def current_stream(self) -> Any:
        return SimpleNamespace(name=self.current, wait_stream=lambda other: None)

    def set_stream(self, stream: Any) -> None:
        self.current = stream.name

    def current_device(self) -> int:
        return 0

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = {"warn": 1}.get(str(mode), 0)

    @contextmanager
    def graph(self, graph: Any, capture_error_mode: str) -> Iterator[None]:
        self.recordings += 1
        self.current = "aside"
        self.default_generators[0].state.append("recording")
        yield
        self.default_generators[0].state.remove("recording")
        self.current = "mine"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()

    def zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: str) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    names = {"zeros": zeros, "uint8": torch.uint8, "cuda": fake, "Tensor": torch.Tensor}
    monkeypatch.setattr(sys.modules["topgraft.features.engines.torch"], "torch", SimpleNamespace(**names))
    return fake


def test_a_network_is_recorded_and_the_generator_is_let_go(cuda: FakeCuda) -> None:
    found = recorded(lambda pixels: pixels + 1, (2, 3))
    assert (cuda.recordings, cuda.current, cuda.mode) == (1, "mine", 0)
    assert torch.equal(found(torch.zeros(2, 3)), torch.ones(2, 3))
    assert cuda.default_generators[0].state == []


def test_a_recording_that_fails_leaves_stream_and_generator_as_they_were(
    cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    own = cuda.default_generators[0].state

    def network(pixels: torch.Tensor) -> torch.Tensor:
        if cuda.recordings:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return pixels

    assert recorded(network, (2, 3)) is network
    assert cuda.default_generators[0].state is own
    assert own == []
    assert cuda.current == "mine"
    assert "cannot be recorded: operation not permitted when stream is capturing\n" in capsys.readouterr().err


def test_what_waits_for_the_gpu_is_not_tried(cuda: FakeCuda, capsys: pytest.CaptureFixture[str]) -> None:
    def network(pixels: torch.Tensor) -> torch.Tensor:
        if cuda.mode == 1:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return pixels

    assert recorded(network, (2, 3)) is network
    assert (cuda.recordings, cuda.mode) == (0, 0)
    assert "it waits for the GPU on its way" in capsys.readouterr().err


def test_an_error_while_looking_leaves_the_mode_as_it_was(cuda: FakeCuda) -> None:
    def network(pixels: torch.Tensor) -> torch.Tensor:
        if cuda.mode == 1:
            raise RuntimeError("out of memory")
        return pixels

    with pytest.raises(RuntimeError, match="out of memory"):
        recorded(network, (2, 3))
    assert cuda.mode == 0
