"""A web server on this machine that can be told to cut connections, refuse, or send something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server on this machine serves, and what it was asked for."""

    data: bytes
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which to end each answer early
    statuses: list[int] = field(default_factory=list)  # answered before anything else
    length: bool = True
    encoding: str | None = None
    range_shift: int = 0
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range, If-Range
    url: str = ""


@contextmanager
def serve(data: bytes) -> Iterator[Site]:
    """A server on 127.0.0.1, on a port of the system's choice, for as long as the block lasts."""
    served = Site(data)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked, version = self.headers.get("Range"), self.headers.get("If-Range")
            served.asked.append((asked, version))
            if served.statuses and (status := served.statuses.pop(0)) != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if asked and served.ranges and version in (served.etag, served.modified):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(served.data):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                first = start + served.range_shift
                self.send_header("Content-Range", f"bytes {first}-{len(served.data) - 1}/{len(served.data)}")
            else:
                self.send_response(200)
            body = served.data[start:]
            if served.length:
                self.send_header("Content-Length", str(len(body)))
            for name, value in {
                "ETag": served.etag,
                "Last-Modified": served.modified,
                "Content-Encoding": served.encoding,
            }.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: served.cuts.pop(0)] if served.cuts else body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/data.bin"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
