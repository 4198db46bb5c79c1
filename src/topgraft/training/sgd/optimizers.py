"""An optimizer from groups: each group's rate is the phase's times its multiplier, and a schedule multiplies again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from topgraft.errors import UsageError

# https://arxiv.org/abs/1412.6980, section 2; the epsilon is Keras's (keras/src/optimizers/adam.py), as in the notes.
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-7
ADAMW_DECAY = 0.01  # per step and unit of rate, PyTorch's default
MOMENTUM = 0.9  # of SGD: https://arxiv.org/abs/1512.03385, section 3.4
WARMUP = 0.1  # share of a phase's steps in which the rate rises: half of one of five epochs
SCHEDULES = ("cosine", "constant")


def make_optimizer(
    groups: Mapping[str, nn.Module], rows: Mapping[str, float | None], *, name: str, lr: float, l2: float
) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over the groups that train.

    Args:
        groups: the network's groups by name.
        rows: `topgraft.strategies.plan.table` of the same names; frozen groups get no optimizer state.
        name: ``adam``, ``adamw`` or ``sgd``.
        lr: base rate.
        l2: coefficient of Σw² over `penalized` parameters, a term of the loss. Its gradient, 2·l2·w, is what these
            optimizers call weight decay, but for AdamW, which decays the same parameters apart from the gradient.

    Raises:
        UsageError: `l2` with AdamW.
    """
    if l2 and name == "adamw":
        raise UsageError(
            "adamw decays weights apart from the loss, and this network's penalty is a term of the loss; "
            "use --optimizer adam, or --l2 none"
        )
    decay = ADAMW_DECAY if name == "adamw" else 2 * l2
    parts: list[dict[str, object]] = []
    for group, multiplier in rows.items():
        if multiplier is None:
            continue
        bound = {id(p) for p in penalized(groups[group])} if l2 or name == "adamw" else set()
        for decays in (True, False):
            chosen = [p for p in groups[group].parameters() if (id(p) in bound) == decays]
            if chosen:
                rate = lr * multiplier
                parts.append(
                    {"params": chosen, "lr": rate, "initial_lr": rate, "weight_decay": decay if decays else 0.0}
                )
    if name == "sgd":
        return torch.optim.SGD(parts, lr=lr, momentum=MOMENTUM, fused=True)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parts, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)


def schedule(name: str, step: int, steps: int) -> float:
    """What multiplies every group's rate at a step: 0 to 1.

    ``cosine`` rises linearly over the first tenth and falls to 0 along half a cosine
    (https://arxiv.org/abs/1608.03983, equation 5, without restarts); ``constant`` is 1.

    Args:
        name: one of `SCHEDULES`.
        step: from 0.
        steps: of the whole phase.
    """
    if name == "constant":
        return 1.0
    rising = warm_up(name, steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def warm_up(name: str, steps: int) -> int:
    """Steps of a phase in which a schedule's rate rises; see `schedule`."""
    return 0 if name == "constant" else max(1, round(WARMUP * steps))


def set_rates(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Give each group its own rate times the schedule's multiplier."""
    for part in optimizer.param_groups:
        part["lr"] = part["initial_lr"] * multiplier


def penalized(module: nn.Module) -> Iterator[torch.Tensor]:
    """Kernels of convolutions, kernels and biases of dense layers: what `topgraft.models.spec.Backbone.l2` is about."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            yield layer.weight
        elif isinstance(layer, nn.Linear):
            yield from layer.parameters()


def penalty(groups: Mapping[str, nn.Module], rows: Mapping[str, float | None], l2: float) -> float:
    """l2·Σw² over the penalized parameters of the groups that train: the part of the loss that no image makes."""
    if not l2:
        return 0.0
    trained = [groups[name] for name, multiplier in rows.items() if multiplier is not None]
    with torch.no_grad():
        return l2 * sum(float(p.square().sum()) for group in trained for p in penalized(group))
