"""FAMILY: what came before the networks. To add one: a module here, a row here.

A baseline is described by the same record as a network, and goes the same way. Its base has no published weights: it
is learnt from the training images first (`topgraft.backbones.Backbone.learn`).
"""

from __future__ import annotations

from ..backbones import Backbone
from . import descriptor_coding

__all__ = ["BASELINES"]

BASELINES: dict[str, Backbone] = {
    "descriptor_coding": descriptor_coding.DESCRIPTOR_CODING,
}
