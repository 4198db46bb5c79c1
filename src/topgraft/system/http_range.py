"""Request the rest of a partly downloaded file over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from topgraft.errors import DownloadError

from . import progress
from .files import atomic_write

_TIMEOUT = (10.0, 60.0)  # seconds: to connect, and between two chunks
_CHUNK = 1 << 16  # bytes; at most so much is lost when a connection ends early


class InterruptedDownloadError(Exception):
    """The connection ended early, or the server cannot answer now. Another attempt may succeed."""


def continue_download(url: str, part: Path) -> None:
    """Append the rest of the file to `part`, or write all of it where the server cannot send the rest.

    Raises:
        InterruptedDownloadError: the connection ended early, or the server cannot answer now.
        DownloadError: the server refuses.
    """
    import requests
    import urllib3

    size, version = _resumable(part)
    # Identity: if the client decompressed an archive, its length and hash would differ from the published ones.
    headers = {"Accept-Encoding": "identity"}
    if size:
        headers |= {"Range": f"bytes={size}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            _check_status(response, url, part)
            start = size if response.status_code == 206 else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink()
                raise InterruptedDownloadError("the server sent another range than the requested one")
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else 0
            _save_version(part, response.headers)
            with part.open("ab" if start else "wb") as file:
                _copy(response.raw, file, start, total, target=part.name[1 : -len(".part")])
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise InterruptedDownloadError(_message(error)) from None


def _copy(raw: Any, file: IO[bytes], start: int, total: int, target: str) -> None:
    done = start
    with progress.bar(f"downloading {target}", total, unit="B") as bar:
        bar.advance(start)
        while chunk := raw.read(_CHUNK, decode_content=False):
            file.write(chunk)
            done += len(chunk)
            bar.advance(len(chunk))
    if total and done < total:  # urllib3 before version 2 does not raise this
        raise InterruptedDownloadError(f"the connection ended after {done} of {total} bytes")


def _check_status(response: Any, url: str, part: Path) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:  # no such range: the local bytes are not a prefix of the server's file
        part.unlink(missing_ok=True)
        raise InterruptedDownloadError("the server's file is shorter than the part already downloaded")
    if status in (408, 425, 429) or status >= 500:
        raise InterruptedDownloadError(f"the server answers {status} {response.reason}")
    raise DownloadError(
        f"{url} cannot be downloaded: the server answers {status} {response.reason}. "
        f"{manual_advice(url, part.with_name(part.name[1 : -len('.part')]))}"
    )


def version_file(part: Path) -> Path:
    """The file next to `part` with the version that the server gave it."""
    return part.with_name(f"{part.name}.json")


def _resumable(part: Path) -> tuple[int, str]:
    """Size of `part` in bytes and its version (an ETag or a date); (0, "") where the version is unknown."""
    try:
        version = json.loads(version_file(part).read_text(encoding="utf-8"))["version"]
        return (part.stat().st_size, version) if version and isinstance(version, str) else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _save_version(part: Path, headers: Any) -> None:
    """Save the ETag or the date. A weak ETag is not used: bytes may differ under it."""
    tag = headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    with atomic_write(version_file(part)) as file:
        file.write(json.dumps({"version": version}).encode())


def _message(error: BaseException) -> str:
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
    """How to get the file without a connection, as the end of a message."""
    return f"Without a connection, get {url} on another machine and put it at {target}."
