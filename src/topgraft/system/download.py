"""Download files: resume after an interruption, check the hash, and write the target atomically."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

from topgraft.errors import DownloadError

from .file_lock import locked
from .files import replace
from .formatting import reason_of
from .http_range import InterruptedDownloadError, continue_download, manual_advice, version_file

_PAUSES = (0.5, 1.0, 3.0)  # seconds before the next attempt; the index counts attempts in a row that got no byte
_FEWEST_DIGITS = 8  # hexadecimal digits of a hash
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # the disk or the user's quota


def fetch(url: str, *, known_hash: str, folder: Path, file_name: str) -> Path:
    """The path of a file in `folder`, downloaded unless a file with the known hash exists.

    An interrupted download resumes where it ended, also in a later process: its bytes stay next to the target as
    ``.NAME.part``, and only the rest of the same version is requested (``Range`` with ``If-Range``, RFC 9110 §13.1.5
    and §14). If the server does not support that, the file is downloaded from its start.

    Args:
        url: http or https address.
        known_hash: ``md5:…`` or ``sha256:…``, in hex; or the beginning of it if its publisher states no more, at least
            8 digits: one damaged file in four billion matches those.
        folder: folder of the file, created if missing.
        file_name: name of the file.

    Raises:
        DownloadError: ``TOPGRAFT_OFFLINE`` is set, there is no network, the server refuses, the disk is full,
            or the hash is wrong, in which case the file is removed.
        ValueError: the hash has fewer than 8 digits.
    """
    if len(known_hash.partition(":")[2]) < _FEWEST_DIGITS:
        raise ValueError(f"{known_hash} is too short to identify a file")
    target = folder / file_name
    if not _has_hash(target, known_hash):
        if is_offline():
            damaged = f"{target} does not have the checksum {known_hash}, and " if target.is_file() else ""
            raise DownloadError(f"{damaged}TOPGRAFT_OFFLINE is set. {manual_advice(url, target)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{file_name}.lock"):
                if not _has_hash(target, known_hash):  # another process may have downloaded it
                    _fetch(url, known_hash, target)
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise DownloadError(
                    f"the disk is full: {url} does not fit into {folder}. Free some space and start again; "
                    "the download continues where it ended"
                ) from None
            raise DownloadError(f"{target} cannot be written: {reason_of(error)}") from None
    return target


def _fetch(url: str, known_hash: str, target: Path) -> None:
    """Download the file, check its hash, and rename it to the target."""
    part = _download(url, target)
    if not _has_hash(part, known_hash):
        part.unlink()
        raise DownloadError(
            f"{url} does not have the expected checksum {known_hash}, so it was removed: it was damaged on the way, or "
            f"the published file has changed. Try again. {manual_advice(url, target)}"
        )
    replace(part, target)


def _has_hash(path: Path, known_hash: str) -> bool:
    """Whether the file exists and its hash begins with `known_hash`."""
    if not path.is_file():
        return False
    algorithm, _, digest = known_hash.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(digest.lower())


def _download(url: str, target: Path) -> Path:
    """Download to a file next to the target, in as many attempts as needed while they make progress."""
    part = target.with_name(f".{target.name}.part")
    failures = 0  # attempts in a row that got no byte
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            continue_download(url, part)
            break
        except InterruptedDownloadError as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            if failures >= len(_PAUSES):
                raise DownloadError(f"{url} cannot be downloaded: {error}. {manual_advice(url, target)}") from None
            time.sleep(_PAUSES[failures])
    version_file(part).unlink(missing_ok=True)
    return part


def is_offline() -> bool:
    """Whether ``TOPGRAFT_OFFLINE`` forbids downloads."""
    return os.environ.get("TOPGRAFT_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
