"""Read the arrays of Keras files, and nothing else: no layer is built, no code of the file is run.

Three formats, told apart by content (https://keras.io/guides/serialization_and_saving/):

- ``.weights.h5`` of Keras 3: HDF5, ``layers/CLASS_NUMBER/vars/0`` … in the order of ``layer.weights``. Each class is
  numbered by itself, in the order of ``model.layers``; the first has no number.
- ``.keras``: a zip of such a file with ``config.json``, which has the names of the layers in the same order.
- ``.h5`` of Keras 1 to 3 and of ``keras.applications``: HDF5 with one named group for each layer. The
  attributes ``layer_names`` and ``weight_names`` list the content; a whole model has it below ``model_weights``.

A damaged HDF5 file can make the HDF5 library hang, and nothing in the same process can stop it. So a separate process
finds the arrays (`topgraft.models.weights.keras_hdf5`), and this one reads bytes only.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from topgraft.errors import WeightsError

from . import keras_hdf5
from .keras_hdf5 import ARCHIVED, is_hdf5, open_member
from .keras_names import CONFIG, name_arrays

_LONGEST = 60.0  # seconds to find the arrays: less than one for any HDF5 file, a few for an archive on a slow disk


def read_keras(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a ``.weights.h5``, ``.keras`` or older ``.h5`` file, in Keras's layout.

    They are named ``LAYER.kernel``, ``.bias``, ``.gamma``, ``.beta``, ``.moving_mean``, ``.moving_variance``. LAYER is
    the layer's name, or ``layers/conv2d_10`` where the file has only classes and numbers.

    Raises:
        ValueError, KeyError, OSError, RuntimeError, zipfile.BadZipFile: the file is damaged, or holds what no weights
            need: links, data in other files, compressed data, more values than it has bytes.
        WeightsError: h5py is not installed.
    """
    if is_hdf5(path):
        arrays = name_arrays(_find_arrays(path))
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, arrays)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(open_member(archive, CONFIG))
        arrays = name_arrays(_find_arrays(path), config)
        data = open_member(archive, ARCHIVED)
    return _read(io.BytesIO(data), len(data), arrays)


def _find_arrays(path: Path) -> dict[str, Any]:
    if importlib.util.find_spec("h5py") is None:
        raise WeightsError(f"{path} is a file of Keras; reading it needs h5py: pip install 'topgraft[keras]'")
    program = [sys.executable, "-P", str(keras_hdf5.__file__), str(path)]
    try:
        done = subprocess.run(program, capture_output=True, timeout=_LONGEST, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"its arrays were not found within {_LONGEST:.0f} s") from error
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ValueError(f"the HDF5 library broke off with status {done.returncode}: {' '.join(last)}")
    result: dict[str, Any] = json.loads(done.stdout)
    if "error" in result:
        raise ValueError(result["error"])
    return result


def _read(file: BinaryIO, size: int, arrays: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    room = size  # bytes of the file that no array has claimed
    for array in arrays:
        length = math.prod(array["shape"]) * _numpy(array).itemsize
        room -= length
        if room < 0 or not 0 <= array["offset"] <= size - length:
            raise ValueError(f"{array['name']} declares {length:,} bytes, which are not there")
        file.seek(array["offset"])
        content = bytearray(length)
        if file.readinto(content) != length:  # type: ignore[attr-defined]  # every binary file has it
            raise ValueError(f"it ends within {array['name']}")
        tensors[array["name"]] = _tensor(content, array)
    return tensors


def _numpy(array: Mapping[str, Any]) -> np.dtype[Any]:
    kind = np.dtype(np.int16 if array["type"] == "bfloat16" else array["type"])
    if kind.kind not in "fiu" or kind.itemsize > 8:
        raise ValueError(f"{array['name']} holds {kind}, which are not weights")
    return kind


def _tensor(content: bytearray, array: Mapping[str, Any]) -> torch.Tensor:
    values = np.frombuffer(content, _numpy(array)).reshape(array["shape"])
    tensor = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    return tensor.view(torch.bfloat16) if array["type"] == "bfloat16" else tensor
