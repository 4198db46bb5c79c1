"""The published networks that Topgraft knows. To add one: a module here, a row here, a row in `topgraft.published`."""

from __future__ import annotations

from difflib import get_close_matches

from ..errors import UsageError
from . import efficientnet_lite
from .spec import SMALLEST_INPUT, Backbone, Build, Chain, Convention, Demand, random_chain

__all__ = [
    "BACKBONES",
    "SMALLEST_INPUT",
    "Backbone",
    "Build",
    "Chain",
    "Convention",
    "Demand",
    "find_backbone",
    "random_chain",
]

BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": efficientnet_lite.LITE0,
    "efficientnet_lite1": efficientnet_lite.LITE1,
    "efficientnet_lite2": efficientnet_lite.LITE2,
}


def find_backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        UsageError: there is none; the message names close matches.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    close = get_close_matches(name.lower(), BACKBONES, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(BACKBONES)}"
    raise UsageError(f"there is no backbone named {name!r}; {hint}")
