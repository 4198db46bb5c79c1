"""What a backbone is: a record, a function that builds its chain, and the ways in which its weights are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.weights.convention import Convention

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's red, green and blue, in units of 0…1, as torchvision's networks are trained with.

Source: ``transforms/_presets.py`` in https://github.com/pytorch/vision
"""


Chain = dict[str, nn.Module]
"""An ordered mapping of group names to modules with one tensor across each boundary. The last is ``head``."""

SMALLEST_INPUT = 32
"""Side in pixels of the smallest image that every backbone takes."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """Everything that decides which modules a chain has. JSON types: an artifact's config holds it.

    Attributes:
        input_size: side of the images in pixels, at least `SMALLEST_INPUT`.
        classes: outputs of the head, at least 1.
        channels: of the images: 3, or 1 for gray.
        top: ``own`` ends the base with a pooled or dense vector and makes ``head`` one ``nn.Linear`` on it;
            ``published`` is what the authors had, which is the same in nearly all networks.
        fc: whether the hidden dense layers between the convolutions and the head are kept, where a network has
            any. They take one input size only. Without them the last stage is pooled.
        folded: biases in place of BatchNorm, for weights that it was folded into. Only where a convention says so.
    """

    input_size: int
    classes: int
    channels: int = 3
    top: Literal["own", "published"] = "own"
    fc: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Fetched:
    """Published weights that came from elsewhere than the table of `topgraft.models.weights.published`.

    Attributes:
        tensors: by the names of the backbone's first convention.
        name: of the weights, as artifacts record it.
        license: as published; "not stated" where its publisher does not.
    """

    tensors: Mapping[str, torch.Tensor]
    name: str
    license: str


@dataclass(frozen=True)
class Demand:
    """What alone can run a base, where not every engine can.

    Attributes:
        engine: a key of `topgraft.features.engines.ENGINES`.
        precision: ``bf16`` or ``fp32``.
        device: ``cpu`` or ``cuda``.
        why: the reason, as a clause that a user is shown.
    """

    engine: str
    precision: str
    device: str
    why: str


Learn = Callable[[Chain, Iterable[torch.Tensor], int, int], None]
"""``learn(chain, batches, images, seed)`` learns a base from normalized pixels N×3×H×W, changing it in place."""


@dataclass(frozen=True)
class Backbone:
    """A published network, or a baseline that goes the same way.

    Attributes:
        name: what users type.
        family: the module it is built by.
        year: of publication.
        paper: title and address.
        groups: names of the chain as published, image side first; the last is ``head``. A chain built without its
            dense layers lacks ``fc``.
        feature_width: length of the vector before the head, as published.
        build: makes the chain with parameters of no particular values, for images of `SMALLEST_INPUT` pixels a side
            or more. Under ``torch.device("meta")`` it takes no time or memory.
        initialize: ``initialize(chain, generator)`` draws every parameter as the authors did; see `random_chain`.
        conventions: ways in which its weights are written; files are matched against them in this order.
        untrained: how pixels are made for random weights, at the size it was published for.
        weights: names in `topgraft.models.weights.published.WEIGHTS`; the first is the default. Empty where none are
            published.
        top_name: what its authors call the last layer.
        l2: coefficient of Σw² that its authors add to the loss, over the kernels of convolutions and the kernels
            and biases of dense layers (no ½: Keras's meaning); 0 for none.
        whole: why the base cannot be divided: half a sentence, where the groups are ``base`` and ``head`` for that
            reason. No part of such a base can be frozen without the rest.
        constants: ``constants(build)`` gives the buffers that no file holds because the code computes them, by the
            chain's names; see `put_constants`. None where there are none.
        fetch: gets the default weights where `weights` is empty; it raises `topgraft.errors.WeightsError`.
        notes: what a user should know of how the network is used here, one sentence each.
        learn: where the base is learned from the training images instead of published; see
            `topgraft.models.build`. A fit does this first.
        solver: how the head is solved on features: a key of `topgraft.training.head_phase.SOLVERS`.
        demand: what alone can run the base; None where every engine can.
        libraries: distributions besides PyTorch whose version changes what the base computes.
        require: raises `topgraft.errors.UsageError` where one of them cannot be imported; asked before the work.
    """

    name: str
    family: str
    year: int
    paper: str
    groups: tuple[str, ...]
    feature_width: int
    build: Callable[[Build], Chain]
    initialize: Callable[[Chain, torch.Generator], None]
    conventions: tuple[Convention, ...]
    untrained: ImageSpec
    weights: tuple[str, ...] = ()
    top_name: str = "head"
    l2: float = 0.0
    whole: str = ""
    constants: Callable[[Build], Mapping[str, torch.Tensor]] | None = None
    fetch: Callable[[], Fetched] | None = None
    notes: tuple[str, ...] = ()
    learn: Learn | None = None
    solver: Literal["logistic", "svm"] = "logistic"
    demand: Demand | None = None
    libraries: tuple[str, ...] = ()
    require: Callable[[], object] | None = None


def random_chain(backbone: Backbone, build: Build, seed: int) -> Chain:
    """A chain with random weights, drawn from a generator of this seed and nothing else; BatchNorm scales by 1."""
    with torch.device("meta"):
        chain = backbone.build(build)
    groups = nn.ModuleDict(chain).to_empty(device="cpu")
    with torch.no_grad():
        for module in groups.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                if module.affine:
                    nn.init.ones_(module.weight)
                    nn.init.zeros_(module.bias)
        backbone.initialize(chain, torch.Generator().manual_seed(seed))
    put_constants(backbone, build, chain)
    return chain


def put_constants(backbone: Backbone, build: Build, chain: Chain) -> None:
    """Give a chain that was built on the meta device the buffers that no file holds. All else is left alone."""
    if backbone.constants is None:
        return
    groups = nn.ModuleDict(chain)
    for key, value in backbone.constants(build).items():
        owner, _, name = key.rpartition(".")
        groups.get_submodule(owner).register_buffer(name, value, persistent=False)
