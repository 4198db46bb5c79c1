"""The state of an unfinished fit in one file, so that it continues after a kill, and ends where it would have ended.

The file is a safetensors file (https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header, the
tensors' bytes) with one metadata key. That key holds the JSON state and a SHA-256 of everything else. It is written
here and not by the library, because tensors then go to the disk one by one, without a second copy of all of them in
memory, and a full disk is an OSError.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from topgraft.errors import CheckpointError
from topgraft.system.files import atomic_write

FORMAT_VERSION = 3


_KEY = "topgraft"  # of the metadata; a second key would make the order of the two, and so the bytes, a matter of chance


_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


# What reading damaged bytes may raise; the fuzz test shows that it is all of it.
_DAMAGE = (AttributeError, LookupError, TypeError, ValueError, RuntimeError, RecursionError, struct.error)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What an unfinished fit needs to continue.

    Attributes:
        tensors: by name, on the CPU and contiguous when they come from `read`.
        state: JSON types; tuples come back as lists, and keys as text. Floats come back bit for bit.
    """

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


def sections(**parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of several things as one mapping, ``PART/NAME``."""
    return {f"{part}/{key}": tensor for part, tensors in parts.items() for key, tensor in tensors.items()}


def section(tensors: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """One of the things that `sections` was given."""
    start = f"{part}/"
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file: whole or not at all. Equal tensors and state are equal bytes, in whatever order they come.

    Tensors may lie on a GPU, overlap, or be in any memory format; their values and types are kept.

    Raises:
        OSError: as the system says, such as that the disk is full; the previous file is whole.
        TypeError: a tensor or a state of a type that the file cannot hold.
    """
    tensors = checkpoint.tensors
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise TypeError(f"a checkpoint cannot hold {name}: its type is {tensor.dtype}")
    # Wide numbers first, so that each tensor starts at a multiple of its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    if _KEY in header or "__metadata__" in header:
        raise TypeError(f"a checkpoint's tensors cannot be named {_KEY} or __metadata__")
    said = {"format_version": FORMAT_VERSION, "state": checkpoint.state}
    hashed = _hash_of(header, said)
    for name in order:
        hashed.update(_bytes(tensors[name]))
    metadata = {_KEY: json.dumps({**said, "sha256": hashed.hexdigest()}, sort_keys=True)}
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(_bytes(tensors[name]))


def read(path: Path) -> Checkpoint | None:
    """What `write` has written there; None if there is no file.

    Raises:
        CheckpointError: it is damaged, or from a newer version; the message says what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        size = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8 : 8 + size])
        said = json.loads(header.pop("__metadata__")[_KEY])
        expected = said.pop("sha256")
        hashed = _hash_of(header, said)
        hashed.update(memoryview(data)[8 + size :])
        if hashed.hexdigest() != expected:
            raise ValueError("its SHA-256 differs")
        version, state = said["format_version"], said["state"]
        tensors = load(data)
    except (*_DAMAGE, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}), so the fit cannot continue from there; "
            "delete it, or start again with --overwrite"
        ) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, made by another Topgraft; this one continues from format {FORMAT_VERSION}: "
            "continue with the version that began it, or start again with --overwrite"
        )
    return Checkpoint({name: tensors[name] for name in sorted(tensors)}, state)


def _hash_of(header: Mapping[str, Any], said: Mapping[str, Any]) -> hashlib._Hash:
    """Of everything before the tensors' bytes."""
    return hashlib.sha256(json.dumps([header, said], sort_keys=True).encode())


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Its values in row-major order. A tensor that lies so on the CPU is not copied."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data


# --- Optimizers ----------------------------------------------------------------------------------------------------


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Moments and step counts as tensors, ``POSITION.NAME``, and the rest as JSON types.

    Works for PyTorch's Adam, AdamW and SGD. The position is that of the parameter in the optimizer's groups.
    """
    found = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for position, entry in found["state"].items():
        others[str(position)] = {name: value for name, value in entry.items() if not isinstance(value, torch.Tensor)}
        tensors |= {f"{position}.{name}": value for name, value in entry.items() if isinstance(value, torch.Tensor)}
    return tensors, {"kind": type(optimizer).__name__, "groups": found["param_groups"], "others": others}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
) -> None:
    """Bring an optimizer over the same parameters to where `pack_optimizer` was called.

    Call it when the parameters are where, and laid out as, they will be when it steps: PyTorch's fused kernels on
    the CPU walk through parameter and moments side by side in memory, so moments must lie as their parameter does.

    Args:
        optimizer: of the same kind, over parameters of the same shapes in the same order; changed in place.
        tensors, state: what `pack_optimizer` gave, as it was or through `write` and `read`.

    Raises:
        CheckpointError: it does not fit.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        if state["kind"] != type(optimizer).__name__:
            raise ValueError(f"it is of {state['kind']}, not of {type(optimizer).__name__}")
        entries: dict[int, dict[str, Any]] = {int(at): dict(entry) for at, entry in state["others"].items()}
        for key, tensor in tensors.items():
            position, name = key.split(".", 1)
            entries[int(position)][name] = _laid_out_as(parameters[int(position)], tensor, name)
        groups = [
            {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in g.items()}
            for g in state["groups"]
        ]
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's optimizer does not fit this network ({error}); start again with --overwrite"
        ) from error


def _laid_out_as(parameter: torch.Tensor, tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.dim() == 0:  # a step count
        return tensor.clone()
    if tensor.shape != parameter.shape:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)} for a weight of {tuple(parameter.shape)}")
    laid = torch.empty_like(parameter, dtype=tensor.dtype, device=tensor.device, memory_format=torch.preserve_format)
    return laid.copy_(tensor).detach()
