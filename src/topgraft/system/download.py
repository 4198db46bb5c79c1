"""Downloads that resume after a cut, are checked by hash, and appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from topgraft.errors import DownloadError

from . import progress
from .files import atomic_write, replace

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
_PAUSES = (0.5, 1.0, 3.0)  # seconds before a new attempt: after one that brought something, after the first idle one, …
_SHORTEST = 8  # hexadecimal digits of a hash
_PIECE = 1 << 16  # bytes; what a cut connection may cost
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # the disk, or the user's share of it


class _Interrupted(Exception):
    """The connection ended early, or the server cannot answer now: trying again may help."""


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
    if len(known_hash.partition(":")[2]) < _SHORTEST:
        raise ValueError(f"{known_hash} is too short to know a file by")
    target = folder / file_name
    if not _fits(target, known_hash):
        if is_offline():
            damaged = f"{target} does not have the checksum {known_hash}, and " if target.is_file() else ""
            raise DownloadError(f"{damaged}TOPGRAFT_OFFLINE is set. {_by_hand(url, target)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder / f".{file_name}.lock"):
                if not _fits(target, known_hash):  # or else another process has brought it
                    _fetch(url, known_hash, target)
        except OSError as error:
            if error.errno in _FULL:
                raise DownloadError(
                    f"the disk is full: {url} does not fit into {folder}. Free some space and start again; "
                    "the download continues where it ended"
                ) from None
            raise DownloadError(f"{target} cannot be written: {(error.strerror or str(error)).lower()}") from None
    return target


def _fetch(url: str, known_hash: str, target: Path) -> None:
    """Download the file, check it, and only then put it in its place."""
    part = _download(url, target)
    if not _fits(part, known_hash):
        part.unlink()
        raise DownloadError(
            f"{url} does not have the expected checksum {known_hash}, so it was removed: it was damaged on the way, or "
            f"has changed at its source. Try again. {_by_hand(url, target)}"
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
            _attempt(url, part)
            break
        except _Interrupted as error:
            after = part.stat().st_size if part.exists() else 0
            idle = 0 if after > before else idle + 1
            if idle >= len(_PAUSES):
                raise DownloadError(f"{url} cannot be downloaded: {error}. {_by_hand(url, target)}") from None
            time.sleep(_PAUSES[idle])
    _facts(part).unlink(missing_ok=True)
    return part


def _attempt(url: str, part: Path) -> None:
    """Add the rest of the file to `part`, or all of it."""
    import requests
    import urllib3

    have, version = _resumable(part)
    # Identity: an archive must not be unpacked on the way, or its length and hash would be another's.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            _check_status(response, url, part)
            start = have if response.status_code == 206 else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink()
                raise _Interrupted("the server sent another part than it was asked for")
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else 0
            _note_version(part, response.headers)
            with part.open("ab" if start else "wb") as file:
                _copy(response.raw, file, start, total, target=part.name[1 : -len(".part")])
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Interrupted(_in_words(error)) from None


def _copy(raw: Any, file: IO[bytes], start: int, total: int, target: str) -> None:
    done = start
    with progress.bar(f"downloading {target}", total, unit="B") as bar:
        bar.advance(start)
        while piece := raw.read(_PIECE, decode_content=False):
            file.write(piece)
            done += len(piece)
            bar.advance(len(piece))
    if total and done < total:  # before its version 2, urllib3 says nothing
        raise _Interrupted(f"the connection ended after {done} of {total} bytes")


def _check_status(response: Any, url: str, part: Path) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:  # the rest does not exist: what is here is not the beginning of what is there
        part.unlink(missing_ok=True)
        raise _Interrupted("the server's file is shorter than the part that is here")
    if status in (408, 425, 429) or status >= 500:
        raise _Interrupted(f"the server answers {status} {response.reason}")
    raise DownloadError(
        f"{url} cannot be downloaded: the server answers {status} {response.reason}. "
        f"{_by_hand(url, part.with_name(part.name[1 : -len('.part')]))}"
    )


def _facts(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _resumable(part: Path) -> tuple[int, str]:
    """Bytes that are here, and what names their version to the server; (0, "") where it cannot be named."""
    try:
        version = json.loads(_facts(part).read_text(encoding="utf-8"))["version"]
        return (part.stat().st_size, version) if version and isinstance(version, str) else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _note_version(part: Path, headers: Any) -> None:
    """Keep what names the version. A weak tag does not: bytes may differ under it."""
    tag = headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    with atomic_write(_facts(part)) as file:
        file.write(json.dumps({"version": version}).encode())


def _in_words(error: BaseException) -> str:
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate was not accepted"
    if isinstance(error, requests.exceptions.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "there is no connection to the server"
    return "the connection ended early"


def _by_hand(url: str, target: Path) -> str:
    return f"Without a connection, get {url} on another machine and put it at {target}."


def is_offline() -> bool:
    """Whether ``TOPGRAFT_OFFLINE`` is set: nothing may be downloaded."""
    return os.environ.get("TOPGRAFT_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find the file. The system frees the lock after a kill."""
    with lock.open("a+b") as file:
        _acquire(file)
        try:
            yield
        finally:
            _release(file)


if sys.platform == "win32":
    import msvcrt

    def _acquire(file: IO[bytes]) -> None:
        while True:
            try:
                file.seek(0)
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError as error:
                if error.errno != errno.EDEADLOCK:  # which is: not had within ten seconds
                    raise

    def _release(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(file: IO[bytes]) -> None:
        with suppress(OSError):  # some network disks have no locks; the hash still guards the result
            fcntl.flock(file, fcntl.LOCK_EX)

    def _release(file: IO[bytes]) -> None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
