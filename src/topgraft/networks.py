"""All that ``--backbone`` names: the published networks, and what came before them."""

from __future__ import annotations

from difflib import get_close_matches

from .backbones import Backbone, find_backbone
from .baselines import BASELINES
from .errors import UsageError


def find_network(name: str) -> Backbone:
    """The baseline or the backbone of that name.

    Raises:
        UsageError: there is none; the message names close matches.
    """
    if name in BASELINES:
        return BASELINES[name]
    try:
        return find_backbone(name)
    except UsageError:
        close = get_close_matches(name.lower(), BASELINES, n=1)
        if not close:
            raise
        raise UsageError(f"there is no backbone named {name!r}; did you mean {close[0]}?") from None
