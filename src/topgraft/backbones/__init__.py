"""The published networks that Topgraft knows. To add one: a module here, a row here, a row in `topgraft.published`."""

from __future__ import annotations

from difflib import get_close_matches

from ..errors import UsageError
from . import alexnet, efficientnet_lite, googlenet, resnet, resnet_notes, squeezenet, vgg
from .spec import SMALLEST_INPUT, Backbone, Build, Chain, Convention, Demand, Fetched, put_constants, random_chain
from .timm_bridge import PREFIX as _TIMM
from .timm_bridge import find_timm

__all__ = [
    "BACKBONES",
    "SMALLEST_INPUT",
    "Backbone",
    "Build",
    "Chain",
    "Convention",
    "Demand",
    "Fetched",
    "find_backbone",
    "put_constants",
    "random_chain",
]

# In the order of history.
BACKBONES: dict[str, Backbone] = {
    "alexnet_2012": alexnet.ALEXNET_2012,
    "alexnet": alexnet.ALEXNET,
    "vgg11": vgg.VGG11,
    "vgg13": vgg.VGG13,
    "vgg16": vgg.VGG16,
    "vgg19": vgg.VGG19,
    "googlenet_2014": googlenet.GOOGLENET_2014,
    "googlenet": googlenet.GOOGLENET,
    "vgg11_bn": vgg.VGG11_BN,
    "vgg13_bn": vgg.VGG13_BN,
    "vgg16_bn": vgg.VGG16_BN,
    "vgg19_bn": vgg.VGG19_BN,
    "resnet18": resnet.RESNET18,
    "resnet34": resnet.RESNET34,
    "resnet50": resnet.RESNET50,
    "resnet101": resnet.RESNET101,
    "resnet152": resnet.RESNET152,
    "resnet50_v1": resnet.RESNET50_V1,
    "resnet50_keras": resnet.RESNET50_KERAS,
    "resnet50_notes": resnet_notes.RESNET50_NOTES,
    "squeezenet1_1": squeezenet.SQUEEZENET1_1,
    "efficientnet_lite0": efficientnet_lite.LITE0,
    "efficientnet_lite1": efficientnet_lite.LITE1,
    "efficientnet_lite2": efficientnet_lite.LITE2,
}


def find_backbone(name: str) -> Backbone:
    """The backbone of that name: one of `BACKBONES`, or ``timm:NAME`` for a network of timm.

    Raises:
        UsageError: there is none; the message names close matches. Or it is timm's, and timm is not here.
    """
    if name.startswith(_TIMM):
        return find_timm(name)
    if name in BACKBONES:
        return BACKBONES[name]
    close = get_close_matches(name.lower(), BACKBONES, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(BACKBONES)}"
    raise UsageError(f"there is no backbone named {name!r}; {hint}")
