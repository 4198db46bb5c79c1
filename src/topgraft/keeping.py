"""The state of an unfinished fit: written as it goes, and found again to go on with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import checkpoint, settings
from .checkpoint import Checkpoint, require_same
from .errors import UsageError
from .folders import checkpoint_file
from .records import Splits
from .runs import Resolved


def saved_state(chosen: settings.FitSettings, splits: Splits) -> Checkpoint | None:
    """What an earlier run has left to go on from; None where there is nothing, or it was not asked for.

    Raises:
        UsageError: it had other settings, or the images have changed since.
    """
    if not chosen.resume or chosen.checkpoint is None:
        return None
    saved = checkpoint.read(checkpoint_file(chosen.checkpoint))
    if saved is None:
        return None
    asked = {**settings.as_json(chosen), "where": splits.where}
    require_same(chosen.checkpoint, saved.state["settings"], asked, settings.WITHOUT_EFFECT)
    if saved.state["images"] != _digest(splits):
        raise UsageError(
            f"the images in {splits.where} are not those that the fit in {chosen.checkpoint} began with; "
            "bring them back to go on, or start anew with --overwrite"
        )
    return saved


def keep_state(
    path: Path,
    state: Checkpoint,
    chosen: settings.FitSettings,
    splits: Splits,
    resolved: Resolved,
    caching: Mapping[str, bool],
) -> None:
    """Write what training has given, and what it belongs to: settings, images, engine, threads, decisions.

    Raises:
        OSError: the disk is full; the state before is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = {**settings.as_json(chosen), "where": splits.where}
    decided = asdict(replace(resolved, caching={**resolved.caching, **caching}))
    everything = {**state.state, "settings": asked, "resolved": decided, "images": _digest(splits)}
    everything["position"] = _where(state.state)
    checkpoint.write(path, Checkpoint(state.tensors, everything))


def _digest(splits: Splits) -> str:
    """Of what is trained on and judged by, in this order, with its labels."""
    digest = hashlib.sha256()
    for name, part in (("train", splits.train), ("val", splits.val)):
        digest.update(name.encode())
        for sample in part:
            digest.update(f"{sample.digest} {sample.label}\n".encode())
    return digest.hexdigest()


def _where(state: Mapping[str, Any]) -> dict[str, int]:
    """Phase, epoch and step that a resumed run goes on from: all before is not done again."""
    number = int(state["number"])
    if state["under_way"] is None:
        return {"phase": number + 1, "epoch": 1, "step": 0}
    now = state["inner"]["now"] if state["inner"] is not None else {"epoch": 1, "step": 0}
    return {"phase": number, "epoch": int(now["epoch"]), "step": int(now["step"])}
