"""Random weights have the distribution that they are said to have."""

from __future__ import annotations

import math

import pytest
import torch

from topgraft.models.backbones.init import cut_normal


@pytest.mark.parametrize("deviation", [1.0, 0.02])
def test_a_cut_normal_has_the_quantiles_of_one(deviation: float) -> None:
    count = 1_000_000
    values = torch.empty(count)
    cut_normal(values, deviation, torch.Generator().manual_seed(0))
    assert values.abs().max() <= 2 * deviation * (1 + 1e-5)  # rounding
    inside = math.erf(math.sqrt(2))
    for bound in (-1.9, -1.0, -0.3, 0.0, 0.7, 1.5, 1.99):
        expected = 0.5 + 0.5 * math.erf(bound / math.sqrt(2)) / inside
        share = (values <= bound * deviation).double().mean().item()
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / count), bound
    # The share of the variance that is left, by which Keras divides.
    assert values.double().std().item() == pytest.approx(0.87962566103423978 * deviation, rel=0.003)


def test_a_cut_normal_comes_from_its_generator_alone() -> None:
    first, second, other = torch.empty(3, 100)
    state = torch.get_rng_state()
    cut_normal(first, 1.0, torch.Generator().manual_seed(1))
    cut_normal(second, 1.0, torch.Generator().manual_seed(1))
    cut_normal(other, 1.0, torch.Generator().manual_seed(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_parameter_that_trains_can_be_drawn() -> None:
    parameter = torch.nn.Parameter(torch.zeros(10))
    cut_normal(parameter, 1.0, torch.Generator().manual_seed(0))
    assert parameter.requires_grad
    assert parameter.abs().max() > 0
