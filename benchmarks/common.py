"""What every benchmark prints with its numbers."""

from __future__ import annotations

import os
import platform
import time


def machine() -> str:
    """One line: date, processor, cores, load, system and versions. No name of host or user."""
    from topgraft.features.benchmark import describe_machine

    found = describe_machine()
    # Others on the machine make a number worth less; so the load before the start is printed with it.
    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    installed = ", ".join(version for version in found["engines"].values() if version)
    return (
        f"{time.strftime('%Y-%m-%d')}; {found['processor_name']}, {found['cores']} cores, "
        f"{found['processor'][1]}{' with bf16' if found['bf16'] else ''}, {load}{platform.system()}, "
        f"Python {platform.python_version()}, topgraft {found['topgraft']}, {installed}"
    )
