"""Records as tables on standard output. Nothing here computes; every number comes with its n."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import show_fit
from .card import SPLIT_LABELS, headline, share
from .chance import judged, warned
from .errors import Stalled
from .overviews import confused, counted, rate
from .progress import wrapped
from .records import SPLIT_NAMES, Evaluation, Fitted, Inspection, Predictions
from .summary import Summary
from .survey import Survey

_PLAIN_WIDTH = 160  # columns where the output is no terminal: nothing is cut off in a file or a pipe
_ROOMY = 118  # columns from which on every column of a table is shown


def fitted(model: Fitted, out: Path, seconds: Mapping[str, float], *, quiet: bool) -> None:
    """What a fit has made: strength or epoch, validation, seconds, and the folder."""
    if quiet:
        lines(headline(model.validation))
        return
    lines(show_fit.lines(model, seconds, out))


def stalled(error: Stalled) -> None:
    """The curves of the rates that were tried, side by side."""
    shown = _table("step", *(f"rate {rate:g}" for rate in error.curves))
    steps = sorted({step for curve in error.curves.values() for step, _ in curve})
    for step in steps:
        found = [dict(curve).get(step) for curve in error.curves.values()]
        shown.add_row(str(step), *("" if loss is None else f"{loss:.3f}" for loss in found))
    Console(stderr=True).print(shown)


def evaluated(result: Evaluation) -> None:
    """Metrics by class where they fit on a screen, then the headline numbers."""
    console = _console()
    if len(result.classes) <= 40:
        shown = _table("class", "precision", "recall", "F1", "images")
        for row in result.metrics.classes:
            shown.add_row(escape(row.name), _share(row.precision), _share(row.recall), _share(row.f1), f"{row.n:,}")
        console.print(shown)
    worst = confused(result.metrics)
    if worst:
        console.print("most often confused: " + "; ".join(worst), highlight=False, markup=False)
    metrics = result.metrics
    calibration = (
        f"log loss {metrics.log_loss:.3f}, expected calibration error {metrics.ece:.3f} "
        f"({metrics.ece_bins} bins), n = {metrics.n:,}, without interval"
    )
    lines([calibration, *warned(judged(result).message), *headline(result)])


def predicted(answers: Predictions) -> None:
    """One row per image: the best class and the runners-up."""
    shown = _table("image", "class", "probability", "then")
    for answer in answers:
        rest = ", ".join(
            f"{name} {share(p)}" for name, p in zip(answer.classes[1:4], answer.probabilities[1:4], strict=True)
        )
        shown.add_row(escape(answer.name), escape(answer.classes[0]), share(answer.probabilities[0]), escape(rest))
    _console().print(shown)


def predicted_csv(answers: Predictions) -> None:
    """CSV: one line for each image and answer, best first."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for answer in answers:
        for rank, (name, probability) in enumerate(zip(answer.classes, answer.probabilities, strict=True), start=1):
            writer.writerow([answer.name, rank, name, f"{probability:.6f}"])


