"""Read quantities as users write them: times and points."""

from __future__ import annotations

import math
from typing import Any

from .errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def time_limit(given: Any) -> str:
    """A time as it was written, if it is one with its unit: ``90s``, ``5m``, ``1.5h``.

    Raises:
        UsageError: it is not a time, has no unit, or is not above 0.
    """
    text = str(given)
    as_seconds(text)
    return text


def as_seconds(text: str) -> float:
    """Seconds of a time that `time_limit` takes."""
    number, unit = _number(text[:-1]), _UNITS.get(text[-1:])
    if unit is None and math.isfinite(_number(text)):
        raise UsageError(f"a time needs its unit, as 5s, 5m or 1h; {text} has none")
    if unit is None or not (math.isfinite(number) and number > 0):
        raise UsageError(f"a time is a number above 0 with s, m or h, as 5s, 5m or 1h, not {text!r}")
    return number * unit


def loss_limit(given: Any) -> float:
    """Points that may be lost: a number from 0 to 100.

    Raises:
        UsageError: it is not one.
    """
    value = math.nan if isinstance(given, bool) else _number(given)
    if not 0 <= value <= 100:
        raise UsageError(f"at most 0 to 100 points can be lost, not {given}")
    return value


def _number(given: Any) -> float:
    """A float; not a number where it is not one."""
    try:
        return float(given)
    except (TypeError, ValueError):
        return math.nan
