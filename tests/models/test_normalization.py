"""Normalizations: what passes, what is bounded, and what a gradient meets on its way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from topgraft.models.normalization import NORMALIZATIONS, FeatureNorm, NormalizedLinear, fit_normalization

FEATURES = np.abs(np.random.default_rng(0).normal(size=(30, 12))).astype(np.float32)
FEATURES[:, 3] = 0.0  # a feature that no training image has
FEATURES[:, 4] = 1e-4 * FEATURES[:, 4]


def test_a_new_layer_lets_everything_pass() -> None:
    assert torch.equal(FeatureNorm()(torch.from_numpy(FEATURES)), torch.from_numpy(FEATURES))


def test_standard_leaves_training_rows_as_they_are_and_shortens_longer_ones() -> None:
    layer = fit_normalization("standard", FEATURES).layer
    x = torch.from_numpy(FEATURES)
    torch.testing.assert_close(layer(x), x)
    lengths = layer(5 * x).norm(dim=1)
    assert (lengths <= layer.radius * (1 + 1e-6)).all()
    assert lengths.max() == pytest.approx(float(layer.radius))


@pytest.mark.parametrize("name", ["length", "root"])
def test_the_others_give_every_row_one_length_near_that_of_training_rows(name: str) -> None:
    layer = fit_normalization(name, FEATURES).layer
    lengths = layer(torch.from_numpy(FEATURES)).norm(dim=1)
    expected = float(np.sqrt((FEATURES.astype(np.float64) ** 2).sum(1).mean()))
    torch.testing.assert_close(lengths, torch.full((30,), expected))


def test_root_is_the_signed_square_root_where_features_are_not_tiny() -> None:
    layer = fit_normalization("root", FEATURES).layer
    x = torch.tensor([[4.0, -9.0, 16.0]])
    y = layer(x)
    torch.testing.assert_close(y / y[0, 0], torch.tensor([[1.0, -1.5, 2.0]]), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalized_training_features_have_mean_0_and_a_mean_variance_of_1(name: str) -> None:
    z = torch.cat(list(fit_normalization(name, FEATURES).blocks(FEATURES)))
    torch.testing.assert_close(z.mean(0), torch.zeros(12, dtype=torch.float64), atol=1e-9, rtol=0)
    variance = float(z.var(0, unbiased=False).mean())
    assert 0.7 < variance < 1.1 if name == "standard" else variance == pytest.approx(1.0)


def test_a_feature_that_hardly_varies_in_training_moves_little_elsewhere() -> None:
    normalized = fit_normalization("standard", FEATURES)
    new = FEATURES[:1].copy()
    new[0, 3] = 1.0  # 0 in training: with a deviation of 0 it would count for nothing, or for everything
    (z,) = normalized.blocks(new)
    assert abs(float(z[0, 3])) < 10


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("factor", [1e3, 1e30])
def test_no_feature_exceeds_the_radius_whatever_the_photo(name: str, factor: float) -> None:
    layer = fit_normalization(name, FEATURES).layer
    x = torch.from_numpy(FEATURES)
    one = x.clone()
    one[:, 5] *= factor
    for scaled in (factor * x, one, -factor * x, 0 * x):
        y = layer(scaled)
        assert torch.isfinite(y).all()
        assert (y.abs() <= layer.radius * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_gradients_are_finite_at_zero_and_right_elsewhere(name: str) -> None:
    layer = fit_normalization(name, FEATURES).layer
    x = torch.from_numpy(FEATURES).requires_grad_()
    torch.manual_seed(0)
    (layer(x) * torch.randn(30, 12)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    zero = torch.zeros(2, 12, requires_grad=True)
    layer(zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
    some = (0.5 + torch.from_numpy(FEATURES[:3])).double().requires_grad_()
    assert torch.autograd.gradcheck(layer.double(), some)


def test_constant_features_are_no_error() -> None:
    for name in NORMALIZATIONS:
        for value in (0.0, 2.5):
            normalized = fit_normalization(name, np.full((4, 3), value, np.float32))
            z = torch.cat(list(normalized.blocks(np.full((4, 3), value, np.float32))))
            torch.testing.assert_close(z, torch.zeros(4, 3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_normalized_layer_is_a_dense_one_with_more_in_its_state() -> None:
    plain = nn.Linear(12, 3)
    made = NormalizedLinear(plain)
    x = torch.from_numpy(FEATURES)
    torch.testing.assert_close(made(x), plain(x))
    assert set(made.state_dict()) == {*plain.state_dict(), *(f"norm.{k}" for k in FeatureNorm().state_dict())}
    assert [name for name, _ in made.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_it_is_exported_with_its_layer(name: str) -> None:
    made = NormalizedLinear(nn.Linear(12, 3)).eval()
    made.norm.load_state_dict(fit_normalization(name, FEATURES).layer.state_dict())
    x = torch.from_numpy(FEATURES)
    program = torch.export.export(made, (x,))
    torch.testing.assert_close(program.module()(1000 * x), made(1000 * x))
