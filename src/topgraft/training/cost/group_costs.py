"""What each group costs on this machine, measured on a few images: the seconds that plans are made of."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.system.threads import freed_memory_kept, torch_threads
from topgraft.training.sgd.fused_conv import FusedConv2d, fold

_IMAGES = 4  # measured at a time: their activations stay in a processor's cache, as those of a step's parts do
_TIMES = 3  # of which the first warms up, and the fastest counts: others on the machine only make it slower


@dataclass(frozen=True, slots=True)
class GroupCost:
    """One group, for one image.

    Attributes:
        forward: seconds.
        backward: seconds, of all gradients.
        numbers: activations that it gives.
    """

    forward: float
    backward: float
    numbers: int


def measure_groups(
    classifier: Classifier, pixels: torch.Tensor, device: str, precision: str, batch_size: int
) -> dict[str, GroupCost]:
    """Run some images through the network, group by group, and back.

    Args:
        classifier: on the CPU, in evaluation mode; it is not changed.
        pixels: uint8 N×H×W×3; on a processor the first four are taken.
        device, precision, batch_size: as a phase steps with.
    """
    # A GPU takes as long for a few images as for a batch of them.
    count = min(_IMAGES, len(pixels)) if device == "cpu" else batch_size
    pixels = pixels[torch.arange(count) % len(pixels)]
    n = len(pixels)
    fastest: dict[str, tuple[float, float]] = {}
    numbers: dict[str, int] = {}
    twin = copy.deepcopy(classifier)
    rows: dict[str, float | None] = dict.fromkeys(twin.groups, 1.0)
    freeze.apply(dict(twin.groups.items()), rows)
    twin.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups: dict[str, nn.Module] = {"normalise": twin.normalise, **dict(twin.groups.items())}
    folded = fold(groups, rows, pixels[:2]) if device == "cpu" and precision == "fp32" else None
    # Steps on folded layers give each thread its part of the images; what one takes here, all take together.
    threads = torch.get_num_threads() if folded is not None else 1
    with freed_memory_kept(), torch_threads(torch.get_num_threads() // threads):
        for _ in range(_TIMES):
            if folded is not None:
                folded.fold()
            x = pixels.to(device)
            for name, group in (groups if folded is None else folded.groups).items():
                with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                    began = _now(device)
                    y = group(x)
                    middle = _now(device)
                # No further than to what came in, which is what the group below hands on.
                wanted = [*_trained(group), *([x] if x.grad_fn is not None else [])]
                if wanted:
                    torch.autograd.grad(y.sum(), wanted, retain_graph=True, allow_unused=True)
                ended = _now(device)
                forward, backward = fastest.get(name, (math.inf, math.inf))
                share = n * threads
                fastest[name] = min(forward, (middle - began) / share), min(backward, (ended - middle) / share)
                numbers[name] = y[0].numel()
                x = y
    first = next(iter(twin.groups))
    fastest[first] = (fastest[first][0] + fastest.pop("normalise")[0], fastest[first][1])
    return {name: GroupCost(forward, backward, numbers[name]) for name, (forward, backward) in fastest.items()}


def _trained(group: nn.Module) -> list[torch.Tensor]:
    """What a group's gradient is taken of: folded tensors where there are any, and parameters."""
    folded = [tensor for layer in group.modules() if isinstance(layer, FusedConv2d) for tensor in layer.tensors]
    return [*folded, *group.parameters()]


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def below(costs: Mapping[str, GroupCost], first: str) -> float:
    """Seconds of one image's forward pass through the groups before `first`."""
    return sum(cost.forward for cost in _part(costs, first)[0])


def above(costs: Mapping[str, GroupCost], first: str) -> tuple[float, float]:
    """Seconds of one image through `first` and all after it: forward and backward, and forward alone."""
    part = _part(costs, first)[1]
    return sum(cost.forward + cost.backward for cost in part), sum(cost.forward for cost in part)


def _part(costs: Mapping[str, GroupCost], first: str) -> tuple[Sequence[GroupCost], Sequence[GroupCost]]:
    at = list(costs).index(first)
    ordered = list(costs.values())
    return ordered[:at], ordered[at:]
