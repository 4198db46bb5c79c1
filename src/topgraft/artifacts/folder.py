"""The folder of an artifact: what may be overwritten, what is finished, and recovery after a kill."""

from __future__ import annotations

from pathlib import Path

from topgraft.errors import UsageError
from topgraft.system.files import HISTORY_FILE, checkpoint_file, is_draft, remove_stale_drafts, replace

from .config_file import read_config


def check_target(folder: Path, overwrite: bool, resume: bool = False) -> None:
    """Whether an artifact may be written there; asked before the work.

    A folder with a checkpoint in it, or with the artifact of a fit that was stopped, is an unfinished fit.
    With `overwrite` its checkpoint is removed; so is what killed writes have left there and next to it, in any case.

    Args:
        folder: the artifact's.
        overwrite: replace the artifact that is there, or start an unfinished fit again.
        resume: continue an unfinished fit.

    Raises:
        UsageError: it exists and is not empty, and `overwrite` was not asked for; it is an unfinished fit, and neither
            was; or it is not an artifact.
    """
    require_free(folder, overwrite, resume)
    state = checkpoint_file(folder)
    if overwrite:
        state.unlink(missing_ok=True)
    for written in (folder, state, folder / HISTORY_FILE):
        remove_stale_drafts(written)


def require_free(folder: Path, overwrite: bool, resume: bool) -> None:
    recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder for the artifact")
    state = checkpoint_file(folder)
    drafts = {path for path in folder.iterdir() if is_draft(path, state.name) or is_draft(path, HISTORY_FILE)}
    others = set(folder.iterdir()) - drafts
    begun = others <= {state, folder / HISTORY_FILE}
    if not others or (overwrite and (begun or (folder / "config.json").is_file())):
        return
    if not overwrite and (begun or _is_unfinished(folder)):
        if resume:
            return
        raise UsageError(
            f"{folder} holds the checkpoint of an unfinished fit; --resume continues it, --overwrite starts again"
        )
    if not overwrite:
        raise UsageError(f"{folder} exists and is not empty; give another folder, or --overwrite to replace it")
    raise UsageError(
        f"{folder} holds files and is not a Topgraft artifact; it will not be replaced. Give another folder"
    )


def is_finished(folder: Path) -> bool:
    """Whether the folder holds an artifact whose fit has come to its end, so that there is nothing to continue.

    Raises:
        ArtifactError: a damaged artifact, or one from a newer version.
    """
    return (folder / "config.json").is_file() and not _is_unfinished(folder)


def _is_unfinished(folder: Path) -> bool:
    """A fit into this folder was stopped, and its artifact, or the one that it is to replace, may be there."""
    if not (folder / "config.json").is_file():
        return False  # without an artifact, other files next to a checkpoint are the user's
    return checkpoint_file(folder).exists() or read_config(folder).get("finished") is False


def previous_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def recover(folder: Path) -> None:
    """Put back the artifact that an overwrite had moved aside when it was killed between its two renames."""
    previous = previous_folder(folder)
    if previous.exists() and not folder.exists():
        replace(previous, folder)
