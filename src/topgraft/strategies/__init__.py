"""FAMILY: strategies. Each is a pure function to the next phase, or None to stop; see `spec`."""

from __future__ import annotations

from . import auto, custom, full, head, partial
from .facts import Strategy

STRATEGIES: dict[str, Strategy] = {
    "auto": auto.next_phase,
    "head": head.next_phase,
    "partial": partial.next_phase,
    "full": full.next_phase,
    "rules": custom.next_phase,
}
