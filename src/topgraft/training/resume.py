"""The state of an unfinished fit: written as it goes, and found again to resume from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from topgraft.data.samples import Splits
from topgraft.errors import CheckpointError, UsageError
from topgraft.models.former_groups import in_checkpoint
from topgraft.settings import fields, verbs
from topgraft.settings.fields import flag_of
from topgraft.settings.former_names import translated_settings
from topgraft.strategies.plan import phase_from_json
from topgraft.system import progress
from topgraft.system.files import checkpoint_file

from . import checkpoint
from .checkpoint import Checkpoint
from .replay import Resolved
from .run_config import versions


def saved_state(chosen: verbs.FitSettings, splits: Splits) -> Checkpoint | None:
    """What an earlier run has left to continue from; None where there is nothing, or it was not asked for.

    Raises:
        UsageError: it had other settings, or the images have changed since; nothing says where it is; or it is there
            and was not asked for.
    """
    if not chosen.resume:
        if chosen.checkpoint is not None and (state := checkpoint_file(chosen.checkpoint)).exists():
            raise UsageError(
                f"{state} is of an earlier fit; resume continues it to its end, and without the file one starts again"
            )
        return None
    if chosen.checkpoint is None:
        raise UsageError("resume continues from what checkpoint=FOLDER has kept; give that folder")
    saved = checkpoint.read(checkpoint_file(chosen.checkpoint))
    if saved is None:
        progress.note(f"{chosen.checkpoint} holds no checkpoint to continue from; starting again")
        return None
    if in_checkpoint(chosen.backbone, saved.tensors, saved.state):
        raise CheckpointError(
            f"{chosen.checkpoint} has former names of the groups of {chosen.backbone} (res2a was in stage1). "
            "Resume it with the version of Topgraft that began it, or start again with --overwrite"
        )
    require_as_before(chosen.checkpoint, saved.state["settings"], chosen, splits.where)
    if saved.state["images"] != _digest(splits):
        raise UsageError(
            f"the images in {splits.where} are not those that the fit in {chosen.checkpoint} began with; "
            "bring them back to continue, or start again with --overwrite"
        )
    before, now = saved.state["versions"], versions(Resolved.of(saved.state["resolved"]), chosen.backbone)
    changed = [f"{name} {before.get(name)} then, {now.get(name)} now" for name in now if before.get(name) != now[name]]
    if changed:
        progress.note(f"continuing with other versions, so that last digits may differ: {'; '.join(changed)}")
    return saved


def require_as_before(place: Path, saved: Mapping[str, Any], chosen: verbs.FitSettings, where: str) -> None:
    """Refuse to continue with other settings than a fit began with; see `topgraft.training.resume.require_same`.

    Another spelling of a path is the same place, and a setting that there was none of then counts as its default.

    Args:
        place: the folder of the fit, for the message.
        saved: its settings, ``where`` among them.
        chosen: those that are asked for.
        where: the images' place.
    """
    then = {**fields.as_json(verbs.FitSettings()), **translated_settings(saved)}
    now = {**fields.as_json(chosen), "where": where}
    for name in _PLACES:
        if _same_place(then[name], now[name]):
            now[name] = then[name]
    require_same(place, then, now, verbs.WITHOUT_EFFECT)


def require_weights(before: str, now: str, chosen: verbs.FitSettings) -> None:
    """Refuse to continue from another file of weights than a fit began with.

    Args:
        before, now: SHA-256 of them.
        chosen: the settings.

    Raises:
        UsageError: they differ.
    """
    if before != now:
        raise UsageError(
            f"the weights are not those that the fit in {chosen.checkpoint} began with: their SHA-256 begins with "
            f"{now[:12]}, not with {before[:12]}; bring the file back to continue, or start again with --overwrite"
        )


_PLACES = ("where", "weights", "source", "data_dir")  # settings that may be paths


def _same_place(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    places = [Path(text).expanduser() for text in (one, other)]
    return places[0].exists() and places[0].resolve() == places[1].resolve()


def keep_state(
    path: Path,
    state: Checkpoint,
    chosen: verbs.FitSettings,
    splits: Splits,
    resolved: Resolved,
    prepared: Mapping[str, Any],
) -> None:
    """Write what training has given, and what it belongs to: settings, images, engine, threads, versions, decisions.

    Args:
        path: the file.
        state: of the training.
        chosen, splits, resolved: of the fit.
        prepared: what was measured and decided; see `topgraft.training.input_factory.Preparation.state`.

    Raises:
        CheckpointError: it cannot be written, as the disk is full; the state before is whole.
    """
    asked = {**fields.as_json(chosen), "where": splits.where}
    everything = {**state.state, "settings": asked, "resolved": asdict(resolved), "images": _digest(splits)}
    everything |= {"versions": versions(resolved, chosen.backbone), "prepared": prepared}
    everything["position"] = _where(state.state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, Checkpoint(state.tensors, everything))
    except OSError as error:
        before = "the state before is whole: make room, and continue with --resume" if path.exists() else "make room"
        raise CheckpointError(f"the state of the fit cannot be written to {path} ({error}); {before}") from None


def _digest(splits: Splits) -> str:
    """Of what is trained on and judged by, in this order, with its labels."""
    digest = hashlib.sha256()
    for name, part in (("train", splits.train), ("val", splits.val)):
        digest.update(name.encode())
        for sample in part:
            digest.update(f"{sample.digest} {sample.label}\n".encode())
    return digest.hexdigest()


def _where(state: Mapping[str, Any]) -> dict[str, int]:
    """Phase, epoch and step that a resumed run continues from: all before is not done again."""
    number = int(state["number"])
    if state["under_way"] is None:
        return {"phase": number + 1, "epoch": 1, "step": 0}
    now = state["inner"]["now"] if state["inner"] is not None else {"epoch": 1, "step": 0}
    phase = phase_from_json(state["under_way"])
    if now["epoch"] > phase.ends and not phase.folds:  # of which nothing is left to do
        return {"phase": number + 1, "epoch": 1, "step": 0}
    fold = {"fold": min(len(state["folds"]) + 1, phase.folds)} if phase.folds else {}
    return {"phase": number, **fold, "epoch": int(now["epoch"]), "step": int(now["step"])}


# --- Settings ------------------------------------------------------------------------------------------------------


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any], without_effect: Collection[str] = ()) -> list[str]:
    """The settings that are not as they were, a line each: ``--lr: 0.001 then, 0.01 now``.

    Args:
        saved, asked: settings as JSON types, by name; ``where`` is the images' place. A name that one of them lacks
            counts as None there.
        without_effect: names that are not compared, because they cannot change what a fit ends in.
    """
    names = [*saved, *(name for name in asked if name not in saved)]
    return [
        f"{_written(name)}: {_shown(saved.get(name))} then, {_shown(asked.get(name))} now"
        for name in names
        if name not in without_effect and not _same(saved.get(name), asked.get(name))
    ]


def require_same(
    place: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], without_effect: Collection[str] = ()
) -> None:
    """Refuse to continue with other settings than a fit began with.

    Args:
        place: the folder of the fit, for the message.
        saved, asked, without_effect: see `differences`.

    Raises:
        UsageError: they differ; the message lists how.
    """
    found = differences(saved, asked, without_effect)
    if found:
        listed = "".join(f"\n  {line}" for line in found)
        raise UsageError(
            f"{place} was fitted with other settings, so --resume cannot continue with these; "
            f"give the same, or start again with --overwrite:{listed}"
        )


def _written(name: str) -> str:
    return "WHERE" if name == "where" else flag_of(name)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else str(value)
