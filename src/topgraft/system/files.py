"""Where Topgraft keeps what it may delete: cached features, converted networks, downloads; and atomic writes."""

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
"""The state of an unfinished fit, inside the folder that its artifact will fill."""

HISTORY_FILE = "history.jsonl"
"""One line for each epoch or solve, in an artifact, and in the folder of an unfinished fit."""

_STALE_SECONDS = 3600.0  # a file or an artifact is written in seconds; a file older than that is left over

_REPLACE_TRIES = 20  # × 50 ms: a virus scanner on Windows may hold a new file for some tenths of a second


def cache_folder() -> Path:
    """``TOPGRAFT_CACHE`` where set, else the platform's cache folder for Topgraft. Not created here."""
    chosen = os.environ.get("TOPGRAFT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("topgraft", False))


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a whole file or nothing: a temporary sibling, synced, then renamed over `path`.

    After a kill or a full disk the previous file is whole. The temporary name ends in ``.tmp``.

    Raises:
        OSError: as the system says; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: that makes files which other users may not read, whatever the user's umask says.
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
    """Where a fit keeps its state: `place` itself where it is a ``.safetensors`` file, else the file in that folder."""
    return place if place.suffix == ".safetensors" else place / CHECKPOINT_FILE


def growing_history_file(folder: Path) -> Path:
    """Where a fit that runs writes its history: not over that of an artifact that is there, which stays whole."""
    return folder / ("history.unfinished.jsonl" if (folder / "config.json").exists() else HISTORY_FILE)


def is_draft(path: Path, name: str) -> bool:
    """Whether a path is what a killed write of `name` may leave: ``.NAME-….tmp`` in the same folder."""
    return re.fullmatch(rf"\.{re.escape(name)}-[0-9a-z_]{{8,12}}\.tmp", path.name) is not None


def remove_stale_drafts(target: Path) -> None:
    """Remove what killed writes of a file or folder have left next to it, unless it may still be in use.

    In use is what was touched within the last hour: which process made it cannot be told for sure on shared disks and
    in containers. What cannot be removed stays.
    """
    if not target.parent.is_dir():
        return
    for path in [path for path in target.parent.iterdir() if is_draft(path, target.name)]:
        with suppress(OSError):
            touched = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
            if time.time() - touched > _STALE_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the disk knows no such names."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def replace(source: Path, target: Path) -> None:
    """``os.replace``, tried again for a second where Windows says that another process has the file open."""
    for attempt in range(_REPLACE_TRIES):
        try:
            source.replace(target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == _REPLACE_TRIES - 1:
                raise
            time.sleep(0.05)
