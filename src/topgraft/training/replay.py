"""What settings leave to the machine, and replaying the recorded choices of an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from topgraft.errors import UsageError
from topgraft.features.engines import base, choose
from topgraft.models.former_groups import translated_config
from topgraft.models.registry import find_network
from topgraft.models.spec import Backbone
from topgraft.settings import fields, verbs
from topgraft.settings.conflicts import require_effect
from topgraft.settings.former_names import with_option_names
from topgraft.strategies.plan import Phase, Rule, phase_from_json

_OF_A_RUN = ("config", "resume", "checkpoint")  # these are about the run that has them, not about a replay


# What the phases of a replayed run depend on: where one of these is given again, the strategy decides again.
_DECIDING = frozenset(
    {"strategy", "unfreeze_from", "rules", "budget", "epochs", "lr", "find_lr", "backbone", "weights", "limit"}
)


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
    """The settings, and what they leave open: as a replayed run has recorded it, unless a part of it is given again.

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
        saved = translated_config(with_option_names(json.loads(path.read_text(encoding="utf-8"))))
        kept = {key: value for key, value in saved["settings"].items() if key not in _OF_A_RUN}
        resolved = saved["resolved"]
        began_with = dict(saved.get("backbone", {})).get("weights_sha256", "")
        recorded = Resolved.of({**resolved, "weights": began_with})
        if any(type(n) is not int or n < 1 for n in (recorded.engine.batch_size, recorded.engine.threads)):
            raise ValueError("its engine's batch_size and threads must be whole numbers from 1")
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a config.json of a run ({error})") from error
    # What is given again takes the place of what it would have no effect with.
    if choices.get("strategy", "rules") != "rules":
        kept["rules"] = None
    if choices.get("lr") is not None:
        kept["find_lr"] = False
    replayed = fields.make(verbs.FitSettings, {**kept, **choices})
    require_effect(choices, replayed)
    network = find_network(replayed.backbone)
    if network.require is not None:
        network.require()
    # Another network may demand another engine.
    if _DECIDING & set(choices):
        recorded = replace(recorded, phases=(), caching={})
    if {"backbone", "weights"} & set(choices):
        recorded = replace(recorded, weights="")
    forced = {"engine", "precision", "device", "backbone"} & set(choices)
    if forced:
        resolved = resolve(replayed, find_network(replayed.backbone))
        return replayed, replace(resolved, phases=recorded.phases, weights=recorded.weights)
    try:
        choose.choose(recorded.engine.name, recorded.engine.precision, recorded.engine.device)
        choose.choose("torch", recorded.training, recorded.engine.device)
    except UsageError as error:
        raise UsageError(f"{path} was run on what is not here: {error}. Add --engine auto to choose again") from None
    return replayed, recorded


def resolve(chosen: verbs.EngineSettings, network: Backbone) -> Resolved:
    """What the fixed rule of `topgraft.features.engines.choose.choose` gives on this machine."""
    engine = choose.choose_for(network, chosen.engine, chosen.precision, chosen.device, chosen.cache_dir)
    return Resolved(engine, choose.choose("torch", chosen.precision, engine.device).precision)


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
