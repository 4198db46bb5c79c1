"""Divide a network that has timm's interface into a chain, and prove that the chain computes what the network does.

timm's interface is ``forward_features(x)``, ``forward_head(x, pre_logits=…)``, ``get_classifier()`` and
``feature_info``, which names the module that ends each stage:
https://huggingface.co/docs/timm/feature_extraction. This module does not import timm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.models.spec import Build, Chain

T = TypeVar("T")

PROBE_CLASSES = 5
TOLERANCE = 1e-5
"""Largest difference between the chain and the network, of the network's largest value. They run the same float32
operations in the same order; what is left is a convolution that PyTorch computes in another way for another layout."""

_STEM_LAYERS = 1  # convolutions and dense layers: a first end with more of them ends a stage, not the stem


class Unsplittable(Exception):
    """Why a network is not a chain, as half a sentence."""


@dataclass(frozen=True)
class Layout:
    """Where a network is cut.

    Attributes:
        groups: name → paths of the modules that follow one another in it, without ``head``. A path is the place in
            the network as published, ``blocks.2``. A single group without paths runs the network's own code.
        top: paths of what is taken out: the classifier, and what is used by nothing but it.
        width: of the vector before the classifier.
        dense: whether the classifier is one dense layer on that vector. If not, ``head`` is a new one.
        whole: why there is a single group; empty where there are more.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    top: tuple[str, ...]
    width: int
    dense: bool
    whole: str = ""


class Pooled(nn.Module):
    """The end of the last stage: what ``forward_head`` does before the classifier. N×C×H×W in, N×features out.

    Attributes:
        network: as published, without the modules that earlier groups have taken and without its classifier.
        asked: what the chain was built for.
    """

    def __init__(self, network: nn.Module, asked: Build) -> None:
        super().__init__()
        self.network: Any = network
        self.asked = asked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The vector before the classifier."""
        features: torch.Tensor = self.network.forward_head(x, pre_logits=True)
        return features.flatten(1) if features.dim() == 4 else features


class Whole(Pooled):
    """The whole network but its classifier, by its own code. N×3×H×W in, N×features out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The vector before the classifier."""
        return super().forward(self.network.forward_features(x))


@dataclass(frozen=True)
class Cut:
    """A network as a chain, and how to get from one to the other.

    Attributes:
        chain: its modules are the network's own, but for ``head``, which is a new ``nn.Linear`` with the
            classifier's values where that is one dense layer.
        layers: the network's layers that hold tensors → the chain's, in the network's order. A tensor of the
            network itself is in the layer ``""``.
    """

    chain: Chain
    layers: dict[str, str]


def cut(network: Any, layout: Layout, asked: Build) -> Cut:
    """Divide a network; it is used up."""
    before = [(path, module) for path, module in network.named_modules() if _holds_tensors(module)]
    head = _linear(network.get_submodule(layout.top[0])) if layout.dense else nn.Linear(layout.width, asked.classes)
    for path in layout.top:
        network.set_submodule(path, nn.Identity())
    chain: Chain = {}
    for name, paths in layout.groups:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for path in paths:
            modules[path.replace(".", "_")] = network.get_submodule(path)
            network.set_submodule(path, nn.Identity())
        if name == layout.groups[-1][0]:
            modules["top"] = Pooled(network, asked) if paths else Whole(network, asked)
        chain[name] = nn.Sequential(modules) if len(modules) > 1 else next(iter(modules.values()))
    chain["head"] = head
    places = {id(module): path for path, module in nn.ModuleDict(chain).named_modules()}
    layers = {path: places[id(module)] for path, module in before if id(module) in places}
    return Cut(chain, {**layers, layout.top[0]: "head"} if layout.dense else layers)


def _holds_tensors(module: nn.Module) -> bool:
    own: tuple[Iterable[Any], ...] = (module.parameters(recurse=False), module.buffers(recurse=False))
    return any(True for tensors in own for _ in tensors)


def _is_dense(classifier: nn.Module) -> bool:
    """Whether it is one dense layer. A 1×1 convolution on a pooled map is the same thing."""
    if isinstance(classifier, nn.Conv2d):
        return classifier.kernel_size == (1, 1) and classifier.groups == 1
    return isinstance(classifier, nn.Linear)


def _linear(classifier: Any) -> nn.Linear:
    weight, bias = classifier.weight.flatten(1), classifier.bias
    head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is None:
            head.bias.zero_()
        else:
            head.bias.copy_(bias)
    return head


# --- Where to cut ---------------------------------------------------------------------------------------------------


def find_layout(make: Callable[[], nn.Module], sides: Sequence[int]) -> Layout:
    """Divide a network at its own stages, and check on random images that nothing has changed.

    Args:
        make: makes the network with `PROBE_CLASSES` outputs and any weights.
        sides: of images in pixels; the first that the network takes is used.

    Raises:
        UsageError: not even the base as a whole gives the network's features; the message is half a sentence.
    """
    return seeded(lambda: _find_layout(make, sides), 0)


def seeded(work: Callable[[], T], seed: int) -> T:
    """What `work` gives, on the processor, where PyTorch's own generator starts from a seed; it is then put back."""
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the generators of GPUs too
        return work()


