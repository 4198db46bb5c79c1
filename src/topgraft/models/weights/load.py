"""Weights for a chain: found, checked, renamed from whatever convention they are written in, and put in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError
from topgraft.models.registry import find_network
from topgraft.models.spec import SMALLEST_INPUT, Backbone, Build, Chain, put_constants, random_chain
from topgraft.system.threads import aligned

from .key_maps import at_size
from .names import LEARNED, RANDOM
from .open import Opened, open_weights


@dataclass(frozen=True)
class Network:
    """A chain with weights in it, in evaluation mode on the CPU.

    Attributes:
        chain: see `topgraft.models.spec.Chain`.
        build: what it was built by.
        spec: how pixels are made for it.
        weights: name of the weights, ``random``, ``learnt``, or the file's name.
        sha256: of the whole file, in hex; empty for random ones, and where another package keeps the file.
        license: of the weights, as published.
        new_head: whether the head is a new one, of zeros.
    """

    chain: Chain
    build: Build
    spec: ImageSpec
    weights: str
    sha256: str
    license: str
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
        backbone: a name that `topgraft.models.registry.find_network` knows. A baseline's base is random: it is
            learned later.
        weights: a name in `topgraft.models.weights.published.WEIGHTS`, a file, or ``random``; the backbone's first
            if None or
            ``imagenet``.
        input_size: side of the images; the weights' own if None. At another size than their own, dense layers
            between the convolutions and the head do not fit and are left out.
        classes: outputs. If None, the published top is kept; else the head is a new ``nn.Linear`` of zeros, or drawn
            with all other weights if they are random.
        channels: 3, or 1 for gray: the first convolution's kernels are then summed over their colors, which gives
            what the network would see if the gray image stood in all three.
        seed: of random weights.
        keep_top: also keep the published top where it has `classes` outputs.
        folder: of the cache, where downloads are kept; `topgraft.system.files.cache_folder` if None.

    Raises:
        UsageError: an unknown name, weights of another network, an impossible size, or the published top asked for
            at a size that its dense layers do not take.
        WeightsError: the weights are not installed, are damaged, or do not fit.
        DownloadError: they are not here, and cannot be downloaded.
    """
    network = find_network(backbone)
    _check_shape(input_size, classes, channels)
    if network.learn is not None and weights is None:
        weights = LEARNED
    if weights == RANDOM or (weights == LEARNED and network.learn is not None):
        build = Build(
            input_size=input_size or network.untrained.input_size,
            classes=classes or 1000,
            channels=channels,
            top="published" if classes is None or keep_top else "own",
        )
        chain = _random(network, build, seed)
        return Network(chain, build, at_size(network.untrained, build.input_size), str(weights), "", "none")
    opened = open_weights(network, weights, folder, input_size=input_size)
    return _load_opened(network, opened, input_size, classes, channels, keep_top)


def _load_opened(
    network: Backbone, opened: Opened, input_size: int | None, classes: int | None, channels: int, keep_top: bool
) -> Network:
    """The network with opened weights in it; the arguments are those of `load_network`."""
    if opened.headless and classes is None:
        raise UsageError(
            f"the published top of {network.name} is not one dense layer; say how many classes a new one has"
        )
    size = input_size or opened.spec.input_size
    fc = size == opened.build.input_size
    fits = (fc or "fc" not in network.groups) and not opened.headless
    new_head = classes is not None and not (keep_top and classes == opened.build.classes and fits)
    build = replace(
        opened.build,
        input_size=size,
        classes=classes or opened.build.classes,
        channels=channels,
        top="own" if new_head else "published",
        fc=fc,
    )
    if not (new_head or fits):
        raise UsageError(
            f"the published top of {network.name} stands on dense layers that take {opened.build.input_size} pixels, "
            f"not {size}; say how many classes a new one should have"
        )
    with torch.device("meta"):
        chain = network.build(build)
    _put(chain, opened.state, new_head=new_head)
    put_constants(network, build, chain)
    return Network(chain, build, at_size(opened.spec, size), opened.name, opened.sha256, opened.license, new_head)


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
            values[key] = (state[key] / 3).expand(-1, 3, -1, -1).contiguous()  # a gray image in all three sums to it
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
        raise UsageError(f"images have 3 channels, or 1 where they are gray, not {channels}")
