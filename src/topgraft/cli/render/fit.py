"""Records as tables on standard output. Nothing here computes; every number comes with its n."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from topgraft.errors import TrainingStalledError
from topgraft.evaluation.headline import headline
from topgraft.evaluation.results import FittedClassifier
from topgraft.training import summary

from .table import lines, make_table


def fitted(model: FittedClassifier, out: Path, seconds: Mapping[str, float], *, quiet: bool) -> None:
    """What a fit has made: strength or epoch, validation, seconds, and the folder."""
    if quiet:
        lines(headline(model.validation))
        return
    lines(summary.lines(model, seconds, out))


def stalled(error: TrainingStalledError) -> None:
    """The curves of the rates that were tried, side by side."""
    shown = make_table("step", *(f"rate {rate:g}" for rate in error.curves))
    steps = sorted({step for curve in error.curves.values() for step, _ in curve})
    for step in steps:
        found = [dict(curve).get(step) for curve in error.curves.values()]
        shown.add_row(str(step), *("" if loss is None else f"{loss:.3f}" for loss in found))
    Console(stderr=True).print(shown)
