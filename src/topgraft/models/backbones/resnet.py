"""ResNet (Microsoft, 2015): blocks that learn what to add to their input, so that a hundred layers can be trained.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385; widths and
depths: its table 1. The paper counts the first convolution and the pool as stage 1; here they are ``stem``, and the
paper's stages 2 to 5 (``res2`` … ``res5``, ``conv2_x`` … ``conv5_x``) are ``stage1`` … ``stage4``, as torchvision's
``layer1`` … ``layer4``. Layers here have no number of a stage; where they have, groups have the same numbers: see
`topgraft.models.backbones.resnet_tf`.

ResNet-50 is published in several graphs, which are told apart by `Form`:

- `resnet50_v1`, the authors' own of 2015 (https://github.com/KaimingHe/deep-residual-networks, for Caffe): a stage
  halves the map in the first 1×1 convolution; the first pool is not padded and rounds its size up.
- `resnet50` and the others of torchvision (``models/resnet.py`` in https://github.com/pytorch/vision), "v1.5": a
  stage halves the map in the 3×3 convolution, which sees every pixel; the first pool is padded.
- `resnet50_keras`, of Keras's applications (``applications/resnet.py`` in https://github.com/keras-team/keras): the
  map is halved as in 2015; the pool is padded, with zeros, which after a ReLU is the same as torchvision's −∞;
  convolutions have biases although BatchNorm follows.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import IMAGENET_MEAN, IMAGENET_STD, Backbone, Build, Chain
from topgraft.models.weights.convention import Convention
from topgraft.models.weights.keras_layout import KERAS_TENSORS, from_keras

from . import init
from .resnet_blocks import EXPANSION, Residual, branch, conv_norm, conv_norm_act
from .resnet_weights import Form, keras_layers, keras_numbering, torchvision_layers

GROUPS = ("stem", "stage1", "stage2", "stage3", "stage4", "head")
STEM_WIDTH = 64
WIDTHS = (64, 128, 256, 512)  # of the stages' 3×3 convolutions


def build(options: Build, form: Form) -> Chain:
    """The chain of one graph, untrained.

    The global average pool ends ``stage4``: what crosses to ``head`` is the pooled vector, N×512 or N×2048.

    Args:
        options: classes, channels, and whether BatchNorm is folded into biases; the network takes any input size.
        form: the graph.
    """
    if options.folded:
        form = replace(form, bias=True, norm=False)
    stem = conv_norm_act(options.channels, STEM_WIDTH, 7, 2, form)
    pool = nn.MaxPool2d(3, 2, padding=1) if form.padded_pool else nn.MaxPool2d(3, 2, ceil_mode=True)
    stem.add_module("pool", pool)
    chain: Chain = {"stem": stem}
    channels = STEM_WIDTH
    for stage, (width, count) in enumerate(zip(WIDTHS, form.blocks, strict=True), start=1):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        out = EXPANSION * width if form.bottleneck else width
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            widens = form.widens(stage, block)
            shortcut = conv_norm(channels, out, 1, stride, form) if widens else nn.Identity()
            blocks[str(block)] = Residual(branch(channels, width, stride, form), shortcut)
            channels = out
        chain[f"stage{stage}"] = nn.Sequential(blocks)
    chain["stage4"].add_module("pool", nn.AdaptiveAvgPool2d(1))
    chain["stage4"].add_module("flatten", nn.Flatten())
    chain["head"] = nn.Linear(channels, options.classes)
    return chain


def initialize(chain: Chain, generator: torch.Generator) -> None:
    """Convolutions normal with variance 2 / fan out, biases of them 0; the dense layer uniform within ±1/√fan in.

    Source: torchvision's ``models/resnet.py``, which leaves the dense layer to PyTorch's ``nn.Linear`` (there written
    as ``kaiming_uniform_`` with a = √5, which comes to the same). The paper draws "as in" He et al., Delving Deep into
    Rectifiers, https://arxiv.org/abs/1502.01852, where fan in and fan out are both given, equations 10 and 14.
    """
    init.he_fan_out(chain, generator)
    head = chain["head"]
    assert isinstance(head, nn.Linear)
    bound = 1 / math.sqrt(head.in_features)
    nn.init.uniform_(head.weight, -bound, bound, generator=generator)
    nn.init.uniform_(head.bias, -bound, bound, generator=generator)


PAPER = "Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385"

# torchvision's preset for its first weights: transforms/_presets.py, ImageClassification.
_TORCHVISION_SPEC = ImageSpec(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)

# keras.applications' "caffe" mode: blue, green, red from 0 to 255 minus ImageNet's means, not scaled
# (applications/imagenet_utils.py). It says nothing of a crop; this is the paper's, of a shorter side of 256.
_KERAS_MEANS = (103.939 / 255, 116.779 / 255, 123.68 / 255)
_KERAS_SPEC = ImageSpec(224, 256, "bilinear", _KERAS_MEANS, (1 / 255, 1 / 255, 1 / 255), "BGR")


def _backbone(name: str, form: Form, convention: Convention, top_name: str = "fc") -> Backbone:
    return Backbone(
        name=name,
        family="resnet",
        year=2015,
        paper=PAPER,
        groups=GROUPS,
        feature_width=WIDTHS[-1] * (EXPANSION if form.bottleneck else 1),
        build=partial(build, form=form),
        initialize=initialize,
        conventions=(convention,),
        untrained=convention.spec,
        top_name=top_name,
    )


def _torchvision(name: str, form: Form, *versions: int) -> Backbone:
    network = _backbone(name, form, Convention("torchvision", torchvision_layers(form), _TORCHVISION_SPEC))
    return replace(network, weights=tuple(f"{name}_imagenet1k_v{version}" for version in versions))


def _unnormed(layers: dict[str, str]) -> dict[str, str]:
    return {theirs: ours for theirs, ours in layers.items() if not ours.endswith(".norm")}


_DEPTH_50 = (3, 4, 6, 3)
_V1 = Form(_DEPTH_50, early_stride=True, padded_pool=False)

# Keras's BatchNorm keeps 99 % of the running value; PyTorch's 0.01 says the same. Epsilon: applications/resnet.py.
_KERAS = Form(_DEPTH_50, early_stride=True, bias=True, epsilon=1.001e-5, momentum=0.01)

# Where torchvision has two versions, its default, the newer and more accurate one, is the default here.
RESNET18 = _torchvision("resnet18", Form((2, 2, 2, 2), bottleneck=False), 1)
RESNET34 = _torchvision("resnet34", Form(_DEPTH_50, bottleneck=False), 1)
RESNET50 = _torchvision("resnet50", Form(_DEPTH_50), 2, 1)
RESNET101 = _torchvision("resnet101", Form((3, 4, 23, 3)), 2, 1)
RESNET152 = _torchvision("resnet152", Form((3, 8, 36, 3)), 2, 1)

# The only files known of it have BatchNorm folded away and torchvision's names. torchvision's own files have the same
# names with BatchNorm, but belong to `resnet50`: in this graph they would load and be wrong.
RESNET50_V1 = _backbone(
    "resnet50_v1",
    _V1,
    Convention("caffe_folded", _unnormed(torchvision_layers(_V1)), _TORCHVISION_SPEC, folded=True),
    top_name="fc1000",
)

RESNET50_KERAS = replace(
    _backbone(
        "resnet50_keras",
        _KERAS,
        Convention(
            "keras",
            keras_layers(_KERAS),
            _KERAS_SPEC,
            tensors=KERAS_TENSORS,
            arrange=from_keras,
            numbered=(keras_numbering(_KERAS),),
        ),
        top_name="predictions",
    ),
    initialize=init.glorot_uniform,  # Keras's default
)