def _find_layout(make: Callable[[], nn.Module], sides: Sequence[int]) -> Layout:
    network = _scrambled(make())
    images, features, logits = _reference(network, sides)
    whole = _base_and_head(network, images, features, logits)
    try:
        layout = replace(whole, groups=_stages(network, images))
        _compare(cut(deepcopy(network), layout, _PROBE).chain, images, features)
        return layout
    except Unsplittable as reason:
        layout = replace(whole, whole=str(reason))
    try:
        _compare(cut(network, layout, _PROBE).chain, images, features)
    except Unsplittable as reason:
        raise UsageError(str(reason)) from reason
    return layout


_PROBE = Build(input_size=0, classes=PROBE_CLASSES)


def _scrambled(network: nn.Module) -> nn.Module:
    """In evaluation mode, with values under which no layer does nothing.

    As they start, norms do next to nothing and some scales are 0 or 1e-6. BatchNorm's statistics are left to
    `_measure_norms`: with any others, two images look the same at the end of a deep network.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.numel() > 1 and max(tensor.shape) < tensor.numel():
                continue  # the kernel of a convolution or a dense layer
            if name.endswith("bias"):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


def _measure_norms(network: Any, images: torch.Tensor) -> None:
    """Give every BatchNorm the mean and the variance of what it sees of some images."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(images)
    network.eval()


