"""FAMILY: strategies. Each is a pure function to the next phase, or None to stop; see `spec`."""

from __future__ import annotations

from . import full, head
from .spec import Strategy

STRATEGIES: dict[str, Strategy] = {
    "head": head.next_phase,
    "full": full.next_phase,
}
