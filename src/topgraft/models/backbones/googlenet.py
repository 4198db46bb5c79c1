"""GoogLeNet (Google, 2014): modules that look at the map with 1×1, 3×3 and 5×5 windows side by side.

Szegedy et al., Going Deeper with Convolutions, https://arxiv.org/abs/1409.4842, table 1. Its inception modules 3a and
3b are ``stage1`` here, 4a to 4e ``stage2``, 5a and 5b ``stage3``; each group ends with the pool that follows it.

It is published in two forms:

- `googlenet_2014`, Caffe's, with local response normalization: ``models/bvlc_googlenet/train_val.prototxt`` in
  https://github.com/BVLC/caffe. Caffe rounds the sizes of its pools up.
- `googlenet`, torchvision's, with BatchNorm for it: ``models/googlenet.py`` in https://github.com/pytorch/vision. Its
  "5×5" branch is 3×3, which was a mistake (https://github.com/pytorch/vision/issues/906), and its last pool is 2×2.

Both were trained with two auxiliary heads, and with dropout before the last layer. Prediction needs neither; the
chains do not have them.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import Backbone, Build, Chain
from topgraft.models.weights.convention import Convention

from .googlenet_weights import STAGES, caffe_layers, torchvision_layers
from .init import layers as weight_layers
from .init import zero_bias
from .layers import LocalResponseNorm, named

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")
FEATURE_WIDTH = 1024
NORM_EPSILON = 1e-3  # torchvision's BasicConv2d


def layer(channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, historical: bool) -> nn.Sequential:
    """Convolution and ReLU; between them torchvision's form has BatchNorm, and the convolution no bias.

    N×C×H×W in, N×C'×⌈H/stride⌉×⌈W/stride⌉ out.
    """
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=historical)
    if historical:
        return named(conv=conv, act=nn.ReLU(inplace=True))
    return named(conv=conv, norm=nn.BatchNorm2d(channels_out, NORM_EPSILON), act=nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Four branches whose channels are concatenated: 1×1; 1×1, 3×3; 1×1, 5×5; max-pool, 1×1. Keeps the size."""

    def __init__(self, channels_in: int, widths: tuple[int, int, int, int, int, int], *, historical: bool) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, project = widths
        make = partial(layer, historical=historical)
        self.one = make(channels_in, one, 1)
        self.three = named(reduce=make(channels_in, three_reduce, 1), filter=make(three_reduce, three, 3))
        kernel = 5 if historical else 3
        self.five = named(reduce=make(channels_in, five_reduce, 1), filter=make(five_reduce, five, kernel))
        self.pool = named(pool=nn.MaxPool2d(3, 1, padding=1), project=make(channels_in, project, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One module."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def _pool(kernel: int = 3) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel, 2, ceil_mode=True)


def _response_norm() -> nn.Module:
    # local_size, alpha and beta of the source. Caffe divides alpha by local_size, and its k is 1 if not given
    # (src/caffe/layers/lrn_layer.cpp, src/caffe/proto/caffe.proto).
    return LocalResponseNorm(5, alpha=1e-4 / 5, beta=0.75, k=1.0)


def build(options: Build, *, historical: bool) -> Chain:
    """The chain of one form, untrained.

    The global average pool ends ``stage3``: what crosses to ``head`` is the pooled vector, N×1024. At 224 pixels it is
    the 7×7 average of the paper.

    Args:
        options: classes and channels; the network takes any input size.
        historical: Caffe's form of 2014; else torchvision's.
    """
    make = partial(layer, historical=historical)
    stem = named(conv1=make(options.channels, 64, 7, 2), pool1=_pool())
    if historical:
        stem.add_module("norm1", _response_norm())
    stem.add_module("conv2_reduce", make(64, 64, 1))
    stem.add_module("conv2", make(64, 192, 3))
    if historical:
        stem.add_module("norm2", _response_norm())
    stem.add_module("pool2", _pool())
    chain: Chain = {"stem": stem}
    channels = 192
    for stage, modules in enumerate(STAGES, start=1):
        layers = nn.Sequential()
        for name, widths in modules.items():
            layers.add_module(name, Inception(channels, widths, historical=historical))
            one, _, three, _, five, project = widths
            channels = one + three + five + project
        chain[f"stage{stage}"] = layers
    chain["stage1"].add_module("pool", _pool())
    chain["stage2"].add_module("pool", _pool(3 if historical else 2))
    chain["stage3"].add_module("pool", nn.AdaptiveAvgPool2d(1))
    chain["stage3"].add_module("flatten", nn.Flatten())
    chain["head"] = nn.Linear(channels, options.classes)
    return chain


def initialize(chain: Chain, generator: torch.Generator) -> None:
    """torchvision's: kernels normal with deviation 0.01, cut at ±2; biases of the head uniform within ±1/√fan in.

    Source: ``models/googlenet.py`` for the kernels; it leaves the biases to PyTorch's ``nn.Linear``.
    """
    for weighted in weight_layers(chain):
        nn.init.trunc_normal_(weighted.weight, 0.0, 0.01, -2.0, 2.0, generator=generator)
        if weighted.bias is not None:
            bound = 1 / math.sqrt(weighted.weight[0].numel())
            nn.init.uniform_(weighted.bias, -bound, bound, generator=generator)


def initialize_2014(chain: Chain, generator: torch.Generator) -> None:
    """Caffe's: kernels uniform within ±√(3 / fan in), biases of convolutions 0.2, of the head 0.

    Source: ``weight_filler`` and ``bias_filler`` of the source; its ``xavier`` looks at the fan in alone
    (``include/caffe/filler.hpp``).
    """
    for weighted in weight_layers(chain):
        bound = math.sqrt(3 / weighted.weight[0].numel())
        nn.init.uniform_(weighted.weight, -bound, bound, generator=generator)
        zero_bias(weighted)
        if isinstance(weighted, nn.Conv2d) and weighted.bias is not None:
            nn.init.constant_(weighted.bias, 0.2)


PAPER = "Going Deeper with Convolutions, https://arxiv.org/abs/1409.4842"

# torchvision's published weights come with ``transform_input=True``. Its preset gives (x - m) / s with ImageNet's mean
# m and deviation s, which the network turns into ((x - m) / s) · s / 0.5 + (m - 0.5) / 0.5 = (x - 0.5) / 0.5.
_HALF = (0.5, 0.5, 0.5)
_PORTED_SPEC = ImageSpec(224, 256, "bilinear", _HALF, _HALF)

# Blue, green, red from 0 to 255 minus (104, 117, 123), not scaled: transform_param of the source.
_CAFFE_SPEC = ImageSpec(224, 256, "bilinear", (104 / 255, 117 / 255, 123 / 255), (1 / 255, 1 / 255, 1 / 255), "BGR")
GOOGLENET = Backbone(
    name="googlenet",
    family="googlenet",
    year=2014,
    paper=PAPER,
    groups=GROUPS,
    feature_width=FEATURE_WIDTH,
    build=partial(build, historical=False),
    initialize=initialize,
    conventions=(Convention("torchvision", torchvision_layers(), _PORTED_SPEC, ignored=("aux1.", "aux2.")),),
    untrained=_PORTED_SPEC,
    weights=("googlenet_imagenet1k_v1",),
    top_name="fc",
)

GOOGLENET_2014 = Backbone(
    name="googlenet_2014",
    family="googlenet",
    year=2014,
    paper=PAPER,
    groups=GROUPS,
    feature_width=FEATURE_WIDTH,
    build=partial(build, historical=True),
    initialize=initialize_2014,
    conventions=(Convention("caffe", caffe_layers(), _CAFFE_SPEC, ignored=("loss1/", "loss2/")),),
    untrained=_CAFFE_SPEC,
    top_name="loss3/classifier",
)
