"""A run's settings and what they leave to the machine, also of a run that is replayed; and its config."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from topgraft._version import __version__
from topgraft.data.loader import decoding_threads
from topgraft.data.samples import SPLIT_NAMES, Splits
from topgraft.errors import UsageError
from topgraft.features import engines
from topgraft.features.cache_key import library_versions
from topgraft.features.engines import base, choose
from topgraft.models.former_groups import translated_config
from topgraft.models.registry import find_network
from topgraft.models.spec import Backbone
from topgraft.models.weights.load import Network
from topgraft.models.weights.names import RANDOM
from topgraft.settings import fields, verbs
from topgraft.strategies.defaults import learning_rate
from topgraft.strategies.plan import Phase, Rule, phase_from_json
from topgraft.system.formatting import listing

from .loop import Outcome

_REFITTED = (
    "after selection the head was solved again on train and validation together; the validation number is that of "
    "before, as the head was since fitted to those images"
)


_OF_A_RUN = ("config", "resume", "checkpoint")  # these are about the run that has them, not about a replay

# What the phases of a replayed run depend on: where one of these is given anew, the strategy decides again.
_DECIDING = frozenset(
    {"strategy", "from_", "rules", "budget", "epochs", "lr", "find_lr", "backbone", "weights", "limit"}
)


_CACHING = frozenset({"views", "boundary_cache", "cache_quota"})
_STEPPING = _CACHING | {
    "epochs", "lr", "find_lr", "batch_size", "optimizer", "schedule", "augment", "batchnorm", "l2", "stalled",
    "label_smoothing", "mixup", "ema", "l2_sp", "patience",
}  # fmt: skip
"""Choices about steps, which a strategy that only solves has no use for."""


@dataclass(frozen=True)
class Resolved:
    """What settings leave to the machine.

    Attributes:
        engine: where the frozen base runs.
        training: the precision in which groups step.
        phases: what a replayed run has trained; empty where the strategy decides.
        caching: phase → whether it trains from the cache, as a replayed run has decided.
        weights: SHA-256 of the file of weights, or, before it is open, that it must have; empty where any will do.
    """

    engine: base.EngineChoice
    training: str
    phases: tuple[Phase, ...] = ()
    caching: Mapping[str, bool] = field(default_factory=dict)
    weights: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Resolved:
        """From what ``dataclasses.asdict`` made of it, or from a run's config."""
        return cls(
            base.EngineChoice(**entry["engine"]),
            str(entry["training"]),
            tuple(phase_from_json(phase) for phase in entry.get("phases", ())),
            {str(name): bool(cached) for name, cached in entry.get("caching", {}).items()},
            str(entry.get("weights", "")),
        )


def fit_settings(choices: Mapping[str, Any]) -> tuple[verbs.FitSettings, Resolved]:
    """The settings, and what they leave open: as a replayed run has recorded it, unless a part of it is given anew.

    Raises:
        UsageError: an unknown or impossible choice, or a ``config`` that is none.
    """
    chosen = fields.make(verbs.FitSettings, choices)
    if chosen.config is None:
        require_effect(choices, chosen)
        return chosen, resolve(chosen, find_network(chosen.backbone))
    path = chosen.config / "config.json" if chosen.config.is_dir() else chosen.config
    if not path.is_file():
        raise UsageError(f"there is no {path}; --config takes the config.json of a run")
    try:
        saved = translated_config(json.loads(path.read_text(encoding="utf-8")))
        kept = {key: value for key, value in saved["settings"].items() if key not in _OF_A_RUN}
        resolved = saved["resolved"]
        began_with = dict(saved.get("backbone", {})).get("weights_sha256", "")
        recorded = Resolved.of({**resolved, "weights": began_with})
        if any(type(n) is not int or n < 1 for n in (recorded.engine.batch_size, recorded.engine.threads)):
            raise ValueError("its engine's batch_size and threads must be whole numbers from 1")
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no config.json of a run ({error})") from error
    # What is given anew takes the place of what it would have no effect beside.
    if choices.get("strategy", "rules") != "rules":
        kept["rules"] = None
    if choices.get("lr") is not None:
        kept["find_lr"] = False
    replayed = fields.make(verbs.FitSettings, {**kept, **choices})
    require_effect(choices, replayed)
    _require(find_network(replayed.backbone))
    # Another network may demand another engine.
    if _DECIDING & set(choices):
        recorded = replace(recorded, phases=(), caching={})
    if {"backbone", "weights"} & set(choices):
        recorded = replace(recorded, weights="")
    forced = {"engine", "precision", "device", "backbone"} & set(choices)
    if forced:
        anew = resolve(replayed, find_network(replayed.backbone))
        return replayed, replace(anew, phases=recorded.phases, weights=recorded.weights)
    try:
        choose.choose(recorded.engine.name, recorded.engine.precision, recorded.engine.device)
        choose.choose("torch", recorded.training, recorded.engine.device)
    except UsageError as error:
        raise UsageError(f"{path} was run on what is not here: {error}. Add --engine auto to choose anew") from None
    return replayed, recorded


