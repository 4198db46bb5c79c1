"""The published networks as plain modules, for those who want to train or take apart one by themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.models.weights.load import load_network
from topgraft.models.weights.names import IMAGENET
from topgraft.system import progress
from topgraft.system.quantities import InputSize, image_side

from .spec import Build, Chain

# TensorFlow Models' CHANNEL_MEANS, RGB on 0…255, in its imagenet_preprocessing.py for ResNet:
# https://github.com/tensorflow/models/tree/master/official/legacy/image_classification/resnet
RESCALE_MEANS = (123.68, 116.78, 103.94)

DataFormat = Literal["channels_first", "channels_last"]


class PlainNetwork(nn.Module):
    """A chain without preprocessing: normalized floats in, logits out.

    Attributes:
        groups: name → module in the chain's order; the last is ``head``.
        build: what the chain was built by.
        data_format: ``channels_first`` takes N×C×H×W, ``channels_last`` N×H×W×C.
        batch_size: images that every batch must have; None for any number.
    """

    means: torch.Tensor

    def __init__(
        self, chain: Chain, build: Build, *, data_format: DataFormat, rescale_inputs: bool, batch_size: int | None
    ) -> None:
        super().__init__()
        self.groups = nn.ModuleDict(chain)
        self.build, self.data_format, self.batch_size = build, data_format, batch_size
        self.rescales = rescale_inputs
        self.register_buffer("means", torch.tensor(RESCALE_MEANS).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, N×classes, of floats in the data format.

        Raises:
            UsageError: another shape than the network was made for.
        """
        self._check(x)
        if self.data_format == "channels_last":
            x = x.permute(0, 3, 1, 2)
        if self.rescales:
            x = x * 255 - self.means
        for group in self.groups.values():
            x = group(x)
        return x

    def _check(self, x: torch.Tensor) -> None:
        side, channels = self.build.input_size, self.build.channels
        shape = (channels, side, side) if self.data_format == "channels_first" else (side, side, channels)
        if x.dim() != 4 or tuple(x.shape[1:]) != shape or self.batch_size not in (None, x.shape[0]):
            n = "N" if self.batch_size is None else self.batch_size
            wanted = "×".join(map(str, (n, *shape)))
            raise UsageError(f"the network takes {wanted} ({self.data_format}), not {'×'.join(map(str, x.shape))}")


def create_network(
    name: str,
    weights: str | Path | None = None,
    *,
    input_size: InputSize | None = None,
    classes: int | None = None,
    channels: int = 3,
    data_format: DataFormat = "channels_first",
    rescale_inputs: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
) -> PlainNetwork:
    """A published network as a plain ``nn.Module``, in evaluation mode on the CPU. It does no preprocessing.

    Args:
        name: see `topgraft.list_backbones`.
        weights: a name, a file, or ``random``; the network's best published ones if None or ``imagenet``.
        input_size: side of the images in pixels, from 32 up, or equal sides, as ``(32, 32)`` or Keras's
            ``(32, 32, 3)``; the weights' own if None.
        classes: outputs. The weights' own top is kept if it has as many, or if None; else a new one is made, its
            kernel and bias uniform within ±1/√features as PyTorch's own.
        channels: 3 for RGB, 1 for gray; see `topgraft.models.weights.load.load_network`.
        data_format: ``channels_first`` (N×C×H×W) or ``channels_last`` (N×H×W×C).
        rescale_inputs: inputs are 0…1, and the network takes them times 255 minus the RGB means 123.68, 116.78 and
            103.94, as TensorFlow Models' ResNet does.
        batch_size: if given, every batch must have so many images.
        seed: of what is drawn.

    Raises:
        UsageError: an unknown name, or an impossible shape.
        WeightsError: the weights are not here, are damaged, or do not fit.
    """
    if data_format not in ("channels_first", "channels_last"):
        raise UsageError(f"data_format is channels_first or channels_last, not {data_format!r}")
    if rescale_inputs and channels != 3:
        raise UsageError("rescale_inputs takes the means of three colors; use channels=3")
    side = None if input_size is None else image_side(input_size)
    network = load_network(name, weights, input_size=side, classes=classes, channels=channels, seed=seed, keep_top=True)
    if weights == IMAGENET:
        progress.note(f"weights imagenet: {network.weights}, the default of {name}")
    if network.new_head:
        head = network.chain["head"]
        generator = torch.Generator().manual_seed(seed)
        assert isinstance(head, nn.Linear)
        bound = 1 / math.sqrt(head.in_features)
        for parameter in head.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return PlainNetwork(
        network.chain,
        network.build,
        data_format=data_format,
        rescale_inputs=rescale_inputs,
        batch_size=batch_size,
    ).eval()
