"""Where Topgraft keeps what it may delete: cached features, converted networks, downloads; and atomic writes."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import platformdirs

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
    # Not mkstemp: that makes files which nobody else may read, whatever the user's umask says.
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


def replace(source: Path, target: Path) -> None:
    """``os.replace``, tried again for a second where Windows says that somebody has the file open."""
    for attempt in range(_REPLACE_TRIES):
        try:
            source.replace(target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == _REPLACE_TRIES - 1:
                raise
            time.sleep(0.05)
