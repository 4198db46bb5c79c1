"""The blocks of ResNet: convolutions whose result is added to their input."""

from __future__ import annotations

import torch
from torch import nn

from .layers import named
from .resnet_weights import Form

EXPANSION = 4  # a bottleneck's output is four times as wide


def conv_norm(channels_in: int, channels_out: int, kernel: int, stride: int, form: Form) -> nn.Sequential:
    """Convolution, and BatchNorm if the form has it. N×C×H×W in, N×C'×⌈H/stride⌉×⌈W/stride⌉ out."""
    layers = named(conv=nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=form.bias))
    if form.norm:
        layers.add_module("norm", nn.BatchNorm2d(channels_out, form.epsilon, form.momentum))
    return layers


def conv_norm_act(channels_in: int, channels_out: int, kernel: int, stride: int, form: Form) -> nn.Sequential:
    """`conv_norm` and ReLU."""
    layers = conv_norm(channels_in, channels_out, kernel, stride, form)
    layers.add_module("act", nn.ReLU(inplace=True))
    return layers


class Residual(nn.Module):
    """ReLU of a branch plus its input, the latter through a convolution where the shapes differ."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block."""
        y: torch.Tensor = self.act(self.branch(x) + self.shortcut(x))
        return y


def branch(channels_in: int, width: int, stride: int, form: Form) -> nn.Sequential:
    """What a block adds to its input. The last convolution has no ReLU: that comes after the sum."""
    if not form.bottleneck:
        return named(
            first=conv_norm_act(channels_in, width, 3, stride, form), second=conv_norm(width, width, 3, 1, form)
        )
    early, late = (stride, 1) if form.early_stride else (1, stride)
    return named(
        reduce=conv_norm_act(channels_in, width, 1, early, form),
        filter=conv_norm_act(width, width, 3, late, form),
        expand=conv_norm(width, EXPANSION * width, 1, 1, form),
    )
