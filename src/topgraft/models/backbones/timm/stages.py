"""Find the stages of a network with timm's interface, and prove that their chain computes the same features.

timm's interface is ``forward_features(x)``, ``forward_head(x, pre_logits=…)``, ``get_classifier()`` and
``feature_info``, which names the module that ends each stage:
https://huggingface.co/docs/timm/feature_extraction. This module does not import timm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.models.spec import Build

from .cut import Layout, Unsplittable, as_linear, cut, is_dense, seeded
from .proof import is_equal, randomized, reference_outputs, require_equal

PROBE_CLASSES = 5
_STEM_LAYERS = 1  # convolutions and dense layers: if the first listed module has more, it is a stage, not the stem


def find_layout(make: Callable[[], nn.Module], sides: Sequence[int]) -> Layout:
    """Divide a network at its stages, and check on random images that the features do not change.

    Args:
        make: function that builds the network with `PROBE_CLASSES` outputs and any weights.
        sides: input sizes in pixels; the first that the network takes is used.

    Raises:
        UsageError: not even the whole base computes the features of the network; the message is half a sentence.
    """
    return seeded(lambda: _find_layout(make, sides), 0)


def _find_layout(make: Callable[[], nn.Module], sides: Sequence[int]) -> Layout:
    network = randomized(make())
    images, features, logits = reference_outputs(network, sides)
    whole = _base_and_head(network, images, features, logits)
    try:
        layout = replace(whole, groups=_stages(network, images))
        require_equal(cut(deepcopy(network), layout, _PROBE).chain, images, features)
        return layout
    except Unsplittable as reason:
        layout = replace(whole, whole=str(reason))
    try:
        require_equal(cut(network, layout, _PROBE).chain, images, features)
    except Unsplittable as reason:
        raise UsageError(str(reason)) from reason
    return layout


_PROBE = Build(input_size=0, classes=PROBE_CLASSES)


def _base_and_head(network: Any, images: torch.Tensor, features: torch.Tensor, logits: Any) -> Layout:
    """The layout of the network as base and head."""
    classifier = network.get_classifier()
    parts = (
        list(classifier) if isinstance(classifier, tuple | nn.ModuleList) else [classifier]
    )  # two in distilled networks
    paths = [path for path, module in network.named_modules() if any(module is part for part in parts)]
    if len(paths) < len(parts):
        raise UsageError("timm does not say where its classifier is")
    if len(parts) == 1 and is_dense(classifier) and isinstance(logits, torch.Tensor):
        with torch.inference_mode():
            answer = (
                as_linear(classifier)(features) if classifier.weight.flatten(1).shape[1] == features.shape[1] else None
            )
        if answer is not None and is_equal(answer, logits):
            return Layout((("base", ()),), (paths[0],), features.shape[1], dense=True)
    tops = tuple(dict.fromkeys(path.split(".")[0] for path in paths))
    optional = [
        path
        for path, _ in network.named_modules()
        if f"{path}.".startswith(tuple(f"{top}." for top in tops))
        and not f"{path}.".startswith(tuple(f"{part}." for part in paths))
    ]
    used = run_order(network, optional, lambda: network.forward_head(network.forward_features(images), pre_logits=True))
    return Layout((("base", ()),), tuple(paths) if used else tops, features.shape[1], dense=False)


def _stages(network: Any, images: torch.Tensor) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The modules that run one after another in ``forward_features``, divided at the ends of stages."""
    ends = [str(entry["module"]) for entry in getattr(network, "feature_info", None) or ()]
    if not ends:
        raise Unsplittable("timm does not say where its stages end")
    known = dict(network.named_modules())
    if unknown := [end for end in ends if end not in known]:
        raise Unsplittable(f"timm says that stages end at {' and '.join(unknown)}, which are not modules of it")
    order = run_order(network, _divided(network, "", ends), lambda: network.forward_features(images))
    if twice := sorted({path for path in order if order.count(path) > 1}):
        raise Unsplittable(f"it runs {' and '.join(twice)} more than once")
    places = [order.index(end) for end in ends if end in order]
    if len(places) < len(ends) or places != sorted(set(places)):
        raise Unsplittable("the modules that timm says its stages end at do not run one after another")
    return tuple(_named(order, places, known))


def _divided(module: nn.Module, path: str, ends: Sequence[str]) -> list[str]:
    """Paths of the modules below one, down to those that do not contain the end of a stage."""
    paths = []
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        inside = any(end.startswith(f"{below}.") for end in ends)
        paths += _divided(child, below, ends) if inside else [below]
    return paths


def run_order(network: Any, paths: Sequence[str], run: Callable[[], Any]) -> list[str]:
    """The paths in the order in which their modules run."""
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
    """``stem``, ``stage1`` … Modules after the last end of a stage belong to the last stage."""
    first = places[0]
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in known[order[first]].modules())
    if first and layers > _STEM_LAYERS:
        starts = [0, first, *(place + 1 for place in places[:-1])]
    else:
        starts = [0, *(place + 1 for place in places[:-1])]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(order)], strict=True)):
        yield f"stage{number}" if number else "stem", tuple(order[start:end])
