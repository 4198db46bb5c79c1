"""Hashes of weights: of files, of named tensors, of a module's state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, BatchNorm statistics included: names, types, shapes, bytes."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(plain.view(torch.uint8).numpy()))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """A hash of named tensors: SHA-256 in hex over each one's name, type, shape and bytes, in order of name.

    It depends on values only: not on the device, the memory layout or the order of the mapping. Tensors are
    hashed side by side in threads, as hashing releases the interpreter's lock.
    """

    def line(key: str) -> str:
        tensor = state[key].detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        return f"{key} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}\n"

    with ThreadPoolExecutor() as threads:
        lines = threads.map(line, sorted(state))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
