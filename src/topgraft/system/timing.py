"""When the work began that a budget is counted from: the call, or the process where a command was typed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_began: ContextVar[float | None] = ContextVar("topgraft_began", default=None)


@contextmanager
def counting_from(began: float) -> Iterator[None]:
    """Inside this block work is counted from a moment of ``time.perf_counter``."""
    token = _began.set(began)
    try:
        yield
    finally:
        _began.reset(token)


def began() -> float:
    """The moment that work is counted from, by ``time.perf_counter``; now, where it is not set."""
    found = _began.get()
    return time.perf_counter() if found is None else found


def stopwatch(seconds: dict[str, float]) -> Callable[[str], None]:
    """A stopwatch: ``lap(name)`` notes the seconds since the lap before."""
    last = [time.perf_counter()]

    def lap(name: str) -> None:
        now = time.perf_counter()
        seconds[name] = now - last[0]
        last[0] = now

    return lap
