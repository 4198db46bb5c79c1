"""AlexNet, in both published forms: the network that won ImageNet's contest of 2012, and its one-tower successor.

`alexnet_2012` is the contest's, with two groups of channels (each GPU of the authors held one) and local response
normalization: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks,
https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html. No weights of it are published
by its authors.

`alexnet` is the single tower of 2014 that torchvision has weights of: other widths, no groups, no normalization.
Krizhevsky, One weird trick for parallelizing convolutional neural networks, https://arxiv.org/abs/1404.5997; graph:
``models/alexnet.py`` in https://github.com/pytorch/vision
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import IMAGENET_MEAN, IMAGENET_STD, Backbone, Build, Chain
from topgraft.models.weights.convention import Convention

from .init import uniform_fan_in
from .layers import LocalResponseNorm, cut_max_pool, named, windows

GROUPS = ("stage1", "stage2", "stage3", "stage4", "stage5", "fc", "head")
FEATURE_WIDTH = 4096

# One row for each convolution: kernel, stride, padding, and whether a pool follows. Both papers' images are 224 × 224;
# two zeros at each side give the 55 × 55 outputs that the 2012 paper counts (without, 227 × 227 would be needed).
CONVOLUTIONS = ((11, 4, 2, True), (5, 1, 2, True), (3, 1, 1, False), (3, 1, 1, False), (3, 1, 1, True))
POOL, POOL_STRIDE = 3, 2  # "overlapping pooling", section 3.4 of the 2012 paper

WIDTHS_2012, WIDTHS_2014 = (96, 256, 384, 384, 256), (64, 192, 384, 256, 256)
GROUPED_2012 = (2, 4, 5)  # section 3.2: these convolutions see only the channels on their own GPU
ONES_2012 = ("conv2", "conv4", "conv5", "fc6", "fc7")  # section 5: layers whose biases start at 1
DROPOUT = 0.5  # section 4.2


def response_norm() -> LocalResponseNorm:
    """The paper's constants: k = 2, n = 5, α = 10⁻⁴, β = 0.75. Source: section 3.3 of the 2012 paper.

    Its α multiplies the sum of the 5 squares. Caffe's ``bvlc_alexnet`` takes the same number for their mean, and
    k = 1: another network.
    """
    return LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)


def build(options: Build, *, historical: bool) -> Chain:
    """The chain, untrained: five stages of one convolution each, then the dense layers.

    Images need not be large: below 63 pixels a side the maps become smaller than the windows of the pools, which are
    then cut to the map.

    Args:
        options: with its dense layers the network takes images of exactly ``options.input_size``.
        historical: the graph of 2012; else that of 2014.
    """
    chain: Chain = {}
    channels, side = options.channels, options.input_size
    for number, (kernel, stride, padding, pooled) in enumerate(CONVOLUTIONS, start=1):
        width = (WIDTHS_2012 if historical else WIDTHS_2014)[number - 1]
        groups = 2 if historical and number in GROUPED_2012 else 1
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride, padding, groups=groups)
        layers[f"relu{number}"] = nn.ReLU()
        channels, side = width, windows(side, kernel, stride, padding)
        if historical and number <= 2:
            layers[f"norm{number}"] = response_norm()
        if pooled:
            layers[f"pool{number}"] = cut_max_pool(side, POOL, POOL_STRIDE)
            side = windows(side, min(POOL, side), POOL_STRIDE)
        chain[f"stage{number}"] = nn.Sequential(layers)
    if options.fc:
        chain["fc"] = _hidden(channels * side**2, historical)
    else:
        chain["stage5"].add_module("pool", nn.AdaptiveAvgPool2d(1))
        chain["stage5"].add_module("flatten", nn.Flatten())
    chain["head"] = nn.Linear(FEATURE_WIDTH if options.fc else channels, options.classes)
    return chain


def _hidden(inputs: int, historical: bool) -> nn.Sequential:
    """The two hidden dense layers: dropout on their outputs as published in 2012, on their inputs in torchvision."""
    first, second = nn.Linear(inputs, FEATURE_WIDTH), nn.Linear(FEATURE_WIDTH, FEATURE_WIDTH)
    if historical:
        return named(
            flatten=nn.Flatten(),
            fc6=first,
            relu6=nn.ReLU(),
            drop6=nn.Dropout(DROPOUT),
            fc7=second,
            relu7=nn.ReLU(),
            drop7=nn.Dropout(DROPOUT),
        )
    return named(
        flatten=nn.Flatten(),
        drop5=nn.Dropout(DROPOUT),
        fc6=first,
        relu6=nn.ReLU(),
        drop6=nn.Dropout(DROPOUT),
        fc7=second,
        relu7=nn.ReLU(),
    )


def initialize_2012(chain: Chain, generator: torch.Generator) -> None:
    """Kernels N(0, 0.01²); biases 1 where that gives ReLUs positive inputs early on, else 0.

    Source: section 5 of the 2012 paper.
    """
    for name, layer in nn.ModuleDict(chain).named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01, generator=generator)
            assert layer.bias is not None  # every layer of this network has one
            nn.init.constant_(layer.bias, 1.0 if name.rpartition(".")[2] in ONES_2012 else 0.0)


SPEC = ImageSpec(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)

# torchvision numbers every layer, those without parameters too.
TORCHVISION = Convention(
    "torchvision",
    {
        "features.0": "stage1.conv1",
        "features.3": "stage2.conv2",
        "features.6": "stage3.conv3",
        "features.8": "stage4.conv4",
        "features.10": "stage5.conv5",
        "classifier.1": "fc.fc6",
        "classifier.4": "fc.fc7",
        "classifier.6": "head",
    },
    SPEC,
)

ALEXNET_2012 = Backbone(
    name="alexnet_2012",
    family="alexnet",
    year=2012,
    paper="ImageNet Classification with Deep Convolutional Neural Networks, "
    "https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html",
    groups=GROUPS,
    feature_width=FEATURE_WIDTH,
    build=partial(build, historical=True),
    initialize=initialize_2012,
    conventions=(),
    untrained=SPEC,
    top_name="fc8",
)
ALEXNET = Backbone(
    name="alexnet",
    family="alexnet",
    year=2014,
    paper="One weird trick for parallelizing convolutional neural networks (the single tower of 2014, not the network "
    "of 2012), https://arxiv.org/abs/1404.5997",
    groups=GROUPS,
    feature_width=FEATURE_WIDTH,
    build=partial(build, historical=False),
    initialize=uniform_fan_in,
    conventions=(TORCHVISION,),
    untrained=SPEC,
    weights=("alexnet_imagenet1k_v1",),
    top_name="fc8",
)
