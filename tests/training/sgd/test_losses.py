"""Targets and their loss are PyTorch's own, where PyTorch has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from topgraft.training.sgd.losses import mix, soft_cross_entropy, soft_targets

LABELS = torch.tensor([0, 2, 1, 1, 2, 2])
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 3
WEIGHTS = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_softened_labels_are_those_of_pytorch(smoothing: float) -> None:
    ours = soft_cross_entropy(LOGITS, soft_targets(LABELS, 3, smoothing=smoothing))
    torch.testing.assert_close(ours, nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))


def test_class_weights_are_those_of_pytorch() -> None:
    ours = soft_cross_entropy(LOGITS, soft_targets(LABELS, 3, weights=WEIGHTS))
    torch.testing.assert_close(ours, nn.functional.cross_entropy(LOGITS, LABELS, weight=WEIGHTS.float()))


def test_softened_and_weighed_each_image_counts_as_its_class_does() -> None:
    """PyTorch weighs each class that a label is spread over instead; here the weight is the image's."""
    ours = soft_cross_entropy(LOGITS, soft_targets(LABELS, 3, smoothing=0.2, weights=WEIGHTS))
    each = nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.2, reduction="none")
    own = WEIGHTS.float()[LABELS]
    torch.testing.assert_close(ours, (own * each).sum() / own.sum())


def test_the_loss_is_exact_in_whatever_the_logits_come() -> None:
    targets = soft_targets(LABELS, 3)
    half = LOGITS.bfloat16()
    assert soft_cross_entropy(half, targets).dtype == torch.float32
    torch.testing.assert_close(
        soft_cross_entropy(half, targets), soft_cross_entropy(half.float(), targets), rtol=0, atol=0
    )
    assert soft_cross_entropy(LOGITS.double(), targets).dtype == torch.float64


def test_mixed_images_and_their_targets_are_the_same_mixture() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 2, 2, 3)
    targets = soft_targets(torch.arange(6), 6, weights=torch.ones(6))
    mixed, found = mix(images, targets, 0.4, np.random.default_rng(0))
    assert mixed.dtype == torch.float32
    # Image k is the number k, and class k, so that the mean over classes is the image.
    torch.testing.assert_close(found.shares @ torch.arange(6.0), mixed[:, 0, 0, 0])
    torch.testing.assert_close(found.shares.sum(1), torch.ones(6))
    assert found.total == targets.total
    assert not torch.equal(mixed, images.float())


def test_mixing_is_its_generators_and_keeps_the_mean() -> None:
    images, targets = torch.randn(64, 5), soft_targets(torch.arange(64) % 4, 4)
    one, other = (mix(images, targets, 0.3, np.random.default_rng([7, 1])) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1].shares, other[1].shares)
    torch.testing.assert_close(one[0].mean(0), images.mean(0))
    assert not torch.equal(one[0], mix(images, targets, 0.3, np.random.default_rng([7, 2]))[0])


def test_the_share_is_that_of_a_beta_distribution() -> None:
    """Mean ½ and variance 1/(4(2α + 1)), seen through the larger entry of two that are mixed."""
    images, targets = torch.tensor([[0.0], [1.0]]), soft_targets(torch.tensor([0, 1]), 2)
    generator, alpha = np.random.default_rng(0), 0.4
    found = np.array([float(mix(images, targets, alpha, generator)[0][1, 0]) for _ in range(4000)])
    swapped_or_not = found[found < 1]  # the order is drawn too: half of the time an image meets itself
    assert len(swapped_or_not) == pytest.approx(2000, abs=150)
    assert swapped_or_not.mean() == pytest.approx(0.5, abs=0.03)
    assert swapped_or_not.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)
