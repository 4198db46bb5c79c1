"""Downloads that resume after a cut, are checked by hash, and appear whole or not at all."""

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
from .http_range import InterruptedDownload, continue_download, manual_advice, version_file

_PAUSES = (0.5, 1.0, 3.0)  # seconds before a new attempt: after one that brought something, after the first idle one, …


_FEWEST_DIGITS = 8  # hexadecimal digits of a hash


_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # the disk, or the user's share of it


def fetch(url: str, *, known_hash: str, folder: Path, file_name: str) -> Path:
    """The path of a file in `folder`, downloaded if it is not there with the known hash.

    A download that is cut continues where it ended, also in a later process: its bytes are kept next to the target
    as ``.NAME.part``, and the server is asked for the rest of the same version only (``Range`` with ``If-Range``,
    RFC 9110 §13.1.5 and §14). Where the server cannot do that, the file is fetched from its start.

    Args:
        url: http or https address.
        known_hash: ``md5:…`` or ``sha256:…``, in hex; the beginning of it where its publisher states no more, at
            least 8 digits: one damaged file in four thousand million fits those.
        folder: made if it does not exist.
        file_name: of the target.

    Raises:
        DownloadError: ``TOPGRAFT_OFFLINE`` is set, there is no network, the server refuses, the disk is full,
            or the hash is wrong, in which case nothing is kept.
        ValueError: the hash has fewer digits.
    """
    if len(known_hash.partition(":")[2]) < _FEWEST_DIGITS:
        raise ValueError(f"{known_hash} is too short to know a file by")
    target = folder / file_name
    if not _fits(target, known_hash):
        if is_offline():
            damaged = f"{target} does not have the checksum {known_hash}, and " if target.is_file() else ""
            raise DownloadError(f"{damaged}TOPGRAFT_OFFLINE is set. {manual_advice(url, target)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{file_name}.lock"):
                if not _fits(target, known_hash):  # or else another process has brought it
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
    """Download the file, check it, and only then put it in its place."""
    part = _download(url, target)
    if not _fits(part, known_hash):
        part.unlink()
        raise DownloadError(
            f"{url} does not have the expected checksum {known_hash}, so it was removed: it was damaged on the way, or "
            f"has changed at its source. Try again. {manual_advice(url, target)}"
        )
    replace(part, target)


def _fits(path: Path, known_hash: str) -> bool:
    """Whether the file is there with that hash, or with one that begins so."""
    if not path.is_file():
        return False
    algorithm, _, digest = known_hash.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(digest.lower())


def _download(url: str, target: Path) -> Path:
    """Bring the whole file next to the target, in as many attempts as it takes while each brings something."""
    part = target.with_name(f".{target.name}.part")
    idle = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            continue_download(url, part)
            break
        except InterruptedDownload as error:
            after = part.stat().st_size if part.exists() else 0
            idle = 0 if after > before else idle + 1
            if idle >= len(_PAUSES):
                raise DownloadError(f"{url} cannot be downloaded: {error}. {manual_advice(url, target)}") from None
            time.sleep(_PAUSES[idle])
    version_file(part).unlink(missing_ok=True)
    return part


def is_offline() -> bool:
    """Whether ``TOPGRAFT_OFFLINE`` is set: nothing may be downloaded."""
    return os.environ.get("TOPGRAFT_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
