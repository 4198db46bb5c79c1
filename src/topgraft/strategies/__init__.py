"""FAMILY: strategies. Each is a pure function to the next phase, or None to stop; see `spec`."""

from __future__ import annotations

from . import head
from .spec import Strategy

STRATEGIES: dict[str, Strategy] = {
    "head": head.next_phase,
}
