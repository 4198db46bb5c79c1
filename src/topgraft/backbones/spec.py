"""What a backbone is: a record, and a function that builds its chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Chain = dict[str, nn.Module]
"""An ordered mapping of group names to modules with one tensor across each boundary. The last is ``head``."""


SMALLEST_INPUT = 32
"""Side in pixels of the smallest image that every backbone takes."""


@dataclass(frozen=True)
class Backbone:
    """A published network.

    Attributes:
        name: what users type.
        family: the module it is built by.
        year: of publication.
        paper: title and address.
        groups: names of the chain, image side first; the last is ``head``, the one Linear that is replaced.
        feature_width: length of the vector before the head.
        build: ``build(input_size, classes)`` makes the chain with untrained parameters, for images of
            `SMALLEST_INPUT` pixels a side or more. Under ``torch.device("meta")`` it takes no time or memory.
        weights: names in `topgraft.weights.WEIGHTS`; the first is the default.
    """

    name: str
    family: str
    year: int
    paper: str
    groups: tuple[str, ...]
    feature_width: int
    build: Callable[[int, int], Chain]
    weights: tuple[str, ...]
