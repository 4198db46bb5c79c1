"""How random weights are drawn. Every number comes from the generator that is given; none from PyTorch's global one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from topgraft.models.spec import Chain

# A normal distribution cut at two deviations has this share of the deviation that it was cut from; Keras divides by
# it, so that the variance comes out as requested (keras/src/initializers/random_initializers.py, VarianceScaling).
_CUT_DEVIATION = 0.87962566103423978


def layers(chain: Chain) -> Iterator[nn.Conv2d | nn.Linear]:
    """Convolutions and dense layers of a chain, in its order."""
    for module in nn.ModuleDict(chain).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module


def zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Biases of 0, where the layer has any."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def cut_normal(tensor: torch.Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill a tensor with N(0, deviation²), cut at two deviations, by the inverse of its distribution function.

    One uniform number for each value: u from ±erf(√2) to deviation · √2 · erf⁻¹(u). PyTorch's ``trunc_normal_`` draws
    the whole tensor again until no value lies outside, about five times for a million values.
    """
    share = math.erf(math.sqrt(2))  # of a normal distribution within two deviations
    with torch.no_grad():
        tensor.uniform_(-share, share, generator=generator).erfinv_().mul_(deviation * math.sqrt(2))


def glorot_uniform(chain: Chain, generator: torch.Generator) -> None:
    """Kernels uniform within ±√(6 / (fan in + fan out)), biases 0: Keras's default.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks,
    https://proceedings.mlr.press/v9/glorot10a.html, equation 16.
    """
    for layer in layers(chain):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        zero_bias(layer)


def he_normal(chain: Chain, generator: torch.Generator) -> None:
    """Convolutions normal with variance 2 / fan in, cut at two deviations; dense kernels N(0, 0.01²); biases 0.

    Source: He et al., Delving deep into rectifiers, https://arxiv.org/abs/1502.01852, equation 10; the cut is
    Keras's ``he_normal``.
    """
    for layer in layers(chain):
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            deviation = math.sqrt(2 / fan_in) / _CUT_DEVIATION
            cut_normal(layer.weight, deviation, generator)
        else:
            nn.init.normal_(layer.weight, 0.0, 0.01, generator=generator)
        zero_bias(layer)


def he_fan_out(chain: Chain, generator: torch.Generator) -> None:
    """Convolutions normal with variance 2 / fan out; dense kernels N(0, 0.01²); biases 0: torchvision's.

    Source: He et al., equation 14; torchvision's ``models/vgg.py`` and ``models/resnet.py``.
    """
    for layer in layers(chain):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        else:
            nn.init.normal_(layer.weight, 0.0, 0.01, generator=generator)
        zero_bias(layer)


def uniform_fan_in(chain: Chain, generator: torch.Generator) -> None:
    """Kernels and biases uniform within ±1/√(fan in): what PyTorch does by default.

    Source: ``reset_parameters`` of ``nn.Conv2d`` and ``nn.Linear``, whose ``kaiming_uniform_`` with a = √5 comes to
    the same bound, https://github.com/pytorch/pytorch/blob/main/torch/nn/modules/linear.py
    """
    for layer in layers(chain):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        if layer.bias is not None:
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
