"""What only the OpenVINO engine has: files that it keeps, and telemetry that it must not send."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.loader import Batch
from topgraft.errors import TopgraftError, UsageError
from topgraft.features import engines
from topgraft.features.engines import base, choose, openvino

pytestmark = pytest.mark.skipif(engines.available()["openvino"] is None, reason="openvino is not installed")

SIDE = 8


class Small(nn.Module):
    """uint8 N×H×W×3 to N×4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.conv(pixels.permute(0, 3, 1, 2).float() / 255)
        return x.mean((2, 3))


def build(folder: Path, *, key: str = "small", precision: str = "fp32") -> base.Engine:
    choice = choose.choose("openvino", precision)
    return choose.build_engine(choice, Small().eval(), input_size=SIDE, key=key, folder=folder)


def answer(engine: base.Engine) -> NDArray[np.float32]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
    [(_, rows)] = engine.run([Batch(np.arange(6), torch.from_numpy(pixels))])
    return rows


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each conversion."""
    made: list[int] = []
    convert: Callable[..., Any] = openvino._convert

    def counted(*given: Any) -> Any:
        made.append(1)
        return convert(*given)

    monkeypatch.setattr(openvino, "_convert", counted)
    return made


def test_the_second_start_converts_nothing_and_gives_the_same(tmp_path: Path, conversions: list[int]) -> None:
    first = answer(build(tmp_path))
    second = answer(build(tmp_path))
    assert len(conversions) == 1
    assert np.array_equal(first, second)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_network_size_or_precision_is_converted(tmp_path: Path, conversions: list[int]) -> None:
    build(tmp_path)
    build(tmp_path, key="another")
    choice = choose.choose("openvino", "fp32")
    choose.build_engine(choice, Small().eval(), input_size=SIDE + 1, key="small", folder=tmp_path)
    assert len(conversions) == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, conversions: list[int], damage: str) -> None:
    expected = answer(build(tmp_path))
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    foreign = b"no network"
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
            "empty": b"",
            # Whole, but nothing that OpenVINO reads.
            "foreign": openvino.hashlib.sha256(foreign).digest() + foreign,
        }[damage]
    )
    assert np.array_equal(answer(build(tmp_path)), expected)
    assert len(conversions) == 2
    build(tmp_path)
    assert len(conversions) == 2


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, conversions: list[int]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    first = answer(build(file / "below"))
    assert np.array_equal(answer(build(file / "below")), first)
    assert len(conversions) == 2


def test_the_network_is_compiled_for_one_shape(tmp_path: Path) -> None:
    compiled = build(tmp_path).compiled  # type: ignore[attr-defined]
    assert [list(port.shape) for port in compiled.inputs] == [[4, SIDE, SIDE, 3]]
    assert compiled.input(0).element_type.to_string() == "u8"


def test_bf16_that_openvino_does_not_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32"]

    monkeypatch.setattr(openvino.import_openvino(), "Core", Core)
    choice = base.EngineChoice("openvino", "bf16", "cpu", 4, 1)
    with pytest.raises(UsageError, match="cannot compute in bf16 on this processor; use --precision fp32"):
        openvino.build(choice, Small().eval(), SIDE, "small", tmp_path)


def test_a_broken_installation_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(TopgraftError, match="use PyTorch with --engine torch"):
        openvino.import_openvino()


RUN = """
import sys
from pathlib import Path
sockets = []
sys.addaudithook(lambda event, given: sockets.append(event) if event.startswith("socket.") else None)
{before}
import numpy as np, torch
from topgraft.features.engines import choose
from topgraft.models.classifier import load_pretrained
from topgraft.data.loader import Batch

prefix = load_pretrained("efficientnet_lite0").prefix("stage7")
for start in range(2):
    built = choose.build_engine(
        choose.choose("openvino"), prefix, input_size=224, key="k", folder=Path(sys.argv[1])
    )
    [(_, rows)] = built.run([Batch(np.arange(3), torch.zeros((3, 224, 224, 3), dtype=torch.uint8))])
    assert rows.shape == (3, 1280)
{after}
print("sockets", sockets)
"""

# A stand-in for OpenVINO's telemetry that tells what it was asked to send.
SPY = """
import types
sent = []
class Telemetry:
    def __init__(self, *given, **named): self.backend = types.SimpleNamespace(app_name="")
    def init(self, *given, **named): pass
    def send_event(self, *given): sent.append(given)
    def __getattr__(self, name): return lambda *given, **named: None
spy = types.ModuleType("openvino_telemetry")
spy.Telemetry = Telemetry
sys.modules["openvino_telemetry"] = spy
sys.modules["openvino_telemetry.backend"] = backend = types.ModuleType("openvino_telemetry.backend")
backend.backend_ga4 = None
import openvino
assert sent == [("ov", "import", "general_import")], sent
"""


def run_alone(tmp_path: Path, before: str = "", after: str = "") -> str:
    """The script's output, run with an empty home and an empty temporary folder, both of which stay empty."""
    folders = {name: tmp_path / name for name in ("home", "temporary", "kept")}
    for folder in folders.values():
        folder.mkdir()
    home = {"HOME": folders["home"], "USERPROFILE": folders["home"], "APPDATA": folders["home"]}
    caches = {"LOCALAPPDATA": folders["home"], "XDG_CACHE_HOME": folders["home"] / "cache"}
    places = {**home, **caches, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folders["temporary"])}
    # In CI OpenVINO's telemetry would be silent of itself.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(before=before, after=after), str(folders["kept"])],
        env=kept | {name: str(value) for name, value in places.items()},
        cwd=folders["kept"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(folders["home"].rglob("*")) == []
    assert list(folders["temporary"].rglob("*")) == []
    assert [path.suffix for path in folders["kept"].rglob("*")] == [".openvino"]
    return done.stdout


def test_converting_and_running_opens_no_socket_and_leaves_no_file_elsewhere(tmp_path: Path) -> None:
    loaded = 'print([name for name, module in sys.modules.items() if "openvino_telemetry" in name and module])'
    assert run_alone(tmp_path, after=loaded) == "[]\nsockets []\n"


def test_telemetry_is_off_where_somebody_imported_openvino_before(tmp_path: Path) -> None:
    assert run_alone(tmp_path, before=SPY, after="print(len(sent))") == "1\nsockets []\n"
