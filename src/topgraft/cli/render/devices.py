"""Print this machine and what was measured on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .table import make_console, make_table


def devices(found: Mapping[str, Any]) -> None:
    """This machine, its engines, and what was measured."""
    console = make_console()
    default = found["default"]
    cuda = ", ".join(found["cuda"]) or "none"
    for line in (
        f"processor: {found['processor_name']}, {found['cores']} cores, bf16 {'yes' if found['bf16'] else 'no'}",
        f"features: {' '.join(found['processor'])}",
        f"CUDA: {cuda}",
        *(f"engine {name}: {version or 'not installed'}" for name, version in found["engines"].items()),
        f"default: {default['name']} on {default['device']} in {default['precision']} ({found['why']})",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    measured = found["measured"]
    if measured is None:
        console.print("not measured yet; topgraft devices --measure takes about a minute", highlight=False)
        return
    shown = make_table("measured", "median", "lowest", "highest", "unit")
    rows = [
        ("fp32 matrix product", measured["fp32_gflops"], "GFLOP/s"),
        ("bf16 matrix product", measured["bf16_gflops"], "GFLOP/s"),
        ("decode 500×375 JPEG", measured["decode"], "images/s"),
    ]
    for engine in measured["engines"]:
        choice = engine["choice"]
        name = f"{choice['name']} {choice['precision']} on {choice['device']}"
        rows.append((name, engine["images_per_second"], "images/s"))
    for name, spread, unit in rows:
        if spread is not None:
            shown.add_row(name, *(f"{spread[key]:,.0f}" for key in ("median", "low", "high")), unit)
    console.print(shown)
    console.print(
        f"n = {measured['fp32_gflops']['n']} runs each; engines: EfficientNet-Lite0 at 224 pixels", highlight=False
    )
