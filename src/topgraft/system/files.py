"""The cache folder, names of files that several packages share, and atomic writes."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeAlias

import platformdirs

StrPath: TypeAlias = str | os.PathLike[str]

CHECKPOINT_FILE = "checkpoint.safetensors"
"""The state of an unfinished fit, in the folder of its artifact."""

HISTORY_FILE = "history.jsonl"
"""One line for each epoch or head solve, in an artifact and in the folder of an unfinished fit."""

_STALE_SECONDS = 3600.0  # writing a file or an artifact takes seconds; an older draft is from a killed process

_REPLACE_TRIES = 20  # × 50 ms: a virus scanner on Windows may keep a new file open for some tenths of a second


def cache_folder() -> Path:
    """``TOPGRAFT_CACHE`` if set, else the platform's cache folder for Topgraft. It is not created."""
    folder = os.environ.get("TOPGRAFT_CACHE")
    return Path(folder).expanduser() if folder else Path(platformdirs.user_cache_dir("topgraft", False))


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: a temporary file in the same folder is synced and renamed to `path`.

    After a kill or a full disk the previous file is intact. The temporary name ends in ``.tmp``.

    Raises:
        OSError: the file cannot be written; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: it creates files that other users may not read, whatever the umask is.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def checkpoint_file(place: Path) -> Path:
    """The checkpoint of a fit: `place` itself if it is a ``.safetensors`` file, else the file in that folder."""
    return place if place.suffix == ".safetensors" else place / CHECKPOINT_FILE


def growing_history_file(folder: Path) -> Path:
    """The history file of a running fit; another name where the folder has a finished artifact, which stays intact."""
    return folder / ("history.unfinished.jsonl" if (folder / "config.json").exists() else HISTORY_FILE)


def is_draft(path: Path, name: str) -> bool:
    """Whether a path is the temporary file of a write of `name`: ``.NAME-….tmp`` in the same folder."""
    return re.fullmatch(rf"\.{re.escape(name)}-[0-9a-z_]{{8,12}}\.tmp", path.name) is not None


def remove_stale_drafts(target: Path) -> None:
    """Remove temporary files of killed writes of a file or folder, unless they may still be in use.

    A file that was changed within the last hour counts as in use: the process that created it cannot be determined
    reliably on shared disks and in containers. Files that cannot be removed are left.
    """
    if not target.parent.is_dir():
        return
    for path in [path for path in target.parent.iterdir() if is_draft(path, target.name)]:
        with suppress(OSError):
            changed = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
            if time.time() - changed > _STALE_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def link(source: Path, target: Path) -> None:
    """Hard link to a file; a copy where the disk does not support hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def replace(source: Path, target: Path) -> None:
    """``os.replace``, retried for a second while another process has the file open on Windows."""
    for attempt in range(_REPLACE_TRIES):
        try:
            source.replace(target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == _REPLACE_TRIES - 1:
                raise
            time.sleep(0.05)
