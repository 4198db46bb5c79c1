"""Where the tensors of a file lie in memory, by which kernels are picked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.fitted import TINY, fitted, write_weights
from torch import nn

from topgraft.artifacts import load, save
from topgraft.models.registry import BACKBONES
from topgraft.models.weights.load import load_network
from topgraft.system.threads import ALIGNMENT


def offset(tensor: torch.Tensor) -> int:
    """Bytes after the last address that PyTorch could have allocated."""
    return tensor.data_ptr() % ALIGNMENT


def test_loaded_networks_lie_as_allocated_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they answer otherwise, in the last digits, than the fitted network that was saved."""
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    save.save(fitted(), tmp_path / "run")
    write_weights(tmp_path / "w.safetensors", 7)
    for path, groups in (
        (tmp_path / "run" / "model.safetensors", load.load(tmp_path / "run").classifier.groups),
        (tmp_path / "w.safetensors", nn.ModuleDict(load_network("tiny", tmp_path / "w.safetensors").chain)),
    ):
        # 32 bytes each: mapped one after the other, every second lies between two multiples of 64.
        assert any(offset(tensor) for tensor in load_file(path).values())
        assert not any(offset(tensor) for tensor in groups.state_dict().values())
