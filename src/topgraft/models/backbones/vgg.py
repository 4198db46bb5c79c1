"""VGG (Oxford, 2014): nothing but 3×3 convolutions, 2×2 pools and three dense layers, in four depths.

Paper: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
https://arxiv.org/abs/1409.1556, table 1, columns A, B, D and E. The paper has no BatchNorm, which came a year later;
the networks with it are torchvision's, ``models/vgg.py`` in https://github.com/pytorch/vision.

Layers are named as Keras names them (``keras/src/applications/vgg16.py`` in https://github.com/keras-team/keras), and
as there a convolution and its ReLU are one layer; with BatchNorm between them they are three. The dropout that the
paper trains its dense layers with is left out, as in Keras: it has no parameters and does nothing in prediction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import IMAGENET_MEAN, IMAGENET_STD, Backbone, Build, Chain
from topgraft.models.weights.convention import Convention, keras_numbers

from .init import glorot_uniform, he_fan_out
from .layers import Conv2dReLU, LinearReLU, named

GROUPS = ("stage1", "stage2", "stage3", "stage4", "stage5", "fc", "head")
WIDTHS = (64, 128, 256, 512, 512)
FEATURE_WIDTH = 4096

# Convolutions of each block, by the number of layers with weights: table 1 of the paper.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def build(options: Build, *, depth: int, batchnorm: bool) -> Chain:
    """The chain of one depth, untrained. Each pool halves the map and leaves out an odd last row or column.

    Args:
        options: with its dense layers the network takes images of exactly ``options.input_size``: at 224 pixels 7×7
            vectors of 512 are flattened, at 32 one.
        depth: a key of `DEPTHS`.
        batchnorm: between each convolution and its ReLU.
    """
    chain: Chain = {}
    channels = options.channels
    for block, (count, width) in enumerate(zip(DEPTHS[depth], WIDTHS, strict=True), start=1):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, count + 1):
            if batchnorm:
                layers[f"block{block}_conv{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"block{block}_bn{number}"] = nn.BatchNorm2d(width)
                layers[f"block{block}_relu{number}"] = nn.ReLU()
            else:
                layers[f"block{block}_conv{number}"] = Conv2dReLU(channels, width, 3, padding=1)
            channels = width
        layers[f"block{block}_pool"] = nn.MaxPool2d(2)
        chain[f"stage{block}"] = nn.Sequential(layers)
    if options.fc:
        side = options.input_size // 2 ** len(WIDTHS)
        chain["fc"] = named(
            flatten=nn.Flatten(),
            fc1=LinearReLU(channels * side**2, FEATURE_WIDTH),
            fc2=LinearReLU(FEATURE_WIDTH, FEATURE_WIDTH),
        )
    else:
        chain["stage5"].add_module("pool", nn.AdaptiveAvgPool2d(1))
        chain["stage5"].add_module("flatten", nn.Flatten())
    chain["head"] = nn.Linear(FEATURE_WIDTH if options.fc else channels, options.classes)
    return chain


# --- How others write its weights ----------------------------------------------------------------------------------


def _convolutions(depth: int) -> Iterator[tuple[int, int]]:
    """Block and number of each convolution, image side first; both count from 1."""
    for block, count in enumerate(DEPTHS[depth], start=1):
        for number in range(1, count + 1):
            yield block, number


def numbered_layers(depth: int, batchnorm: bool, dense: tuple[str, str, str]) -> dict[str, str]:
    """Layers of torchvision and timm, which number the convolutional part, and the chain's.

    A convolution takes up two numbers, three with BatchNorm, and a pool one: ``features.5`` of vgg16 is the first
    convolution of the second block.

    Args:
        depth, batchnorm: as in `build`.
        dense: names of the two hidden layers and the head in the file.
    """
    names: dict[str, str] = {}
    at = 0
    for block, number in _convolutions(depth):
        if number == 1 and block > 1:
            at += 1  # the pool of the block before
        names[f"features.{at}"] = f"stage{block}.block{block}_conv{number}"
        if batchnorm:
            names[f"features.{at + 1}"] = f"stage{block}.block{block}_bn{number}"
        at += 3 if batchnorm else 2
    return {**names, **dict(zip(dense, ("fc.fc1", "fc.fc2", "head"), strict=True))}


def keras_layers(depth: int) -> dict[str, str]:
    """Layers of Keras, named as here, and the chain's."""
    names = {f"block{block}_conv{number}": f"stage{block}" for block, number in _convolutions(depth)}
    return {name: f"{stage}.{name}" for name, stage in names.items()} | {
        "fc1": "fc.fc1",
        "fc2": "fc.fc2",
        "predictions": "head",
    }


