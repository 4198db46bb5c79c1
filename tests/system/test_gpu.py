"""What is asked of a GPU before it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from topgraft.system.gpu import gpu_names, gpu_problem


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


def test_where_there_is_none_there_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "zeros", lambda *args, **named: pytest.fail("tried"))
    assert gpu_problem() is None


def test_a_gpu_without_kernels_is_tried_once_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def zeros(*shape: int, device: str) -> Any:
        tried.append(device)
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", zeros)
    for _ in range(2):
        assert gpu_problem() == "CUDA error: no kernel image is available for execution on the device"
    assert tried == ["cuda"]


def test_a_gpu_that_computes_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_processor = torch.zeros(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: on_the_processor)
    assert gpu_problem() is None


def test_all_gpus_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "NVIDIA {}".format)
    assert gpu_names() == ["NVIDIA 0", "NVIDIA 1"]
