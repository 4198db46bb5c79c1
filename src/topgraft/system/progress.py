"""Progress bars on a terminal, plain lines elsewhere, nothing when quiet.

Nothing is shown for work that ends within two seconds. Everything is written to standard error, so that standard
output has results only.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .formatting import duration

_SHOW_AFTER = 2.0  # seconds
_LINE_EVERY = 10.0  # seconds between plain lines
_MEASURED = 1.0  # least seconds to measure a rate

_quiet: ContextVar[bool] = ContextVar("topgraft_quiet", default=False)


QUIET_HELP = "show no progress and no notes"
"""Help text of the option ``quiet`` of every verb."""


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Show no progress and no notes inside this block; ``quiet(False)`` inside a quiet block changes nothing."""
    token = _quiet.set(on or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


def note(text: str) -> None:
    """Print a message on standard error, unless quiet."""
    if not _quiet.get():
        message(text)


def message(text: str) -> None:
    """Print lines on standard error; on a terminal they are wrapped at words, and paths are not broken."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(wrapped(line, width) for line in text.splitlines())
    print(text, file=sys.stderr, flush=True)


_NO_BREAK = re.compile(r" (?=%|=)|(?<==) |(?<=\d) (?=(?:s|min|h)\b)")  # the spaces in 95 %, n = 60 and 12 s
_PLACEHOLDER = "\x1f"  # replaces these spaces while a line is wrapped


def wrapped(line: str, width: int) -> str:
    """A line wrapped at words; paths, and numbers with their units, are not broken."""
    text = _NO_BREAK.sub(_PLACEHOLDER, line.lstrip())
    indent = line[: len(line) - len(line.lstrip())]
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.fill(text).replace(_PLACEHOLDER, " ")


class Bar:
    """Progress of some work; `advance` must be called from one thread only.

    Rate and remaining time are measured after the first units, which also include converting and warming up a network.
    """

    def __init__(self, description: str, total: int, unit: str, stays: bool) -> None:
        self.description, self.total, self.unit, self.stays = description, total, unit, stays
        self.done = 0
        self._first: tuple[float, int] | None = None  # time and number of the first units
        self._started = time.monotonic()
        self._last_line = self._started
        self._rich: Any = None
        self._task: Any = None
        self._silent = _quiet.get()
        self._shown = -1  # units done when the last plain line was printed; -1 before the first

    def advance(self, amount: int = 1) -> None:
        """Add finished units."""
        self.done += amount
        now = time.monotonic()
        if self._first is None and amount:
            self._first = now, amount
        ended = not self.stays and self.done >= self.total > 0  # it would disappear at once
        if self._silent or ended or now - self._started < _SHOW_AFTER:
            return
        if not sys.stderr.isatty():
            if now - self._last_line >= _LINE_EVERY or self._shown < 0:
                self._last_line = now
                self._shown = self.done
                print(self.line(now), file=sys.stderr, flush=True)
            return
        if self._rich is None:
            self._rich, self._task = _rich_bar(self.description, self.total, transient=not self.stays)
        rate = self._rate(now)
        self._rich.update(self._task, completed=self.done, rate="" if rate is None else self._speed(rate))

    def line(self, now: float) -> str:
        """``base: 1,200 of 5,000 images, 310 images/s, 12 s left``; without rate and time until they are measured."""
        of = f" of {_count(self.total, self.unit)}" if self.total else ""
        counted = f"{self.description}: {_count(self.done, self.unit)}{of} {self.unit}"
        rate = self._rate(now)
        if rate is None:
            return counted
        left = f", {duration((self.total - self.done) / rate)} left" if self.total else ""
        return f"{counted}, {self._speed(rate)}{left}"

    def close(self) -> None:
        """Print the finished bar, or a last plain line, if it stays."""
        if self._rich is not None:
            self._rich.stop()
        elif self.stays and 0 <= self._shown < self.done:
            print(self.line(time.monotonic()), file=sys.stderr, flush=True)

    def _rate(self, now: float) -> float | None:
        """Units per second after the first units; None until it can be measured."""
        if self._first is None or now - self._first[0] < _MEASURED or self.done == self._first[1]:
            return None
        began, before = self._first
        return (self.done - before) / (now - began)

    def _speed(self, rate: float) -> str:
        return f"{_count(rate, self.unit)} {self.unit}/s"


@contextmanager
def bar(description: str, total: int, unit: str = "images", *, stays: bool = True) -> Iterator[Bar]:
    """A bar of `total` units; bytes (``unit="B"``) are shown as megabytes. Without `stays` it disappears at the end."""
    progress_bar = Bar(description, total, unit, stays)
    try:
        yield progress_bar
    finally:
        progress_bar.close()


def _count(amount: float, unit: str) -> str:
    if unit == "B":
        return f"{amount / 1e6:,.1f} M"
    return f"{amount:,.0f}" if amount >= 10 or amount == int(amount) else f"{amount:.1f}"


def _rich_bar(description: str, total: int, transient: bool) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=transient,
    )
    progress.start()
    return progress, progress.add_task(description, total=total or None, rate="")