def require_effect(given: Mapping[str, Any], chosen: verbs.FitSettings | verbs.InspectSettings) -> None:
    """Refuse what would be silently without effect.

    Args:
        given: the choices that a user wrote.
        chosen: what came of them.

    Raises:
        UsageError: one has no effect beside the others; says what to do.
    """
    wrote = {name for name, value in given.items() if value is not None and value is not False}
    strategy = strategy_name(chosen)
    if chosen.rules is not None and given.get("strategy", "rules") != "rules":
        raise UsageError(f"--rules are phases of your own, and --strategy {given['strategy']} has others; give one")
    if strategy == "rules" and wrote & {"lr", "epochs"}:
        raise UsageError("every phase of --rules has its own epochs and lr; set them there")
    if "from_" in wrote and strategy != "partial":
        raise UsageError(f"--from is where partial begins, and the strategy is {strategy}; add --strategy partial")
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


def resolve(chosen: verbs.EngineSettings, network: Backbone) -> Resolved:
    """What the fixed rule of `topgraft.engines.choose` gives on this machine."""
    engine = engine_for(network, chosen)
    return Resolved(engine, choose.choose("torch", chosen.precision, engine.device).precision)


def engine_for(network: Backbone, chosen: verbs.EngineSettings) -> base.EngineChoice:
    """The engine for a network's base; see `topgraft.engines.choose`.

    Raises:
        UsageError: as there; or what the base computes with is not installed.
    """
    _require(network)
    return choose.choose(chosen.engine, chosen.precision, chosen.device, chosen.cache_dir, demand=network.demand)


def _require(network: Backbone) -> None:
    if network.require is not None:
        network.require()


def _replayable(chosen: verbs.FitSettings, outcome: Outcome) -> verbs.FitSettings:
    """The settings for a replay: it starts with a rate that was lowered on the way, and finds a file from anywhere."""
    asked = rate(chosen)
    taken = outcome.selection.get("lr", asked)
    file = Path(chosen.weights or "").expanduser()
    weights = os.fspath(file.resolve()) if chosen.weights and file.is_file() else chosen.weights
    rate_taken = chosen.lr if taken == asked else taken
    return replace(
        chosen,
        strategy=strategy_name(chosen),
        find_lr=chosen.find_lr and rate_taken is None,
        lr=rate_taken,
        weights=weights,
        resume=False,
        checkpoint=None,
    )


def run_config(
    chosen: verbs.FitSettings,
    splits: Splits,
    network: Network,
    outcome: Outcome,
    resolved: Resolved,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """All that ``config.json`` says of a run, beside what `topgraft.artifact` adds.

    Args:
        extra: what training found beside its outcome; see `topgraft.fitting.Trained`.
    """
    import torch

    record = find_network(chosen.backbone)
    return {
        "backbone": {
            "name": chosen.backbone,
            "build": asdict(network.build),
            "weights": network.weights,
            "weights_sha256": network.sha256,
            "licence": network.licence,
            "paper": record.paper,
        },
        "strategy": strategy_name(chosen),
        "phases": outcome.phases,
        "selection": outcome.selection,
        "settings": fields.as_json(_replayable(chosen, outcome)),
        "resolved": {
            "engine": asdict(resolved.engine),
            "engine_why": record.demand.why if record.demand else None,
            "training": resolved.training,
            "workers": decoding_threads(chosen.workers),
            "torch_threads": torch.get_num_threads(),
            "phases": [asdict(replace(phase, seconds=None)) for phase in outcome.taken],
            "caching": {decision["phase"]: decision["cached"] for decision in extra["caching"]},
        },
        "asked": fields.as_json(chosen),
        "finished": not outcome.interrupted,
        **{key: value for key, value in extra.items() if key != "remarks"},
        "seed": chosen.seed,
        "data": {
            "where": splits.where,
            "images": {split: len(splits[split]) for split in SPLIT_NAMES},
            "split_seed": splits.split_seed,
            "made": sorted(splits.made),
        },
        "notes": [*splits.notes, *([_REFITTED] if chosen.refit else []), *extra["remarks"]],
        "versions": versions(resolved, chosen.backbone),
    }


def versions(resolved: Resolved, backbone: str) -> dict[str, str]:
    """Of what computes in a fit."""
    import PIL
    import torch

    return {
        "topgraft": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "engine": engines.version(resolved.engine.name),
        **library_versions(find_network(backbone).libraries),
    }


def recorded_phases(config: Mapping[str, Any]) -> tuple[Phase, ...]:
    """The phases that a run has trained, from its config; a run of an older version recorded its tables alone."""
    found = config["resolved"].get("phases")
    if found:
        return tuple(phase_from_json(entry) for entry in found)
    epochs = int("epoch" in config["selection"])
    return tuple(
        Phase(name, tuple(Rule(group, multiplier) for group, multiplier in rows.items()), epochs)
        for name, rows in config["phases"].items()
    )


def strategy_name(chosen: verbs.FitSettings | verbs.InspectSettings) -> str:
    """Of the strategy that was asked for: whoever gives rules asks for those."""
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
