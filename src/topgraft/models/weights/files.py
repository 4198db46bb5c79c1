"""Read the tensors of a file of weights, whatever its format, running no code that the file holds."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topgraft.errors import WeightsError, shortened

from .keras import read_keras
from .keras_hdf5 import ARCHIVED, HDF5_START

# What readers raise on bytes that are not what they seem.
_DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, zlib.error),
)

# What training scripts nest a state dict under, and what torch's parallel wrappers put before each name.
_NESTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "groups.")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, in the file's order.

    Reads PyTorch's files (``weights_only``), safetensors, NumPy's ``.npz`` and Keras's files. What the format is is
    seen from the content, not from the name.

    Raises:
        WeightsError: it cannot be read, is damaged, or is of another format.
    """
    try:
        reader = _reader(path)
        tensors = None if reader is None else reader(path)
    except _DAMAGE as error:
        raise WeightsError(_unread(path, error)) from error
    if not tensors:
        raise WeightsError(
            f"{path} holds no weights that Topgraft can read; it reads PyTorch's .pth, .safetensors, .npz, "
            "and Keras's .weights.h5, .keras and .h5"
        )
    return tensors


def _unread(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read as weights ({shortened(' '.join(str(error).split()), 300)}); "
        "copy or download it again, or save it as safetensors"
    )


def _reader(path: Path) -> Callable[[Path], dict[str, torch.Tensor]] | None:
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if ARCHIVED in names:
            return read_keras
        return _npz if all(name.endswith(".npy") for name in names) else _pytorch
    if start.startswith(HDF5_START):
        return read_keras
    if start[8:9] == b"{":
        return _safetensors
    if start[:1] == b"\x80":  # a pickle: PyTorch before 1.6
        return _pytorch
    return None


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _pytorch(path: Path) -> dict[str, torch.Tensor]:
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    for nest in _NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
    if not isinstance(found, Mapping):
        return {}
    tensors = {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _npz(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return dequantised({key: torch.from_numpy(arrays[key]) for key in arrays.files})


def dequantised(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fixed-point weights as numbers: ``LAYER.weight`` = ``LAYER.weight_int8`` × 2^−``LAYER.weight_frac_bits``."""
    result: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        if key.endswith(".weight_int8") and f"{key.removesuffix('_int8')}_frac_bits" in tensors:
            bits = tensors[f"{key.removesuffix('_int8')}_frac_bits"]
            result[key.removesuffix("_int8")] = tensor.float() * torch.exp2(-bits.float())
        elif not (key.endswith(".weight_frac_bits") and f"{key.removesuffix('_frac_bits')}_int8" in tensors):
            result[key] = tensor
    return result
