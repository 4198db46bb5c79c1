"""What networks there are, and what one is made of."""

from __future__ import annotations

from typing import Any

from topgraft.models.weights.names import LEARNED
from topgraft.models.weights.obtain import locate
from topgraft.models.weights.published import find_weights
from topgraft.system.quantities import InputSize, image_side

from .registry import BACKBONES, BASELINES, find_network
from .spec import Backbone
from .summary import Summary, summarize


def list_backbones() -> tuple[dict[str, Any], ...]:
    """One row for each network: name, year, parameters, published top-1, license, whether its weights are here.

    Of a network without published weights `top1` is None, `weights` is empty and `license` is a dash. Of one that is
    learned from the images, `weights` is ``learnt``, and it has neither parameters nor multiply-adds of its own.
    """
    rows = []
    for network in (*BASELINES.values(), *BACKBONES.values()):
        weights = find_weights(network.weights[0]) if network.weights else None
        size, classes = _published_shape(network)
        described = summarize(network.name, size, classes)
        rows.append(
            {
                "name": network.name,
                "year": network.year,
                "parameters": None if network.learn else described.parameters.total,
                "multiply_adds": None if network.learn else described.multiply_adds,
                "input_size": size,
                "features": network.feature_width,
                "top1": weights.top1 if weights else None,
                "weights": weights.name if weights else LEARNED if network.learn else "",
                "license": weights.license if weights else "–",
                "here": bool(network.learn or (weights and locate(weights.name))),
                "paper": network.paper,
            }
        )
    return tuple(rows)


def summary(backbone: str, input_size: InputSize | None = None, classes: int | None = None) -> Summary:
    """Layers, output shapes, parameters, multiply-adds of a network; its published size and top if not given."""
    size, published = _published_shape(find_network(backbone))
    return summarize(backbone, size if input_size is None else image_side(input_size), classes or published)


def _published_shape(network: Backbone) -> tuple[int, int]:
    """Side of the images and classes of a network's default weights; what it was published for if it has none."""
    if not network.weights:
        return network.untrained.input_size, 1000  # ImageNet-1k
    weights = find_weights(network.weights[0])
    return weights.spec.input_size, weights.classes
