"""What runs a frozen prefix: the table of engines."""

from __future__ import annotations

from .base import EngineKind, installed_version
from .openvino import KIND as OPENVINO
from .torch import KIND as TORCH

# The default is the first that is installed.
ENGINES: dict[str, EngineKind] = {"openvino": OPENVINO, "torch": TORCH}


def available() -> dict[str, str | None]:
    """Every engine with the version of what computes; None where it is not installed. Imports none of them."""
    return {name: installed_version(kind.package) for name, kind in ENGINES.items()}


def version(name: str) -> str:
    """The version of what computes: ``openvino 2026.4.1``."""
    return installed_version(ENGINES[name].package) or f"{name}, not installed"
