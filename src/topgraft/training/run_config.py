"""Everything that `config.json` says about a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from topgraft._version import __version__
from topgraft.data.loader import decoding_threads
from topgraft.data.samples import SPLIT_NAMES, Splits
from topgraft.features import engines
from topgraft.features.cache_key import library_versions
from topgraft.models.registry import find_network
from topgraft.models.weights.load import Network
from topgraft.settings import fields, verbs
from topgraft.settings.conflicts import rate, strategy_name

from .loop import Outcome
from .replay import Resolved

_REFITTED = (
    "after selection the head was solved again on train and validation together; the validation number is that of "
    "before, as the head was since fitted to those images"
)


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
    """All that ``config.json`` says of a run, besides what `topgraft.artifacts.save` adds.

    Args:
        extra: what training found besides its outcome; see `topgraft.training.fit.Trained`.
    """
    import torch

    record = find_network(chosen.backbone)
    return {
        "backbone": {
            "name": chosen.backbone,
            "build": asdict(network.build),
            "weights": network.weights,
            "weights_sha256": network.sha256,
            "licence": network.license,
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
