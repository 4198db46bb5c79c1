"""Look before training: the freeze table, and what each station of the line hands on for one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from topgraft.data.loader import batches
from topgraft.data.overviews import unreadable
from topgraft.data.samples import Sample, Unreadable
from topgraft.features.engines.base import EngineChoice
from topgraft.models.classifier import Classifier
from topgraft.strategies.facts import Facts, Strategy
from topgraft.strategies.history import EpochRecord, pack
from topgraft.strategies.plan import Phase, frozen_prefix, table
from topgraft.system.formatting import listed, shape
from topgraft.system.reprs import Grid, Overview, Shown


def rate(phase: PlannedPhase, group: str) -> str:
    """A group's learning rate in a phase; ``frozen``, ``solved``, or ``trains`` where the rate is not known yet."""
    multiplier = phase.multipliers[group]
    if multiplier is None:
        return "frozen"
    return f"{multiplier * phase.lr:.2g}" if phase.epochs and phase.lr else "solved" if not phase.epochs else "trains"


def planned_phase(this: PlannedPhase) -> Overview:
    """What it trains, and at which rates."""
    groups = list(this.multipliers)
    trains = [group for group, multiplier in this.multipliers.items() if multiplier is not None]
    top = len(trains) > 2 and trains == groups[-len(trains) :]
    facts = {
        "name": this.name,
        "epochs": str(this.epochs),
        "trains": f"{trains[0]} to {trains[-1]}" if top else ", ".join(trains),
        "lr": f"{this.lr:g}" if this.lr else "",
    }
    grid = Grid(("group", "rate"), groups, lambda group: (group, rate(this, group)), "groups")
    return Overview("PlannedPhase", facts, (grid,), one_line=True)


def inspection(this: Inspection) -> Overview:
    """The freeze table, one batch at each station, and where each group runs."""
    phases = this.phases if len(this.phases) <= 3 else (*this.phases[:2], this.phases[-1])
    freeze = Grid(
        ("group", "parameters", *(phase.name for phase in phases), "BatchNorm"),
        this.table,
        lambda row: (row.group, f"{row.parameters:,}", *(rate(p, row.group) for p in phases), row.batchnorm),
        "groups",
    )
    stations = Grid(
        (f"one batch of {len(this.images)}, after", "shape", "type", "lowest", "highest"),
        this.stations,
        lambda s: (s.name, shape(s.shape), s.dtype, f"{s.low:.4g}", f"{s.high:.4g}"),
        "stations",
    )
    places = Grid(
        ("group", "device", "products in", "engine"),
        this.placement,
        lambda p: (p.group, p.device, p.dtype, p.engine),
        "groups",
    )
    facts = {"phases": listed([phase.name for phase in this.phases]), "unreadable": unreadable(this.unreadable)}
    return Overview(f"{this.backbone}, strategy {this.strategy}", facts, (freeze, stations, places))


_ENOUGH = 64  # phases; no strategy has so many


_IMAGES = 8  # one small batch shows shapes and ranges


def planned_phases(strategy: Strategy, facts: Facts, groups: Sequence[str]) -> list[Phase]:
    """The phases that would come if each were better than the one before: of a strategy that decides, the longest way.

    Raises:
        UsageError: the strategy does not go with the groups or the facts.
    """
    facts = replace(facts, budget=None)
    phases: list[Phase] = []
    history: list[EpochRecord] = []
    while (phase := strategy(groups, facts, tuple(history))) is not None and len(phases) < _ENOUGH:
        phases.append(phase)
        images = facts.val_images + (facts.train_images if facts.folds else 0)
        right = np.arange(images) <= len(phases)
        history.append(
            EpochRecord(
                len(phases) - 1, phase.name, phase.epochs, 0.0, chosen=phase.solves_head, hits=pack(right),
                folds=phase.folds, epochs=phase.epochs,
            )
        )  # fmt: skip
    return phases


def planned(phases: Sequence[Phase], groups: Sequence[str]) -> tuple[PlannedPhase, ...]:
    """Phases with their tables worked out; those that are only tried in folds are left out where they come again."""
    names = [phase.name for phase in phases]
    return tuple(
        PlannedPhase(phase.name, phase.ends, phase.lr, table(groups, phase.rules))
        for at, phase in enumerate(phases)
        if phase.name not in names[at + 1 :]
    )


