"""Print freeze tables, the list of backbones, and the layers of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topgraft.models.summary import Summary
from topgraft.training.inspection import Inspection, rate

from .table import make_console, make_table, millions, print_columns, share_cell


def inspected(found: Inspection) -> None:
    """The freeze table, and the stations."""
    console = make_console()
    phases = found.phases if len(found.phases) <= 3 else (*found.phases[:2], found.phases[-1])
    table = make_table(
        "group", "parameters", *(phase.name for phase in phases), "BatchNorm",
        title=f"{found.backbone}, strategy {found.strategy}",
    )  # fmt: skip
    for row in found.table:
        rates = [rate(phase, row.group) for phase in phases]
        table.add_row(row.group, f"{row.parameters:,}", *rates, row.batchnorm)
    console.print(table)
    if len(phases) < len(found.phases):
        between = ", ".join(phase.name for phase in found.phases[2:-1])
        console.print(f"between the last two, if they help and the time lasts: {between}", highlight=False)
    stations = make_table(
        "after", "shape", "type", "lowest", "highest", title=f"one batch of {len(found.images)} images"
    )
    for station in found.stations:
        shape = " × ".join(map(str, station.shape))
        stations.add_row(station.name, shape, station.dtype, f"{station.low:.4g}", f"{station.high:.4g}")
    console.print(stations)
    if found.placement:
        placed = make_table("group", "device", "products in", "engine", title="where each group runs")
        for place in found.placement:
            placed.add_row(place.group, place.device, place.dtype, place.engine)
        console.print(placed)


def backbones(rows: Sequence[Mapping[str, Any]]) -> None:
    """The family, one row each."""
    console = make_console()
    columns = {
        "backbone": [row["name"] for row in rows],
        "year": [str(row["year"]) for row in rows],
        "parameters": [millions(row["parameters"], 2) for row in rows],
        "multiply-adds": [millions(row["multiply_adds"], 0) for row in rows],
        "top-1": [share_cell(row["top1"]) for row in rows],
        "license": [row["license"] for row in rows],
        "weights": [_whereabouts(row) for row in rows],
    }
    print_columns(console, columns, ("multiply-adds",))
    for line in (
        "top-1: ImageNet-1k validation (50,000 images), as published",
        "weights: learned from your images, here, not here (they are downloaded when first used), or none published",
    ):
        console.print(line, highlight=False)


def summarized(found: Summary) -> None:
    """Layers, then totals."""
    console = make_console()
    layers = found.layers
    columns = {
        "layer": [layer.name for layer in layers],
        "group": [layer.group for layer in layers],
        "type": [layer.kind for layer in layers],
        "output": [" × ".join(map(str, layer.output)) for layer in layers],
        "parameters": [f"{layer.parameters:,}" for layer in layers],
        "multiply-adds": [f"{layer.multiply_adds:,}" for layer in layers],
        "activations": [f"{layer.activation_bytes / 1024:,.0f} KiB" for layer in layers],
        "sees": [f"{layer.receptive_field:,} px" for layer in layers],
    }
    print_columns(console, columns, ("type", "activations", "sees"))
    totals = found.parameters
    for line in (
        f"{found.backbone}, {found.input_size} × {found.input_size} pixels, {found.classes:,} classes",
        f"parameters: {totals.total:,} (trainable {totals.trainable:,}, not trainable {totals.not_trainable:,})",
        f"multiply-adds: {found.multiply_adds / 1e6:,.1f} M",
        f"activations: {found.activation_bytes / 2**20:,.1f} MiB an image",
        *found.notes,
    ):
        console.print(line, highlight=False)


def _whereabouts(row: Mapping[str, Any]) -> str:
    if row["weights"] == "learnt":
        return "learned"
    return "here" if row["here"] else "not here" if row["weights"] else "none"
