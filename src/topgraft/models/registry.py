"""The table of networks, and finding one by name."""

from __future__ import annotations

from difflib import get_close_matches

from topgraft.errors import UsageError
from topgraft.models.backbones import (
    alexnet,
    descriptor_coding,
    efficientnet_lite,
    googlenet,
    resnet,
    resnet_tf,
    squeezenet,
    vgg,
)
from topgraft.models.backbones.timm.bridge import find_timm
from topgraft.models.backbones.timm.pretrained import PREFIX as _TIMM

from .spec import Backbone

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
    "resnet50_notes": resnet_tf.RESNET50_NOTES,
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


BASELINES: dict[str, Backbone] = {
    "descriptor_coding": descriptor_coding.DESCRIPTOR_CODING,
}


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
