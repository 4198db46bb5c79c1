"""Layers that PyTorch does not have and several backbones share."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one side of `size` pixels, as TensorFlow's "same" padding puts them.

    TensorFlow makes ``ceil(size / stride)`` outputs and so needs
    ``(ceil(size / stride) - 1) * stride + kernel - size`` zeros, which is ``kernel - 1 - (size - 1) % stride``.
    An odd zero goes after: 3×3 at stride 2 on an even side pads (0, 1), where PyTorch's ``padding=1`` would
    move the sampling grid by one pixel.
    Source: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2

    Plain arithmetic on `size` without a branch on it, so that tracing and export may pass a symbolic size.
    """
    total = kernel - 1 - (size - 1) % stride
    if kernel < stride:  # pixels between the windows are skipped, not padded
        total = max(total, 0)
    before = total // 2
    return before, total - before


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: N×C×H×W to N×C'×⌈H/stride⌉×⌈W/stride⌉.

    Its parameters are those of ``nn.Conv2d``. `kernel` is odd where `stride` is 1.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = True
    ) -> None:
        # At stride 1 the padding is the same for all sizes and symmetric, and the convolution does it itself.
        super().__init__(
            channels_in, channels_out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=bias
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad where the stride makes the padding depend on the size, then convolve."""
        return super().forward(self.pad(x))

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """The zeros that the convolution does not put there itself."""
        return x if self.stride[0] == 1 else F.pad(x, self.margins(x))

    def margins(self, x: torch.Tensor) -> tuple[int, int, int, int]:
        """How many zeros those are: left, right, top and bottom of x."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return 0, 0, 0, 0
        top, bottom = same_padding(x.shape[2], kernel, stride)
        left, right = same_padding(x.shape[3], kernel, stride)
        return left, right, top, bottom


class Conv2dReLU(nn.Conv2d):
    """A convolution and its ReLU, ``max(0, x)``, as the one layer that Keras counts. Parameters of ``nn.Conv2d``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, then cut at 0; N×C×H×W in, N×C'×H'×W' out."""
        return F.relu(super().forward(x), inplace=True)  # the convolution's own result is not needed


class LinearReLU(nn.Linear):
    """A dense layer and its ReLU, ``max(0, x)``, as the one layer that Keras counts. Parameters of ``nn.Linear``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, then cut at 0; N×C in, N×C' out."""
        return F.relu(super().forward(x), inplace=True)


class LocalResponseNorm(nn.Module):
    """Local response normalization: b_i = a_i / (k + α · Σ a_j²)^β, the sum over the `size` channels j around i.

    Beyond the first and the last channel there is nothing to add. Here α multiplies the sum. ``nn.LocalResponseNorm``
    and Caffe multiply the mean over `size`: their α is `size` times as large for the same result. PyTorch's layer
    also branches on its input, which tracing refuses.
    Source: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks,
    section 3.3.

    Args:
        size: odd.
        alpha, beta, k: see above.
    """

    def __init__(self, size: int, *, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize; N×C×H×W in and out."""
        depth, around = (self.size, 1, 1), (self.size // 2, 0, 0)  # channels taken for the depth of a volume
        mean = F.avg_pool3d((x * x).unsqueeze(1), depth, stride=1, padding=around).squeeze(1)
        return x / (self.k + self.alpha * self.size * mean) ** self.beta


def windows(side: int, kernel: int, stride: int, padding: int = 0) -> int:
    """How many windows fit on one side of a map: its side after a convolution or a pool without ceil mode."""
    return (side + 2 * padding - kernel) // stride + 1


def cut_max_pool(side: int, kernel: int, stride: int) -> nn.MaxPool2d:
    """A max-pool for a map of `side` values a side whose window is never larger than the map.

    ``nn.MaxPool2d`` refuses a map smaller than its window; cut to the map, the window gives the one largest value.
    On a map of at least `kernel` it is ``nn.MaxPool2d(kernel, stride)``.
    """
    return nn.MaxPool2d(min(kernel, side), stride)


def named(**layers: nn.Module) -> nn.Sequential:
    """``nn.Sequential`` whose layers have names: ``named(conv=…, norm=…)``."""
    return nn.Sequential(OrderedDict(layers))


class SameMaxPool2d(nn.MaxPool2d):
    """A max-pool with TensorFlow's "same" padding: N×C×H×W to N×C×⌈H/stride⌉×⌈W/stride⌉.

    Only values of the map count: the padding is −∞.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad, then pool."""
        kernel, stride = int(self.kernel_size), int(self.stride)  # type: ignore[arg-type]  # one number each here
        top, bottom = same_padding(x.shape[2], kernel, stride)
        left, right = same_padding(x.shape[3], kernel, stride)
        y: torch.Tensor = super().forward(F.pad(x, (left, right, top, bottom), value=float("-inf")))
        return y


class Add(nn.Module):
    """The sum of two tensors of one shape, as a layer."""

    def forward(self, branch: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """Add."""
        return branch + shortcut


class GlobalAveragePool2d(nn.AdaptiveAvgPool2d):
    """The mean of each channel: N×C×H×W to N×C, in one layer as Keras has it."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and flatten."""
        return super().forward(x).flatten(1)
