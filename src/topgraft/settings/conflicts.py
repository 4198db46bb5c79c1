"""Choices that contradict each other or would have no effect, and what settings mean together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from topgraft.errors import UsageError
from topgraft.models.weights.names import RANDOM
from topgraft.strategies.defaults import learning_rate
from topgraft.system.formatting import listing

from . import fields, verbs

_CACHING = frozenset({"views", "boundary_cache", "cache_quota"})


_STEPPING = _CACHING | {
    "epochs", "lr", "find_lr", "batch_size", "optimizer", "schedule", "augment", "batchnorm", "l2", "stalled",
    "label_smoothing", "mixup", "ema", "l2_sp", "patience",
}  # fmt: skip
"""Choices about steps, which a strategy that only solves has no use for."""


def require_effect(given: Mapping[str, Any], chosen: verbs.FitSettings | verbs.InspectSettings) -> None:
    """Refuse what would be silently without effect.

    Args:
        given: the choices that a user wrote.
        chosen: what came of them.

    Raises:
        UsageError: one has no effect with the others; says what to do.
    """
    wrote = {name for name, value in given.items() if value is not None and value is not False}
    strategy = strategy_name(chosen)
    if chosen.rules is not None and given.get("strategy", "rules") != "rules":
        raise UsageError(f"--rules are phases of your own, and --strategy {given['strategy']} has others; give one")
    if strategy == "rules" and wrote & {"lr", "epochs"}:
        raise UsageError("every phase of --rules has its own epochs and lr; set them there")
    if "unfreeze_from" in wrote and strategy != "partial":
        raise UsageError(f"--unfreeze-from belongs to partial, and the strategy is {strategy}; add --strategy partial")
    if "budget" in wrote and strategy != "auto":
        raise UsageError(f"--budget is what auto keeps to, and the strategy is {strategy}; leave one of them out")
    changed = {name for name in wrote if getattr(chosen, name) != getattr(type(chosen)(), name)}
    idle = changed & _STEPPING if strategy == "head" else changed & _CACHING if strategy == "full" else set()
    if idle:
        why = "takes no steps" if strategy == "head" else "freezes nothing whose activations could be kept"
        raise UsageError(
            f"{listing(sorted(map(fields.flag_of, idle)))} would have no effect: {strategy} {why}. Leave it out"
        )
    if "l2_sp" in changed and chosen.weights == RANDOM:
        raise UsageError("--l2-sp pulls to the published weights, and random ones were not published; leave it out")
    if "views" in wrote and given.get("augment") == "none":
        raise UsageError("--views are augmented ones, and --augment none makes none; give one of them")
    if {"lr", "find_lr"} <= wrote:
        raise UsageError("--find-lr measures the rate that --lr gives; give one of them")


def without_validation(chosen: verbs.FitSettings) -> verbs.FitSettings:
    """The settings without validation images: only the head is trained, as nothing can say whether steps help.

    Raises:
        UsageError: a strategy that takes steps.
    """
    if strategy_name(chosen) not in ("auto", "head") or chosen.weights == RANDOM:
        raise UsageError(
            "there are no validation images, so nothing can say whether training more than the head helps. "
            "Use --strategy head with pretrained weights, or add images: at least 3 different ones of a class"
        )
    return replace(chosen, strategy="head", budget=None)


def strategy_name(chosen: verbs.FitSettings | verbs.InspectSettings) -> str:
    """Of the strategy that was set; rules select the strategy ``rules``."""
    return "rules" if chosen.rules is not None else chosen.strategy


def updates_batchnorm(asked: str, pretrained: bool) -> bool:
    """Whether BatchNorm of groups that train takes its statistics from the batches; random weights have none to keep.

    Args:
        asked: the setting ``batchnorm``.
        pretrained: whether the weights are published ones.
    """
    return not pretrained if asked == "auto" else asked == "update"


def class_weight(chosen: verbs.FitSettings) -> str | None:
    """The setting as the solvers take it: None, or ``balanced``."""
    return None if chosen.class_weight == "none" else chosen.class_weight


def rate(chosen: verbs.FitSettings) -> float:
    """The learning rate that was asked for, or the default."""
    return learning_rate(chosen.optimizer, chosen.weights != RANDOM) if chosen.lr is None else chosen.lr