def inspected(found: Inspection) -> None:
    """The freeze table, and the stations."""
    console = _console()
    phases = found.phases if len(found.phases) <= 3 else (*found.phases[:2], found.phases[-1])
    table = _table(
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
    stations = _table("after", "shape", "type", "lowest", "highest", title=f"one batch of {len(found.images)} images")
    for station in found.stations:
        shape = " × ".join(map(str, station.shape))
        stations.add_row(station.name, shape, station.dtype, f"{station.low:.4g}", f"{station.high:.4g}")
    console.print(stations)
    if found.placement:
        placed = _table("group", "device", "products in", "engine", title="where each group runs")
        for place in found.placement:
            placed.add_row(place.group, place.device, place.dtype, place.engine)
        console.print(placed)


def backbones(rows: Sequence[Mapping[str, Any]]) -> None:
    """The family, one row each."""
    console = _console()
    columns = {
        "backbone": [row["name"] for row in rows],
        "year": [str(row["year"]) for row in rows],
        "parameters": [_millions(row["parameters"], 2) for row in rows],
        "multiply-adds": [_millions(row["multiply_adds"], 0) for row in rows],
        "top-1": [_share(row["top1"]) for row in rows],
        "licence": [row["licence"] for row in rows],
        "weights": [_whereabouts(row) for row in rows],
    }
    _print_columns(console, columns, ("multiply-adds",))
    for line in (
        "top-1: ImageNet-1k validation (50,000 images), as published",
        "weights: learnt from your images, here, not here (they are downloaded when first used), or none published",
    ):
        console.print(line, highlight=False)


def surveyed(found: Survey) -> None:
    """Counts by class and split, sizes, formats, and everything odd."""
    console = _console()
    splits = list(found.counts)
    shown = _table("class", *(SPLIT_LABELS.get(split, "images") for split in splits), "total")
    for name in found.classes:
        counts = [found.counts[split].get(name, 0) for split in splits]
        shown.add_row(escape(name), *(f"{count:,}" for count in counts), f"{sum(counts):,}")
    console.print(shown)
    lines = [f"{counted(found.images, 'image')}, {counted(len(found.classes), 'class', 'classes')}"]
    if found.made:
        made = ", ".join(SPLIT_LABELS[split] for split in SPLIT_NAMES if split in found.made)
        lines.append(f"splits made by content (seed {found.split_seed}): {made}")
    for what, range_ in (("width", found.widths), ("height", found.heights)):
        if range_ is not None:
            lines.append(f"{what}: {range_.smallest:,} to {range_.largest:,} pixels, median {range_.median:,g}")
    lines.append("formats: " + ", ".join(f"{kind} {count:,}" for kind, count in found.formats.items()))
    if found.imbalance is not None:
        lines.append(f"imbalance: the largest class has {found.imbalance:.1f} times the images of the smallest")
    lines += found.notes
    if found.unreadable:
        lines.append(f"unreadable: {len(found.unreadable):,}")
        lines += [f"  {entry.name}: {entry.reason}" for entry in found.unreadable]
    if found.duplicates:
        lines.append(f"exact duplicates: {counted(len(found.duplicates), 'group')}")
        for group in found.duplicates:
            marks = [
                *(["under two labels"] if group.digest in found.under_two_labels else []),
                *(["across splits"] if group.digest in found.across_splits else []),
            ]
            note = f" ({', '.join(marks)})" if marks else ""
            lines.append(f"  {' = '.join(group.names)}{note}")
    if found.problem is not None:
        lines.append(f"fit would refuse these images: {found.problem}")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def summarised(found: Summary) -> None:
    """Layers, then totals."""
    console = _console()
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
    _print_columns(console, columns, ("type", "activations", "sees"))
    totals = found.parameters
    for line in (
        f"{found.backbone}, {found.input_size} × {found.input_size} pixels, {found.classes:,} classes",
        f"parameters: {totals.total:,} (trainable {totals.trainable:,}, not trainable {totals.not_trainable:,})",
        f"multiply-adds: {found.multiply_adds / 1e6:,.1f} M",
        f"activations: {found.activation_bytes / 2**20:,.1f} MiB an image",
        *found.notes,
    ):
        console.print(line, highlight=False)


def devices(found: Mapping[str, Any]) -> None:
    """This machine, its engines, and what was measured."""
    console = _console()
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
    shown = _table("measured", "median", "lowest", "highest", "unit")
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


def lines(found: Sequence[str]) -> None:
    """Text, the last line as the headline."""
    console = _console()
    for number, line in enumerate(found, start=1):
        text = wrapped(line, console.width) if sys.stdout.isatty() else line
        style = "bold" if number == len(found) else None
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _whereabouts(row: Mapping[str, Any]) -> str:
    if row["weights"] == "learnt":
        return "learnt"
    return "here" if row["here"] else "not here" if row["weights"] else "none"


def _millions(value: int | None, digits: int) -> str:
    return "–" if value is None else f"{value / 1e6:,.{digits}f} M"


def _share(value: float | None) -> str:
    return "–" if value is None else share(value)


def _print_columns(console: Console, columns: Mapping[str, Sequence[str]], spare: Sequence[str]) -> None:
    """A table by columns, without the `spare` ones where the terminal has no room for them."""
    names = [name for name in columns if console.width >= _ROOMY or name not in spare]
    shown = _table(*names)
    for row in zip(*(columns[name] for name in names), strict=True):
        shown.add_row(*map(escape, row))
    console.print(shown)
    if len(names) < len(columns):
        console.print(f"a terminal of {_ROOMY} columns also shows {', '.join(spare)}", highlight=False)


def _table(*columns: str, title: str | None = None) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        right = column in {
            "parameters", "multiply-adds", "precision", "recall", "F1", "images", "probability", "lowest",
            "highest", "top-1", "median", "activations", "sees", "input", "train", "validation", "test", "total",
        }  # fmt: skip
        shown.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=number > 0 and right)
    return shown


class _Output(Console):
    """Standard output. Where its reader has gone, rich would end the program with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console() -> Console:
    return _Output(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
