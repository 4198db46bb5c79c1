"""The state of a training run, and how a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.models.classifier import Classifier
from topgraft.strategies.facts import Facts
from topgraft.strategies.history import EpochRecord, epoch_from_json
from topgraft.strategies.plan import Phase, phase_from_json
from topgraft.training.sgd.step import Run, StepChoices

from .checkpoint import Checkpoint, pack_optimizer, section, sections, unpack_optimizer
from .inputs import Inputs


@dataclass(frozen=True)
class Position:
    """Where a phase is, and all that its next step depends on.

    Attributes:
        tensors: of the groups that train, now, at the start, in the best epoch and in the running mean; and the
            optimizer's. Those of frozen groups are as the phase began with them.
        state: JSON-able: epoch, step, losses, rate …
    """

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]

    @property
    def elapsed(self) -> float:
        """Seconds of the epoch under way."""
        return float(self.state["now"]["elapsed"])

    @property
    def spent(self) -> float:
        """Seconds of the phase until here."""
        return float(self.state["now"]["spent"]) + self.elapsed


Keep = Callable[[Position], None]
"""Takes a position; the records of all epochs that ended before it have been yielded."""


@dataclass
class EpochProgress:
    """What changes while a phase runs, but for tensors. All of it goes into a `Position`."""

    lr: float
    epoch: int = 1
    step: int = 0
    losses: list[float] = field(default_factory=list)  # of the epoch
    right: int = 0
    seen: int = 0
    elapsed: float = 0.0  # seconds of the epoch before the last resume
    spent: float = 0.0  # seconds of the phase before this epoch
    best: list[float] | None = None  # standing
    behind: int = 0  # epochs since the best one
    validating: float = 0.0  # seconds that the last validation took
    first: list[float] = field(default_factory=list)  # losses of the first steps of the phase
    since: int = 0  # step of the phase at which the rate was lowered
    looked: bool = False  # whether lower rates were tried and did no better


def trained(run: Run) -> dict[str, torch.Tensor]:
    """The state of the groups that train. What is frozen is not averaged: the mean of -0 and -0 is 0, another bit."""
    return {
        f"groups.{name}.{key}": tensor
        for name, group in run.groups.items()
        if run.rows[name] is not None
        for key, tensor in group.state_dict().items()
    }


def position_of(
    run: Run,
    optimizer: torch.optim.Optimizer,
    now: EpochProgress,
    best: Mapping[str, torch.Tensor],
    mean: Mapping[str, torch.Tensor],
) -> Position:
    packed, plain = pack_optimizer(optimizer)
    moving = trained(run)
    parts = {"network": moving, "best": best, "mean": mean, "started": run.started}
    # What is frozen is as the phase began, and is not written again and again.
    kept = {name: {key: part[key] for key in moving if part} for name, part in parts.items()}
    return Position(sections(optimizer=packed, **kept), {"now": dict(vars(now)), "optimizer": plain})


def resume(
    run: Run, position: Position, best: dict[str, torch.Tensor], mean: dict[str, torch.Tensor]
) -> tuple[EpochProgress, torch.optim.Optimizer]:
    def part(name: str) -> dict[str, torch.Tensor]:
        return {key: tensor.to(run.choices.device) for key, tensor in section(position.tensors, name).items()}

    now = EpochProgress(**position.state["now"])
    optimizer = run.optimizer(now.lr)
    frozen = {key: tensor.clone() for key, tensor in run.started.items()}
    run.classifier.load_state_dict({**frozen, **part("network")})
    unpack_optimizer(optimizer, part("optimizer"), position.state["optimizer"])
    if now.best is not None:
        best.update({**frozen, **part("best")})
    if run.choices.ema:
        mean.update({**frozen, **part("mean")})
    for key, tensor in part("started").items():
        run.started[key].copy_(tensor)
    return now, optimizer


@dataclass
class TrainingState:
    """What changes from phase to phase. All but the tensors is JSON-able; a checkpoint holds all of it.

    `facts` are what the strategy was told last; `number` is that of the phase under way, or of the last one;
    `standing` is that of the state `best` on the validation images; `head` is how the head was solved
    (`topgraft.training.head.logistic.HeadSettings`); `folds` are the records of those folds of a phase under way
    that are done, and
    `fold` those of the one that is not; `position` is where a phase, or fold, under way was when it was interrupted,
    and `lead` are the seconds of the phase that it does not count; `remarks` are what a user should be told about the
    phases until then; `before_refit` are logits of the validation images by the head that was solved without them, of
    which no checkpoint is kept.
    """

    facts: Facts
    history: list[EpochRecord] = field(default_factory=list)
    phases: dict[str, dict[str, float | None]] = field(default_factory=dict)
    taken: list[Phase] = field(default_factory=list)
    under_way: Phase | None = None
    number: int = 0
    standing: tuple[float, ...] | None = None
    selection: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    folds: list[list[EpochRecord]] = field(default_factory=list)
    fold: list[EpochRecord] = field(default_factory=list)
    lead: float = 0.0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    position: Position | None = None
    remarks: list[str] = field(default_factory=list)
    before_refit: NDArray[np.float32] | None = None

    @property
    def uncounted(self) -> float:
        """Seconds of the phase under way that no record of the history counts."""
        if self.under_way is None:
            return 0.0
        if self.under_way.folds:
            return self.lead + (0.0 if self.position is None else self.position.spent)
        begun = any(record.phase == self.number for record in self.history)
        return (0.0 if begun else self.lead) + (0.0 if self.position is None else self.position.elapsed)

    def end_phase(self) -> None:
        """Nothing is under way any more."""
        self.under_way, self.position, self.lead = None, None, 0.0
        self.folds.clear()
        self.fold.clear()


def to_checkpoint(now: TrainingState) -> Checkpoint:
    """All of it."""
    position = now.position
    tensors = sections(best=now.best, position={} if position is None else position.tensors)
    return Checkpoint(
        tensors,
        {
            "facts": asdict(now.facts),
            "history": [asdict(record) for record in now.history],
            # As pairs: a JSON object keeps no order, and theirs is the phases' and the groups'.
            "phases": [[name, list(rows.items())] for name, rows in now.phases.items()],
            "taken": [asdict(phase) for phase in now.taken],
            "under_way": None if now.under_way is None else asdict(now.under_way),
            "number": now.number,
            "standing": now.standing,
            "selection": now.selection,
            "head": now.head,
            "folds": [[asdict(record) for record in records] for records in now.folds],
            "fold": [asdict(record) for record in now.fold],
            "lead": now.lead,
            "inner": None if position is None else position.state,
            "remarks": now.remarks,
        },
    )


def from_checkpoint(checkpoint: Checkpoint) -> TrainingState:
    """What `to_checkpoint` was given."""
    state = checkpoint.state
    return TrainingState(
        facts=Facts.of(state["facts"]),
        history=[epoch_from_json(entry) for entry in state["history"]],
        phases={name: dict(rows) for name, rows in state["phases"]},
        taken=[phase_from_json(entry) for entry in state["taken"]],
        under_way=None if state["under_way"] is None else phase_from_json(state["under_way"]),
        number=int(state["number"]),
        standing=None if state["standing"] is None else tuple(state["standing"]),
        selection=dict(state["selection"]),
        head=dict(state["head"]),
        folds=[[epoch_from_json(entry) for entry in records] for records in state["folds"]],
        fold=[epoch_from_json(entry) for entry in state["fold"]],
        lead=float(state["lead"]),
        best=section(checkpoint.tensors, "best"),
        position=None if state["inner"] is None else Position(section(checkpoint.tensors, "position"), state["inner"]),
        remarks=list(state["remarks"]),
    )


@dataclass(frozen=True)
class TrainChoices:
    """The user's choices that phases need.

    Attributes:
        class_weight: None, or ``balanced``.
        refit: solve the head again on train and validation together.
        seed: of everything random.
        steps: how phases step that do; its class weights are filled in here.
        find_lr: take the rate that a range test suggests; see `topgraft.training.sgd.lr_finder`.
        solver: how the head is solved on features: a key of `SOLVERS`.
    """

    class_weight: str | None
    refit: bool
    seed: int
    steps: StepChoices
    solver: str = "logistic"
    find_lr: bool = False


Save = Callable[[Checkpoint], None]


@dataclass(frozen=True, eq=False)
class Job:
    """What stays the same from phase to phase; `published` is the network's state before the first, where
    weights are pulled to it."""

    classifier: Classifier
    facts: Facts
    inputs: Inputs
    choices: TrainChoices
    save: Save | None
    published: Mapping[str, torch.Tensor] | None

    def keep(self, now: TrainingState) -> None:
        """Hand it to the callback that saves it, if there is one."""
        if self.save is not None:
            self.save(to_checkpoint(now))
