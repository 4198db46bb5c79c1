"""What a step's logits are compared with: labels, softened, weighed and mixed as asked; and the loss of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Targets:
    """Shares of the classes for each image of a batch, times the weight of its class.

    Attributes:
        shares: float32, N×classes.
        total: sum of the weights; the loss is divided by it.
    """

    shares: torch.Tensor
    total: float


def soft_targets(
    labels: torch.Tensor, classes: int, *, smoothing: float = 0.0, weights: torch.Tensor | None = None
) -> Targets:
    """Targets of labels.

    Args:
        labels: int64, N.
        classes: columns.
        smoothing: share that is spread evenly over all classes (https://arxiv.org/abs/1512.00567, section 7).
        weights: of the classes, float, or None for 1 each.
    """
    shares = nn.functional.one_hot(labels, classes).float()
    if smoothing:
        shares = shares * (1 - smoothing) + smoothing / classes
    if weights is None:
        return Targets(shares, float(len(labels)))
    own = weights.to(shares)[labels]
    return Targets(shares * own[:, None], float(own.sum()))


def mix(
    images: torch.Tensor, targets: Targets, strength: float, generator: np.random.Generator
) -> tuple[torch.Tensor, Targets]:
    """Mixup (https://arxiv.org/abs/1710.09412, section 2): each image with another of the batch, one share for all.

    Args:
        images: N×…, pixels or activations; float32 comes out.
        targets: of them.
        strength: α of Beta(α, α), from which the share is drawn.
        generator: draws the share and the order.
    """
    share = float(generator.beta(strength, strength))
    order = torch.from_numpy(generator.permutation(len(images)))
    mixed = images.float().mul(share).add_(images[order].float(), alpha=1 - share)
    return mixed, Targets(share * targets.shares + (1 - share) * targets.shares[order], targets.total)


def soft_cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Mean cross-entropy in nats, each image with its class's weight; in float32 at least, whatever the logits are."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return -(targets.shares * nn.functional.log_softmax(exact, 1)).sum() / targets.total