def inspect_line(
    classifier: Classifier,
    samples: Sequence[Sample],
    rows: Mapping[str, float | None],
    *,
    backbone: str,
    strategy: str,
    updates_batchnorm: bool,
) -> Inspection:
    """Run the first images through the line in float32 and note shape, type and range after every station."""
    shown = samples[:_IMAGES]
    batch = next(iter(batches(shown, classifier.spec, batch_size=len(shown), workers=0)))
    failed = dict(batch.failed)
    unreadable = tuple(Unreadable(shown[index].name, reason) for index, reason in failed.items())
    stations: list[Station] = []
    if len(batch.indices):
        with torch.inference_mode():
            stations.append(_station("pixels", batch.pixels))
            x = classifier.normalise(batch.pixels)
            stations.append(_station("normalize", x))
            for name, group in classifier.groups.items():
                x = group(x)
                stations.append(_station("logits" if name == "head" else name, x))
    return Inspection(
        backbone,
        strategy,
        tuple(_row(name, module, rows[name], updates_batchnorm) for name, module in classifier.groups.items()),
        tuple(stations),
        tuple(shown[int(index)].name for index in batch.indices),
        unreadable,
    )


def _station(name: str, x: torch.Tensor) -> Station:
    return Station(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), x.min().item(), x.max().item())


def _row(name: str, module: nn.Module, multiplier: float | None, updates: bool) -> TableRow:
    norms = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())
    keeps = "takes its statistics from the batches" if updates and multiplier is not None else "keeps its statistics"
    batchnorm = keeps if norms else "–"
    return TableRow(name, sum(p.numel() for p in module.parameters()), multiplier, batchnorm)


def place(rows: Mapping[str, float | None], phase: Phase, engine: EngineChoice, training: str) -> tuple[Placement, ...]:
    """Where each group runs in a phase: the frozen prefix on the engine, what steps in PyTorch, a solved head in float.

    Args:
        rows: the phase's table.
        phase: it steps, or solves the head.
        engine: of the frozen prefix.
        training: precision of the products in groups that step.
    """
    prefix = frozen_prefix(rows)
    placed = []
    for group in rows:
        if group in prefix:
            placed.append(Placement(group, engine.device, engine.precision, engine.name))
        elif phase.solves_head:
            placed.append(Placement(group, "cpu", "fp32 or fp64, by the number of features", "solver"))
        else:
            placed.append(Placement(group, engine.device, f"{training}, weights and loss fp32", "torch"))
    return tuple(placed)


@dataclass(frozen=True)
class TableRow:
    """One group in the freeze table. `lr_multiplier` None is frozen; `batchnorm` says what its BatchNorm does."""

    group: str
    parameters: int
    lr_multiplier: float | None
    batchnorm: str


@dataclass(frozen=True, repr=False)
class PlannedPhase(Shown, overview=planned_phase):
    """One phase of a plan: passes over the images, base rate, multiplier of each group; see
    `topgraft.strategies.plan.Phase`."""

    name: str
    epochs: int
    lr: float
    multipliers: Mapping[str, float | None]


@dataclass(frozen=True)
class Station:
    """What one station of the line hands on for one batch: shape, type and range of the values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float


@dataclass(frozen=True)
class Placement:
    """Where one group runs while a model is fitted: device, number type of its products, and what computes."""

    group: str
    device: str
    dtype: str
    engine: str


@dataclass(frozen=True, repr=False)
class Inspection(Shown, overview=inspection):
    """What `inspect` returns: the freeze table of the last phase, the stations of the line for one batch of `images`,
    and, if it was asked for, where each group runs.

    `phases` are in the order in which they would come; of a strategy that decides as it goes, those of the longest way.
    """

    backbone: str
    strategy: str
    table: tuple[TableRow, ...]
    stations: tuple[Station, ...]
    images: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()
    placement: tuple[Placement, ...] = ()
    phases: tuple[PlannedPhase, ...] = ()