def from_timm(key: str, tensor: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """timm's hidden dense layers are convolutions over the whole map: O×C×7×7 and O×C×1×1 become O×(C·7·7) and O×C.

    PyTorch's flatten has the order C, H, W too, so that nothing moves. Other shapes come back as they are.
    """
    flat = len(expected) == 2 and tensor.dim() == 4 and tensor[0].numel() == expected[1]
    return tensor.flatten(1) if flat else tensor


def from_keras(key: str, tensor: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """Keras's kernels in PyTorch's layout: H×W×I×O becomes O×I×H×W, and I×O becomes O×I.

    Keras flattens a map in the order H, W, C and PyTorch in C, H, W, so the inputs of the first dense layer are
    put into that order. The map is square. Shapes that cannot be meant come back as they are.
    """
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1)
    if tensor.dim() != 2:
        return tensor
    kernel = tensor.t()
    if key == "fc.fc1.weight" and kernel.shape == expected:
        side = round((kernel.shape[1] / WIDTHS[-1]) ** 0.5)
        return kernel.reshape(-1, side, side, WIDTHS[-1]).permute(0, 3, 1, 2).flatten(1)
    return kernel


TORCHVISION_SPEC = ImageSpec(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
# Pixels in 0…255, blue first, less a mean for each channel ("caffe" mode of preprocess_input in
# keras/src/applications/imagenet_utils.py). Keras leaves the resizing to its user; this is torchvision's.
KERAS_SPEC = ImageSpec(
    224, 256, "bilinear", (103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255, 1 / 255, 1 / 255), "BGR"
)
# Pixels in 0…1 and no more, at the size of CIFAR's images and at the paper's.
NOTES_SPEC = ImageSpec(32, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
UNTRAINED_SPEC = ImageSpec(224, 224, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _conventions(depth: int, batchnorm: bool) -> Iterator[Convention]:
    dense = ("classifier.0", "classifier.3", "classifier.6")
    yield Convention("torchvision", numbered_layers(depth, batchnorm, dense), TORCHVISION_SPEC)
    dense = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    yield Convention("timm", numbered_layers(depth, batchnorm, dense), TORCHVISION_SPEC, arrange=from_timm)
    if depth in (16, 19) and not batchnorm:  # the two that Keras has; the size of its map tells their pixels apart
        tensors = {"kernel": "weight", "bias": "bias"}
        layers = keras_layers(depth)
        *convolutions, fc1, fc2, predictions = layers  # one after the other: Keras's order is this one
        numbers = keras_numbers(conv2d=convolutions, dense=(fc1, fc2, predictions))
        for name, spec in (("keras_applications", KERAS_SPEC), ("notes", NOTES_SPEC)):
            yield Convention(name, layers, spec, tensors, arrange=from_keras, numbered=(numbers,))


PAPER = "Very Deep Convolutional Networks for Large-Scale Image Recognition, https://arxiv.org/abs/1409.1556"
BATCHNORM_PAPER = f"{PAPER}; with the BatchNorm of 2015, https://arxiv.org/abs/1502.03167"


def _vgg(depth: int, *, batchnorm: bool = False) -> Backbone:
    name = f"vgg{depth}_bn" if batchnorm else f"vgg{depth}"
    return Backbone(
        name=name,
        family="vgg",
        year=2015 if batchnorm else 2014,
        paper=BATCHNORM_PAPER if batchnorm else PAPER,
        groups=GROUPS,
        feature_width=FEATURE_WIDTH,
        build=partial(build, depth=depth, batchnorm=batchnorm),
        initialize=he_fan_out if batchnorm else glorot_uniform,
        conventions=tuple(_conventions(depth, batchnorm)),
        untrained=TORCHVISION_SPEC if batchnorm else UNTRAINED_SPEC,
        weights=(f"{name}_imagenet1k_v1",),
        top_name="predictions",
    )


VGG11, VGG13, VGG16, VGG19 = (_vgg(depth) for depth in DEPTHS)
VGG11_BN, VGG13_BN, VGG16_BN, VGG19_BN = (_vgg(depth, batchnorm=True) for depth in DEPTHS)
