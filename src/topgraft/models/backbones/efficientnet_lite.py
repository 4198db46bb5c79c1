"""EfficientNet-Lite (Google, 2020): EfficientNet without what small devices are slow at.

Inverted residual blocks as in EfficientNet-B0, but ReLU6 for swish, no squeeze-and-excitation, and the
stem and the last convolution keep their width in all sizes. TensorFlow "same" padding throughout.

Source of all numbers: ``efficientnet_lite_builder.py`` and ``efficientnet_builder.py`` in
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet (lite/README.md for the idea);
paper of the parent network: Tan and Le, EfficientNet, https://arxiv.org/abs/1905.11946
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import Backbone, Build, Chain
from topgraft.models.weights.convention import Convention

from .init import layers as weight_layers
from .init import zero_bias
from .layers import SameConv2d, named

GROUPS = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "head")
STEM_WIDTH = 32  # not scaled
FEATURE_WIDTH = 1280  # not scaled

# One row for each stage: repeats, kernel, stride of the first block, expansion, channels out.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# TensorFlow's batch_norm_momentum 0.99 keeps 99 % of the running value; PyTorch's 0.01 says the same.
NORM_MOMENTUM = 0.01
NORM_EPSILON = 1e-3


def conv_norm(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias and BatchNorm. N×C×H×W in, N×C'×⌈H/stride⌉×⌈W/stride⌉ out."""
    return named(
        conv=SameConv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=False),
        norm=nn.BatchNorm2d(channels_out, eps=NORM_EPSILON, momentum=NORM_MOMENTUM),
    )


def conv_norm_act(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """`conv_norm` and ReLU6."""
    layers = conv_norm(channels_in, channels_out, kernel, stride, groups)
    layers.add_module("act", nn.ReLU6())
    return layers


class InvertedResidual(nn.Module):
    """Widen with a 1×1 convolution, filter each channel by itself, narrow with a 1×1 convolution, add the input.

    The input is added only where it has the output's shape. The narrow end has no activation: ReLU6 would
    lose information there. N×C×H×W in, N×C'×⌈H/stride⌉×⌈W/stride⌉ out.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = conv_norm_act(channels_in, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = conv_norm_act(wide, wide, kernel, stride, groups=wide)
        self.project = conv_norm(wide, channels_out, 1)
        self.adds_input = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds_input else y


def round_width(channels: float) -> int:
    """The nearest multiple of 8, but never more than a tenth below (``round_filters`` of the source)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def repeats(depth: float) -> tuple[int, ...]:
    """Blocks of each stage at a depth multiplier; the first and the last stage are not scaled."""
    last = len(STAGES) - 1
    return tuple(row[0] if at in (0, last) else math.ceil(row[0] * depth) for at, row in enumerate(STAGES))


def build(options: Build, *, width: float, depth: float) -> Chain:
    """The chain of one size, untrained.

    Its last convolution and the global average pool end ``stage7``, so that what crosses to ``head`` is the
    pooled vector, N×1280. The published network's dropout before its last layer is left out: it has no
    parameters and does nothing in prediction, and how to regularize a head is decided in training.

    Args:
        options: classes and channels; the network takes any input size.
        width, depth: multipliers of channels and of repeats.
    """
    chain: Chain = {"stem": conv_norm_act(options.channels, STEM_WIDTH, 3, 2)}
    channels = STEM_WIDTH
    for at, (row, count) in enumerate(zip(STAGES, repeats(depth), strict=True)):
        _, kernel, stride, expansion, channels_out = row
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(count):
            out = round_width(channels_out * width)
            blocks[str(block)] = InvertedResidual(channels, out, kernel, stride if block == 0 else 1, expansion)
            channels = out
        chain[f"stage{at + 1}"] = nn.Sequential(blocks)
    top = chain["stage7"]
    top.add_module("last", conv_norm_act(channels, FEATURE_WIDTH, 1))
    top.add_module("pool", nn.AdaptiveAvgPool2d(1))
    top.add_module("flatten", nn.Flatten())
    chain["head"] = nn.Linear(FEATURE_WIDTH, options.classes)
    return chain


def initialize(chain: Chain, generator: torch.Generator) -> None:
    """Convolutions normal with variance 2 / (kernel² · channels out), the dense kernel uniform within ±1/√classes.

    Source: ``conv_kernel_initializer`` and ``dense_kernel_initializer`` in ``efficientnet_model.py`` of the source;
    the first does not divide by the groups of a depthwise convolution.
    """
    for layer in weight_layers(chain):
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_out), generator=generator)
        else:
            bound = 1 / math.sqrt(layer.out_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        zero_bias(layer)


_OUTER = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "stage7.last.conv", "_bn1": "stage7.last.norm"}
_OUTER["_fc"] = "head"
_INNER = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def published_layers(depth: float) -> dict[str, str]:
    """The layers of the published ``.pth`` files and the chain's.

    There the blocks are numbered through the whole network: ``_blocks.3._bn1`` of lite0 is
    ``stage3.0.depthwise.norm`` here. The first block does not expand.
    """
    names = dict(_OUTER)
    number = 0
    for stage, count in enumerate(repeats(depth), start=1):
        for block in range(count):
            for published, ours in _INNER.items():
                if stage > 1 or not ours.startswith("expand"):
                    names[f"_blocks.{number}.{published}"] = f"stage{stage}.{block}.{ours}"
            number += 1
    return names


PAPER = "EfficientNet-Lite, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"


def _spec(side: int) -> ImageSpec:
    # Sides: efficientnet_lite_params of the source. Its evaluation resizes to the side + 32, bicubic, which is
    # side / 0.875 at 224; that ratio is kept for all three (2 and 5 pixels more at 240 and 260).
    # Mean and deviation: those of the converted files; the source's builder writes (x - 127) / 128.
    return ImageSpec(side, int(side / 0.875), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _lite(number: int, side: int, width: float, depth: float) -> Backbone:
    return Backbone(
        name=f"efficientnet_lite{number}",
        family="efficientnet_lite",
        year=2020,
        paper=PAPER,
        groups=GROUPS,
        feature_width=FEATURE_WIDTH,
        build=partial(build, width=width, depth=depth),
        initialize=initialize,
        conventions=(Convention("efficientnet_pytorch", published_layers(depth), _spec(side)),),
        untrained=_spec(side),
        weights=(f"efficientnet_lite{number}_imagenet",),
    )


LITE0 = _lite(0, 224, width=1.0, depth=1.0)
LITE1 = _lite(1, 240, width=1.0, depth=1.1)
LITE2 = _lite(2, 260, width=1.1, depth=1.2)
