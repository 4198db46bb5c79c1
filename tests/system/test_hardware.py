"""What the processor is said to have, on machines that this one is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch

from topgraft.system import hardware


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    hardware._capabilities.cache_clear()
    yield
    hardware._capabilities.cache_clear()


def machine(monkeypatch: pytest.MonkeyPatch, name: str, found: Mapping[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(dict(found)), raising=False)
    monkeypatch.setattr(hardware.platform, "machine", lambda: name)


@pytest.mark.parametrize(
    ("name", "found", "bf16", "x86"),
    [
        ("x86_64", {"avx2": True, "avx512_f": True, "avx512_bf16": True}, True, True),
        ("AMD64", {"avx2": True, "amx_tile": True, "amx_bf16": True}, True, True),
        ("x86_64", {"avx2": True, "avx512_f": True, "avx512_bf16": False}, False, True),
        ("arm64", {"neon": True, "bf16": True}, True, False),
        ("aarch64", {"neon": True, "bf16": False}, False, False),
    ],
)
def test_bf16_is_what_the_processor_multiplies_itself(
    monkeypatch: pytest.MonkeyPatch, name: str, found: Mapping[str, Any], bf16: bool, x86: bool
) -> None:
    machine(monkeypatch, name, found)
    assert hardware.has_bf16() is bf16
    assert hardware.is_x86() is x86


def test_features_are_what_kernels_are_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"architecture": "arm64", "sve": True, "neon": True, "sve2": False, "sve_max_length": 256}
    machine(monkeypatch, "aarch64", found | {"cpu_name": "Some", "num_logical_cores": 8, "l2_cache_size": 1 << 20})
    capability = torch.backends.cpu.get_cpu_capability()
    assert hardware.processor_features() == ("aarch64", capability, "neon", "sve", "sve_max_length=256")
    assert hardware.processor_name() == "Some"


def test_an_older_pytorch_is_asked_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    knows = SimpleNamespace(
        _is_avx2_supported=lambda: True,
        _is_avx512_bf16_supported=lambda: False,
        _is_amx_tile_supported=lambda: True,
    )
    monkeypatch.setattr(torch, "cpu", knows)
    assert hardware.has_bf16() is True
    assert {"avx2", "amx_tile", "amx_bf16"} <= set(hardware.processor_features())
    assert not {"avx512_bf16", "avx512_vnni"} & set(hardware.processor_features())


def test_this_machine_has_a_name_and_memory() -> None:
    assert hardware.processor_name() != ""
    assert hardware.memory_bytes() is None or hardware.memory_bytes() > 100_000_000


def test_what_a_system_does_not_say_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hardware.os, "sysconf", raising=False)
    monkeypatch.delattr(hardware.os, "sysconf_names", raising=False)
    assert hardware.memory_bytes() is None or hardware.memory_bytes() > 0


@pytest.mark.parametrize(
    ("maker", "found", "pays"),
    [
        ("Intel(R) Xeon(R) Processor", {"avx512_bf16": True}, False),
        ("Intel(R) Xeon(R) Processor", {"avx512_bf16": True, "amx_bf16": True}, True),
        ("AMD EPYC 9R14", {"avx512_bf16": True}, True),
        ("AMD EPYC 7763", {"avx2": True}, False),
    ],
)
def test_bf16_pays_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, maker: str, found: Mapping[str, Any], pays: bool
) -> None:
    machine(monkeypatch, "x86_64", {**found, "cpu_name": maker})
    monkeypatch.setattr(hardware.platform, "processor", lambda: "x86_64")
    assert hardware.bf16_pays() is pays
