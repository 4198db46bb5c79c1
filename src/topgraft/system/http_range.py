"""One HTTP request for the rest of a file that is downloaded in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from topgraft.errors import DownloadError

from . import progress
from .files import atomic_write

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces


_PIECE = 1 << 16  # bytes; what a cut connection may cost


class InterruptedDownload(Exception):
    """The connection ended early, or the server cannot answer now: trying again may help."""


def continue_download(url: str, part: Path) -> None:
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
                raise InterruptedDownload("the server sent another part than it was asked for")
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else 0
            _note_version(part, response.headers)
            with part.open("ab" if start else "wb") as file:
                _copy(response.raw, file, start, total, target=part.name[1 : -len(".part")])
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise InterruptedDownload(_in_words(error)) from None


def _copy(raw: Any, file: IO[bytes], start: int, total: int, target: str) -> None:
    done = start
    with progress.bar(f"downloading {target}", total, unit="B") as bar:
        bar.advance(start)
        while piece := raw.read(_PIECE, decode_content=False):
            file.write(piece)
            done += len(piece)
            bar.advance(len(piece))
    if total and done < total:  # before its version 2, urllib3 says nothing
        raise InterruptedDownload(f"the connection ended after {done} of {total} bytes")


def _check_status(response: Any, url: str, part: Path) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:  # the rest does not exist: what is here is not the beginning of what is there
        part.unlink(missing_ok=True)
        raise InterruptedDownload("the server's file is shorter than the part that is here")
    if status in (408, 425, 429) or status >= 500:
        raise InterruptedDownload(f"the server answers {status} {response.reason}")
    raise DownloadError(
        f"{url} cannot be downloaded: the server answers {status} {response.reason}. "
        f"{manual_advice(url, part.with_name(part.name[1 : -len('.part')]))}"
    )


def version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _resumable(part: Path) -> tuple[int, str]:
    """Bytes that are here, and what names their version to the server; (0, "") where it cannot be named."""
    try:
        version = json.loads(version_file(part).read_text(encoding="utf-8"))["version"]
        return (part.stat().st_size, version) if version and isinstance(version, str) else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _note_version(part: Path, headers: Any) -> None:
    """Keep what names the version. A weak tag does not: bytes may differ under it."""
    tag = headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    with atomic_write(version_file(part)) as file:
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


def manual_advice(url: str, target: Path) -> str:
    return f"Without a connection, get {url} on another machine and put it at {target}."
