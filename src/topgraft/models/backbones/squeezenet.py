"""SqueezeNet 1.1 (2016): the accuracy of AlexNet with a fiftieth of its parameters.

Blocks squeeze the map to few channels with a 1×1 convolution, then expand it with 1×1 and 3×3 convolutions side by
side. Paper: Iandola et al., https://arxiv.org/abs/1602.07360. Version 1.1 needs 2.4 times less work than the paper's:
https://github.com/forresti/SqueezeNet/tree/master/SqueezeNet_v1.1. Graph and names of the weights:
``models/squeezenet.py`` in https://github.com/pytorch/vision
"""

from __future__ import annotations

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import IMAGENET_MEAN, IMAGENET_STD, Backbone, Build, Chain
from topgraft.models.weights.convention import Convention

from .init import layers as weight_layers
from .init import zero_bias
from .layers import named

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")
STEM_WIDTH = 64
FEATURE_WIDTH = 512

# The paper's fire modules 2 to 9, by stage: channels after the squeeze, and after each of the two expansions.
STAGES = (
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192), (64, 256), (64, 256)),
)
FIRST_FIRE = 2


def conv_act(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the size, and ReLU. N×C×H×W in, N×C'×H×W out."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return named(conv=conv, act=nn.ReLU(inplace=True))


class Fire(nn.Module):
    """Squeeze with a 1×1 convolution, expand with 1×1 and 3×3 side by side. N×C×H×W in, N×2·expand×H×W out."""

    def __init__(self, channels_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = conv_act(channels_in, squeeze, 1)
        self.expand1x1 = conv_act(squeeze, expand, 1)
        self.expand3x3 = conv_act(squeeze, expand, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One module."""
        x = self.squeeze(x)
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def build(options: Build) -> Chain:
    """The chain, untrained.

    The published top is a convolution on the whole map: 1×1 to one channel for each class, ReLU, then the global
    average. A new top stands on the pooled vector, N×512, which then ends ``stage3``; its head is one dense layer. The
    published dropout before the top is left out: it has no parameters and does nothing in prediction.

    Args:
        options: classes, channels and which top; the network takes any input size.
    """
    conv = nn.Conv2d(options.channels, STEM_WIDTH, 3, 2)
    chain: Chain = {"stem": named(conv=conv, act=nn.ReLU(inplace=True), pool=_pool())}
    channels, number = STEM_WIDTH, FIRST_FIRE
    for stage, fires in enumerate(STAGES, start=1):
        layers = nn.Sequential()
        for squeeze, expand in fires:
            layers.add_module(f"fire{number}", Fire(channels, squeeze, expand))
            channels, number = 2 * expand, number + 1
        chain[f"stage{stage}"] = layers
    chain["stage1"].add_module("pool", _pool())
    chain["stage2"].add_module("pool", _pool())
    if options.top == "published":
        top = conv_act(FEATURE_WIDTH, options.classes, 1)
        top.add_module("pool", nn.AdaptiveAvgPool2d(1))
        top.add_module("flatten", nn.Flatten())
        chain["head"] = top
    else:
        chain["stage3"].add_module("pool", nn.AdaptiveAvgPool2d(1))
        chain["stage3"].add_module("flatten", nn.Flatten())
        chain["head"] = nn.Linear(FEATURE_WIDTH, options.classes)
    return chain


def initialize(chain: Chain, generator: torch.Generator) -> None:
    """Kernels uniform within ±√(6 / fan in), those of the head normal with deviation 0.01; biases 0.

    Source: torchvision's ``models/squeezenet.py``.
    """
    heads = set(chain["head"].modules())
    for layer in weight_layers(chain):
        if layer in heads:
            nn.init.normal_(layer.weight, 0.0, 0.01, generator=generator)
        else:
            nn.init.kaiming_uniform_(layer.weight, generator=generator)
        zero_bias(layer)


def torchvision_layers() -> dict[str, str]:
    """The layers of torchvision's files, numbered with the activations and pools between them, and the chain's."""
    names = {"features.0": "stem.conv"}
    place, number = 3, FIRST_FIRE  # the stem's ReLU and pool are 1 and 2
    for stage, fires in enumerate(STAGES, start=1):
        for _ in fires:
            for part in ("squeeze", "expand1x1", "expand3x3"):
                names[f"features.{place}.{part}"] = f"stage{stage}.fire{number}.{part}.conv"
            place, number = place + 1, number + 1
        place += 1  # the pool
    names["classifier.1"] = "head.conv"
    return names


# torchvision's preset: transforms/_presets.py, ImageClassification.
_SPEC = ImageSpec(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)

SQUEEZENET1_1 = Backbone(
    name="squeezenet1_1",
    family="squeezenet",
    year=2016,
    paper="SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size, "
    "https://arxiv.org/abs/1602.07360",
    groups=GROUPS,
    feature_width=FEATURE_WIDTH,
    build=build,
    initialize=initialize,
    conventions=(Convention("torchvision", torchvision_layers(), _SPEC),),
    untrained=_SPEC,
    weights=("squeezenet1_1_imagenet1k_v1",),
)
