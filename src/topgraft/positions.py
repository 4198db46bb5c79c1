"""Where a phase is: all that its next step depends on, taken out and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .checkpoint import pack_optimizer, section, sections, unpack_optimizer
from .stepping import Run


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
class Now:
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
    now: Now,
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
) -> tuple[Now, torch.optim.Optimizer]:
    def part(name: str) -> dict[str, torch.Tensor]:
        return {key: tensor.to(run.choices.device) for key, tensor in section(position.tensors, name).items()}

    now = Now(**position.state["now"])
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
