"""Read the arrays of Keras's files, and nothing else of them: no layer is made, no code of the file is run.

Three formats, told apart by content (https://keras.io/guides/serialization_and_saving/):

- ``.weights.h5`` of Keras 3: HDF5, ``layers/CLASS_NUMBER/vars/0`` … in the order of ``layer.weights``. Each class is
  numbered by itself, in the order of ``model.layers``; the first has no number.
- ``.keras``: a zip of such a file with ``config.json``, which has the names of the layers in the same order.
- ``.h5`` of Keras 1 to 3 and of ``keras.applications``: HDF5, a group for each layer by name. The attributes
  ``layer_names`` and ``weight_names`` say what is where; a whole model has it all under ``model_weights``.

A damaged HDF5 file can make the library that reads it wait for ever, and nothing in the same process can stop it. So
a process of its own finds out where the arrays lie (`topgraft.models.weights.keras_hdf5`), and here only bytes are
read.
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

_LONGEST = 60.0  # seconds to find the arrays: under one for a file of any size, some for an archive on a slow disk


def read_keras(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a ``.weights.h5``, ``.keras`` or older ``.h5`` file, in Keras's layout.

    They are named ``LAYER.kernel``, ``.bias``, ``.gamma``, ``.beta``, ``.moving_mean``, ``.moving_variance``. LAYER is
    the layer's name, or ``layers/conv2d_10`` where the file has only classes and numbers.

    Raises:
        ValueError, KeyError, OSError, RuntimeError, zipfile.BadZipFile: the file is damaged, or holds what no weights
            need: links, data in other files, compressed data, more values than it has bytes.
        WeightsError: h5py is not installed.
    """
    places = _find_arrays(path)
    if is_hdf5(path):
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, places)
    with zipfile.ZipFile(path) as archive:
        content = open_member(archive, ARCHIVED)
    return _read(io.BytesIO(content), len(content), places)


def _find_arrays(path: Path) -> list[dict[str, Any]]:
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
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(answer["error"])
    arrays: list[dict[str, Any]] = answer["arrays"]
    return arrays


def _read(file: BinaryIO, size: int, places: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    room = size  # bytes that the file can hold; each array has its own
    for place in places:
        length = math.prod(place["shape"]) * _numpy(place).itemsize
        room -= length
        if room < 0 or not 0 <= place["offset"] <= size - length:
            raise ValueError(f"{place['name']} declares {length:,} bytes, which are not there")
        file.seek(place["offset"])
        content = bytearray(length)
        if file.readinto(content) != length:  # type: ignore[attr-defined]  # every binary file has it
            raise ValueError(f"it ends within {place['name']}")
        tensors[place["name"]] = _tensor(content, place)
    return tensors


def _numpy(place: Mapping[str, Any]) -> np.dtype[Any]:
    kind = np.dtype(np.int16 if place["type"] == "bfloat16" else place["type"])
    if kind.kind not in "fiu" or kind.itemsize > 8:
        raise ValueError(f"{place['name']} holds {kind}, which are not weights")
    return kind


def _tensor(content: bytearray, place: Mapping[str, Any]) -> torch.Tensor:
    values = np.frombuffer(content, _numpy(place)).reshape(place["shape"])
    tensor = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    return tensor.view(torch.bfloat16) if place["type"] == "bfloat16" else tensor
