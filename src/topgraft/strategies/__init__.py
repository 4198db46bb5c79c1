"""FAMILY: strategies. Each is a pure function to the next phase, or None to stop; see `spec`."""

from __future__ import annotations

from . import auto, full, head, partial, rules
from .spec import Strategy

STRATEGIES: dict[str, Strategy] = {
    "auto": auto.next_phase,
    "head": head.next_phase,
    "partial": partial.next_phase,
    "full": full.next_phase,
    "rules": rules.next_phase,
}
