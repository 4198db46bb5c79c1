from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from topgraft.models.backbones.layers import (
    Conv2dReLU,
    LinearReLU,
    LocalResponseNorm,
    SameConv2d,
    cut_max_pool,
    named,
    same_padding,
    windows,
)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_tensorflows_definition(kernel: int, stride: int) -> None:
    for size in range(1, 40):
        outputs = math.ceil(size / stride)
        total = max((outputs - 1) * stride + kernel - size, 0)
        before, after = same_padding(size, kernel, stride)
        assert (before, after) == (total // 2, total - total // 2)
        assert (size + before + after - kernel) // stride + 1 == outputs


def test_an_odd_zero_goes_after() -> None:
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(225, 3, 2) == (1, 1)
    assert same_padding(112, 5, 2) == (1, 2)
    assert same_padding(8, 1, 2) == (0, 0)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 7), (7, 8), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (1, 2), (3, 2), (5, 2), (7, 2)])
def test_same_convolution_pads_then_convolves(height: int, width: int, kernel: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = SameConv2d(4, 6, kernel, stride, groups=2)
    x = torch.randn(2, 4, height, width, generator=generator)
    top, bottom = same_padding(height, kernel, stride)
    left, right = same_padding(width, kernel, stride)
    padded = torch.zeros(2, 4, top + height + bottom, left + width + right)
    padded[:, :, top : top + height, left : left + width] = x
    expected = F.conv2d(padded, layer.weight, layer.bias, stride, groups=2)
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))


def test_named_keeps_names_and_order() -> None:
    layers = named(second=torch.nn.ReLU(), first=torch.nn.Flatten())
    assert [name for name, _ in layers.named_children()] == ["second", "first"]


def test_layers_with_their_relu() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution, dense = Conv2dReLU(3, 4, 3, padding=1), LinearReLU(6, 5)
    x, y = torch.randn(2, 3, 5, 5, generator=generator), torch.randn(2, 6, generator=generator)
    plain = F.conv2d(x, convolution.weight, convolution.bias, padding=1)
    assert (plain < 0).any()
    assert torch.equal(convolution(x), plain.clamp(min=0))
    assert torch.equal(dense(y), F.linear(y, dense.weight, dense.bias).clamp(min=0))
    assert list(convolution.state_dict()) == list(dense.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_response_normalization_is_pytorchs_with_another_alpha(size: int) -> None:
    x = 10 * torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = nn.LocalResponseNorm(size, alpha=0.3 * size, beta=0.6, k=1.5)(x)
    torch.testing.assert_close(LocalResponseNorm(size, alpha=0.3, beta=0.6, k=1.5)(x), expected)


@pytest.mark.parametrize("side", range(1, 9))
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (1, 1, 0), (5, 1, 2), (3, 3, 1)])
def test_windows_are_what_a_pool_gives(side: int, kernel: int, stride: int, padding: int) -> None:
    x = torch.arange(float(side * side)).reshape(1, 1, side, side)
    if side + 2 * padding >= kernel:
        assert F.max_pool2d(x, kernel, stride, padding).shape[2] == windows(side, kernel, stride, padding)
    pool = cut_max_pool(side, kernel, stride)
    if side >= kernel:
        assert torch.equal(pool(x), F.max_pool2d(x, kernel, stride))
    else:
        assert torch.equal(pool(x), x.amax((2, 3), keepdim=True))


def test_response_norm_is_pytorchs_with_alpha_for_the_sum() -> None:
    x = 10 * torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    found = LocalResponseNorm(5, alpha=0.2, beta=0.75, k=2.0)(x)
    torch.testing.assert_close(found, F.local_response_norm(x, 5, alpha=5 * 0.2, beta=0.75, k=2.0))
    middle = x[:, 3] / (2 + 0.2 * x[:, 1:6].square().sum(1)) ** 0.75
    torch.testing.assert_close(found[:, 3], middle)
