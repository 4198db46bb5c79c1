"""Open a file of weights: find it, check it, read it, and rename its tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError
from topgraft.models.spec import Backbone, Build

from .digest import file_sha256
from .files import read_tensors
from .key_maps import match_tensors
from .names import IMAGENET, RANDOM
from .obtain import obtain
from .published import WEIGHTS, find_weights


@dataclass(frozen=True)
class Opened:
    """The tensors of a file of weights under the chain's names, and what is known of them.

    Attributes:
        state: of the network as published: `build` says which modules that has.
        build: with the published top, dense layers and classes.
        spec: how pixels are made for them.
        name: of the weights, or of the file.
        sha256: of the whole file, in hex; empty where another package keeps it.
        license: as published; "not stated" for a user's file.
        headless: they have no top that fits; the head's values are zeros.
    """

    state: dict[str, torch.Tensor]
    build: Build
    spec: ImageSpec
    name: str
    sha256: str
    license: str
    headless: bool = False


def open_weights(
    network: Backbone, weights: str | Path | None = None, folder: Path | None = None, *, input_size: int | None = None
) -> Opened:
    """Find a file of weights, check it, read it and rename its tensors; nothing is built from it yet.

    Args:
        network: what they must fit.
        weights: a name, or a file; the network's first if None or ``imagenet``. A copy of a published file, wherever
            it lies, is known by its hash and treated as if it had been named.
        folder: of the cache, where downloads are kept; `topgraft.system.files.cache_folder` if None.
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
            return Opened(match.state, match.build, match.convention.spec, fetched.name, "", fetched.license, headless)
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
    return Opened(match.state, match.build, row.spec, row.name, sha256, row.license)
