"""The start time of the current call or command, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_began: ContextVar[float | None] = ContextVar("topgraft_began", default=None)


@contextmanager
def counting_from(began: float) -> Iterator[None]:
    """Set the start time inside the block, as a value of ``time.perf_counter``."""
    token = _began.set(began)
    try:
        yield
    finally:
        _began.reset(token)


def began() -> float:
    """The start time, as a value of ``time.perf_counter``; the current time if none is set."""
    start = _began.get()
    return time.perf_counter() if start is None else start


def stopwatch(seconds: dict[str, float]) -> Callable[[str], None]:
    """A function ``lap(name)`` that stores the seconds since the previous lap in `seconds`."""
    last = [time.perf_counter()]

    def lap(name: str) -> None:
        now = time.perf_counter()
        seconds[name] = now - last[0]
        last[0] = now

    return lap
