"""Cut a network with timm's interface into the groups of a chain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from topgraft.models.spec import Build, Chain

T = TypeVar("T")


class Unsplittable(Exception):
    """Why a network is not a chain, as half a sentence."""


@dataclass(frozen=True)
class Layout:
    """Where a network is cut.

    Attributes:
        groups: name → paths of its modules in the order in which they run, without ``head``. A path is that in the
            published network, such as ``blocks.2``. A single group without paths runs the network's own code.
        top: paths of the modules that are removed: the classifier, and those that only it uses.
        width: length of the vector before the classifier.
        dense: whether the classifier is one dense layer on that vector. If not, ``head`` is new.
        whole: why there is a single group; empty if there are more.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    top: tuple[str, ...]
    width: int
    dense: bool
    whole: str = ""


class Pooled(nn.Module):
    """The end of the last stage: what ``forward_head`` does before the classifier. N×C×H×W in, N×features out.

    Attributes:
        network: the published network without its classifier and without the modules of earlier groups.
        options: options that the chain was built with.
    """

    def __init__(self, network: nn.Module, options: Build) -> None:
        super().__init__()
        self.network: Any = network
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The vector before the classifier."""
        features: torch.Tensor = self.network.forward_head(x, pre_logits=True)
        return features.flatten(1) if features.dim() == 4 else features


class Whole(Pooled):
    """The whole network without its classifier, run by its own code. N×3×H×W in, N×features out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The vector before the classifier."""
        return super().forward(self.network.forward_features(x))


@dataclass(frozen=True)
class Cut:
    """A network as a chain, and the names of its layers in the chain.

    Attributes:
        chain: the modules of the network, and as ``head`` a new ``nn.Linear``, with the values of the classifier if
            that is one dense layer.
        layers: layers of the network with tensors → those of the chain, in the network's order. The layer ``""``
            has the tensors of the network itself.
    """

    chain: Chain
    layers: dict[str, str]


def cut(network: Any, layout: Layout, options: Build) -> Cut:
    """Cut a network. It cannot be used afterwards."""
    layers_before = [(path, module) for path, module in network.named_modules() if _has_tensors(module)]
    head = as_linear(network.get_submodule(layout.top[0])) if layout.dense else nn.Linear(layout.width, options.classes)
    for path in layout.top:
        network.set_submodule(path, nn.Identity())
    chain: Chain = {}
    for name, paths in layout.groups:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for path in paths:
            modules[path.replace(".", "_")] = network.get_submodule(path)
            network.set_submodule(path, nn.Identity())
        if name == layout.groups[-1][0]:
            modules["top"] = Pooled(network, options) if paths else Whole(network, options)
        chain[name] = nn.Sequential(modules) if len(modules) > 1 else next(iter(modules.values()))
    chain["head"] = head
    new_paths = {id(module): path for path, module in nn.ModuleDict(chain).named_modules()}
    layers = {path: new_paths[id(module)] for path, module in layers_before if id(module) in new_paths}
    return Cut(chain, {**layers, layout.top[0]: "head"} if layout.dense else layers)


def _has_tensors(module: nn.Module) -> bool:
    tensors: tuple[Iterable[Any], ...] = (module.parameters(recurse=False), module.buffers(recurse=False))
    return any(True for group in tensors for _ in group)


def is_dense(classifier: nn.Module) -> bool:
    """Whether a classifier is one dense layer, or a 1×1 convolution, which on a pooled map computes the same."""
    if isinstance(classifier, nn.Conv2d):
        return classifier.kernel_size == (1, 1) and classifier.groups == 1
    return isinstance(classifier, nn.Linear)


def as_linear(classifier: Any) -> nn.Linear:
    """A new dense layer with the values of a classifier that is one; a missing bias becomes 0."""
    weight, bias = classifier.weight.flatten(1), classifier.bias
    head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is None:
            head.bias.zero_()
        else:
            head.bias.copy_(bias)
    return head


def seeded(work: Callable[[], T], seed: int) -> T:
    """The result of `work` on the CPU with PyTorch's global generator seeded; its state is restored afterwards."""
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the generators of GPUs
        return work()