def _reference(network: Any, sides: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Random images of a size that the network takes, its own features of them, and what its forward pass gives."""
    reason = ""
    for side in sides:
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        images[1] = 3 * images[1] + 1  # other statistics too: without BatchNorm, networks see little else in noise
        try:
            _measure_norms(network, images)
            with torch.inference_mode():
                features = network.forward_head(network.forward_features(images), pre_logits=True)
                logits = network(images)
        except Exception as error:  # whatever another author's network raises where an image is too small for it
            reason = line_of(error)
            continue
        if not isinstance(features, torch.Tensor):
            raise UsageError("its features are more than one tensor")
        features = features.flatten(1) if features.dim() == 4 and features.shape[2:] == (1, 1) else features
        if features.dim() != 2:
            raise UsageError(f"its features are not a vector but have the shape {tuple(features.shape[1:])}")
        _check_varied(features)
        return images, features, logits
    raise UsageError(f"it takes no images of {', '.join(map(str, sides))} pixels a side ({reason})")


def _base_and_head(network: Any, images: torch.Tensor, features: torch.Tensor, logits: Any) -> Layout:
    """The network as two groups, and what its classifier is."""
    found = network.get_classifier()
    parts = list(found) if isinstance(found, tuple | nn.ModuleList) else [found]  # two where it was distilled
    paths = [path for path, module in network.named_modules() if any(module is part for part in parts)]
    if len(paths) < len(parts):
        raise UsageError("timm does not say where its classifier is")
    if len(parts) == 1 and _is_dense(found) and isinstance(logits, torch.Tensor):
        with torch.inference_mode():
            answer = _linear(found)(features) if found.weight.flatten(1).shape[1] == features.shape[1] else None
        if answer is not None and _is_equal(answer, logits):
            return Layout((("base", ()),), (paths[0],), features.shape[1], dense=True)
    tops = tuple(dict.fromkeys(path.split(".")[0] for path in paths))
    optional = [
        path
        for path, _ in network.named_modules()
        if f"{path}.".startswith(tuple(f"{top}." for top in tops))
        and not f"{path}.".startswith(tuple(f"{part}." for part in paths))
    ]
    used = _order(network, optional, lambda: network.forward_head(network.forward_features(images), pre_logits=True))
    return Layout((("base", ()),), tuple(paths) if used else tops, features.shape[1], dense=False)


def _stages(network: Any, images: torch.Tensor) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The modules that run one after the other in ``forward_features``, divided at the ends of stages."""
    ends = [str(entry["module"]) for entry in getattr(network, "feature_info", None) or ()]
    if not ends:
        raise Unsplittable("timm does not say where its stages end")
    known = dict(network.named_modules())
    if unknown := [end for end in ends if end not in known]:
        raise Unsplittable(f"timm says that stages end at {' and '.join(unknown)}, which are not modules of it")
    order = _order(network, _divided(network, "", ends), lambda: network.forward_features(images))
    if twice := sorted({path for path in order if order.count(path) > 1}):
        raise Unsplittable(f"it runs {' and '.join(twice)} more than once")
    places = [order.index(end) for end in ends if end in order]
    if len(places) < len(ends) or places != sorted(set(places)):
        raise Unsplittable("the modules that timm says its stages end at do not run one after the other")
    return tuple(_named(order, places, known))


def _divided(module: nn.Module, path: str, ends: Sequence[str]) -> list[str]:
    """Paths of the modules below one, not going into any that no stage ends in."""
    found = []
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        inside = any(end.startswith(f"{below}.") for end in ends)
        found += _divided(child, below, ends) if inside else [below]
    return found


def _order(network: Any, paths: Sequence[str], run: Callable[[], Any]) -> list[str]:
    """The paths in the order in which they run."""
    order: list[str] = []
    handles = [
        network.get_submodule(path).register_forward_hook(lambda *_, path=path: order.append(path)) for path in paths
    ]
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return order


def _named(order: list[str], places: list[int], known: dict[str, nn.Module]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """``stem``, ``stage1`` … Whatever follows the last end of a stage belongs to the last stage."""
    first = places[0]
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in known[order[first]].modules())
    if first and layers > _STEM_LAYERS:
        starts = [0, first, *(place + 1 for place in places[:-1])]
    else:
        starts = [0, *(place + 1 for place in places[:-1])]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(order)], strict=True)):
        yield f"stage{number}" if number else "stem", tuple(order[start:end])


def _compare(chain: Chain, images: torch.Tensor, features: torch.Tensor) -> None:
    x: Any = images
    with torch.inference_mode():
        for name in list(chain)[:-1]:
            try:
                x = chain[name](x)
            except Exception as error:  # another's module, given what it is not made for
                raise Unsplittable(f"{name} does not run on what the group before it gives") from error
            if not isinstance(x, torch.Tensor):
                raise Unsplittable(f"more than one tensor comes out of {name}")
    if not _is_equal(x, features):
        raise Unsplittable("its stages, run one after the other, give other features than timm's own forward pass")


def _check_varied(features: torch.Tensor) -> None:
    if not (features[0] - features[1]).abs().max() > 10 * TOLERANCE * features.abs().max():
        raise UsageError("its features of two random images are the same, so that nothing can be compared")


def _is_equal(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def line_of(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
