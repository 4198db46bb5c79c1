"""ResNet-50 as the notes build it by hand in Keras, layer for layer and name for name.

The graph is "v1.5": a stage halves the map in the 3×3 convolution and in the 1×1 shortcut of its block ``a``. All
padding but the first is TensorFlow's "same". It goes back to ``official/legacy/image_classification/resnet`` in
https://github.com/tensorflow/models; paper: https://arxiv.org/abs/1512.03385

Groups and layers are numbered by the paper's stages 2 to 5: ``res2a_branch2a`` is in ``stage2``. Stage 1 is the stem.
Layers that the notes do not name have the names that Keras gives them, in the order in which the code makes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.spec import Backbone, Build, Chain
from topgraft.models.weights.convention import Convention, keras_numbers
from topgraft.models.weights.keras_layout import KERAS_TENSORS, from_keras

from .init import he_normal
from .layers import Add, GlobalAveragePool2d, SameConv2d, SameMaxPool2d

GROUPS = ("stem", "stage2", "stage3", "stage4", "stage5", "head")
STEM_WIDTH = 64
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, and width f of a bottleneck [f, f, 4f]
FEATURE_WIDTH = 2048

# The notes' momentum 0.9 is the share that the running value keeps; PyTorch's is the share of the new batch.
NORM_MOMENTUM = 0.1
NORM_EPSILON = 1e-5
L2 = 1e-4


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions added to the input; every layer under the notes' name.

    N×C×H×W in, N×4f×⌈H/stride⌉×⌈W/stride⌉ out.

    Args:
        place: stage and block: ``2a``.
        channels_in: C.
        width: f.
        stride: of the 3×3 convolution and of the shortcut.
        activations, additions: Keras's names of the layers that the notes leave unnamed.
    """

    def __init__(
        self,
        place: str,
        channels_in: int,
        width: int,
        stride: int,
        activations: Iterator[str],
        additions: Iterator[str],
    ) -> None:
        super().__init__()
        out = 4 * width
        self.branch = nn.Sequential()
        self._add(f"{place}_branch2a", nn.Conv2d(channels_in, width, 1, bias=False), self.branch)
        self.branch.add_module(next(activations), nn.ReLU(inplace=True))
        self._add(f"{place}_branch2b", SameConv2d(width, width, 3, stride, bias=False), self.branch)
        self.branch.add_module(next(activations), nn.ReLU(inplace=True))
        self._add(f"{place}_branch2c", nn.Conv2d(width, out, 1, bias=False), self.branch)
        self.shortcut: nn.Module = nn.Identity()
        if place.endswith("a"):
            self.shortcut = nn.Sequential()
            self._add(f"{place}_branch1", nn.Conv2d(channels_in, out, 1, stride, bias=False), self.shortcut)
        self.ends = nn.ModuleDict({next(additions): Add(), next(activations): nn.ReLU(inplace=True)})

    @staticmethod
    def _add(name: str, convolution: nn.Conv2d, layers: nn.Sequential) -> None:
        layers.add_module(f"res{name}", convolution)
        layers.add_module(f"bn{name}", _norm(convolution.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block."""
        add, activation = self.ends.values()
        y: torch.Tensor = activation(add(self.branch(x), self.shortcut(x)))
        return y


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, NORM_EPSILON, NORM_MOMENTUM)


def _numbered(name: str) -> Iterator[str]:
    """Keras's own names: ``add``, ``add_1``, ``add_2`` …"""
    return (f"{name}_{number}" if number else name for number in count())


def places() -> Iterator[tuple[str, int, str]]:
    """Of every block in order: the group, its number in it, and the notes' name: ``stage2``, 0, ``2a``."""
    for stage, (blocks, _) in enumerate(STAGES, start=2):
        for block in range(blocks):
            yield f"stage{stage}", block, f"{stage}{'abcdef'[block]}"


def build(options: Build) -> Chain:
    """The chain, untrained. The global average pool ends ``stage5``; ``head`` is the notes' ``fc1000``.

    The notes' softmax is left out: a chain gives logits.

    Args:
        options: classes and channels; the network takes any input size.
    """
    activations, additions = _numbered("activation"), _numbered("add")
    stem: OrderedDict[str, nn.Module] = OrderedDict(
        conv1_pad=nn.ZeroPad2d(3),
        conv1=nn.Conv2d(options.channels, STEM_WIDTH, 7, 2, bias=False),
        bn_conv1=_norm(STEM_WIDTH),
    )
    stem[next(activations)] = nn.ReLU(inplace=True)
    stem["max_pooling2d"] = SameMaxPool2d(3, 2)
    chain: Chain = {"stem": nn.Sequential(stem), **{group: nn.Sequential() for group in GROUPS[1:-1]}}
    channels = STEM_WIDTH
    for group, block, place in places():
        width = STAGES[int(place[0]) - 2][1]
        stride = 2 if block == 0 and group != "stage2" else 1
        chain[group].add_module(place, Bottleneck(place, channels, width, stride, activations, additions))
        channels = 4 * width
    chain["stage5"].add_module("global_average_pooling2d", GlobalAveragePool2d())
    chain["head"] = nn.Linear(FEATURE_WIDTH, options.classes)
    return chain


def keras_layers() -> dict[str, str]:
    """The notes' layers and the chain's, in the order in which the notes' code makes them."""
    names = {"conv1": "stem.conv1", "bn_conv1": "stem.bn_conv1"}
    for group, block, place in places():
        for part in ("branch2a", "branch2b", "branch2c", *(("branch1",) if block == 0 else ())):
            inside = "shortcut" if part == "branch1" else "branch"
            for kind in ("res", "bn"):
                name = f"{kind}{place}_{part}"
                names[name] = f"{group}.{place}.{inside}.{name}"
    names["fc1000"] = "head"
    return names


def keras_numbering(*, shortcut_first: bool) -> dict[str, str]:
    """What Keras calls the layers in a file without names; see `keras_numbers`.

    In a block ``a`` the last convolution of the branch and that of the shortcut are equally far from the output.

    Args:
        shortcut_first: which operand of its sums the code names first. The notes do not say.
    """
    parts = ["branch2a", "branch2b", "branch2c"]
    parts.insert(2 if shortcut_first else 3, "branch1")
    order = [f"{place}_{part}" for _, block, place in places() for part in parts if block == 0 or part != "branch1"]
    return keras_numbers(
        conv2d=("conv1", *(f"res{name}" for name in order)),
        batch_normalization=("bn_conv1", *(f"bn{name}" for name in order)),
        dense=("fc1000",),
    )


# The notes train it at 32 × 32, divide by 255 and do no more.
_SPEC = ImageSpec(32, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RESNET50_NOTES = Backbone(
    name="resnet50_notes",
    family="resnet_notes",
    year=2015,
    paper="Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385",
    groups=GROUPS,
    feature_width=FEATURE_WIDTH,
    build=build,
    initialize=he_normal,
    conventions=(
        Convention(
            "keras",
            keras_layers(),
            _SPEC,
            tensors=KERAS_TENSORS,
            arrange=from_keras,
            numbered=tuple(keras_numbering(shortcut_first=first) for first in (False, True)),
        ),
    ),
    untrained=_SPEC,
    top_name="fc1000",
    l2=L2,
)
