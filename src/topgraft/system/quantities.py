"""Parse quantities as users write them: times, percentage points and image sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from topgraft.errors import UsageError

InputSize: TypeAlias = int | str | Sequence[int]
"""A side in pixels, or a square: ``224``, ``"224x224"``, ``(224, 224)``, ``(224, 224, 3)``."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def time_limit(given: Any) -> str:
    """Check a time with its unit, such as ``90s``, ``5m`` or ``1.5h``, and return its text.

    Raises:
        UsageError: it is not a time, has no unit, or is not above 0.
    """
    text = str(given)
    as_seconds(text)
    return text


def as_seconds(text: str) -> float:
    """Seconds of a time such as ``90s``, ``5m`` or ``1.5h``."""
    number, unit = _number(text[:-1]), _UNITS.get(text[-1:])
    if unit is None and math.isfinite(_number(text)):
        raise UsageError(f"a time needs a unit, such as 5s, 5m or 1h; {text} has none")
    if unit is None or not (math.isfinite(number) and number > 0):
        raise UsageError(f"a time is a number above 0 with s, m or h, such as 5s, 5m or 1h, not {text!r}")
    return number * unit


def loss_limit(given: Any) -> float:
    """Largest accepted loss in percentage points, from 0 to 100.

    Raises:
        UsageError: it is not one.
    """
    value = math.nan if isinstance(given, bool) else _number(given)
    if not 0 <= value <= 100:
        raise UsageError(f"at most 0 to 100 points can be lost, not {given}")
    return value


def image_side(given: InputSize) -> int:
    """Side in pixels of a square image, from ``224``, ``"224x224"``, ``(224, 224)`` or Keras's ``(224, 224, 3)``.

    Raises:
        UsageError: it is not an image size, the sides differ, or the number of channels is not 3.
    """
    try:
        sides = [int(part) for part in re.split("[x×]", given)] if isinstance(given, str) else _whole_numbers(given)
    except (AttributeError, TypeError, ValueError):
        sides = []
    if not sides or len(sides) > 3 or sides[0] != sides[len(sides) > 1]:
        raise UsageError(f"images are square: give input_size as 224, 224x224 or (224, 224), not {given}")
    if len(sides) == 3 and sides[2] != 3:
        raise UsageError(f"input_size {given} has {sides[2]} channels; give the side only: {sides[0]}")
    return sides[0]


def _whole_numbers(given: Any) -> list[int]:
    parts = given if isinstance(given, Sequence) or hasattr(given, "__len__") else [given]
    if any(isinstance(part, bool) for part in parts):
        raise TypeError("True is not a number of pixels")
    return [part.__index__() for part in parts]


def _number(given: Any) -> float:
    """A float; NaN if it is not a number."""
    try:
        return float(given)
    except (TypeError, ValueError):
        return math.nan
