"""Normalize pooled features before a linear head: square root, length, deviation, and a bound on every feature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.system.threads import aligned

NORMALIZATIONS: tuple[str, ...] = ("standard", "length", "root")
"""Names of the normalizations, the simplest first; see `fit_normalization`."""

ROWS = 8192  # rows handled at a time: bounds what a copy of features needs

SHRINKAGE = 0.1
"""Share of the mean variance in the variance that a feature of ``standard`` is divided by. A feature that is nearly
constant in training otherwise has a deviation near zero, and a new photo can lie 40,000 deviations away. Its effect on
accuracy is flat from 0.1 to 0.5 (benchmarks/few_photos.py)."""

DOUBLE = 1_000_000  # numbers in the feature matrix up to which all is computed in float64
NEVER = -30.0  # logit of a class without training images: e⁻³⁰

_ANY = 1e30  # a length that no row has
_TINY = 1e-12
_SLOPE = 0.01  # of the mean absolute feature: below it the root is nearly linear, so that its slope stays finite


class FeatureNorm(nn.Module):
    """``radius · t / max(‖t‖, shortest)`` with ``t = x / √(root · |x| + offset)``, for each row x of N×d.

    With root 1 and a small offset, t is the signed square root; with 0 and 1 it is x itself. With a `shortest` near 0
    every row has the length `radius` afterwards; with `shortest` equal to `radius` only longer rows are shortened.
    In every case no feature of the result is larger than `radius`, however large x is.

    Attributes:
        root, offset, shortest, radius: float32 numbers. As made here every row passes unchanged.
    """

    root: torch.Tensor
    offset: torch.Tensor
    shortest: torch.Tensor
    radius: torch.Tensor

    def __init__(self, root: float = 0.0, offset: float = 1.0, shortest: float = _ANY, radius: float = _ANY) -> None:
        super().__init__()
        values = {"root": root, "offset": offset, "shortest": shortest, "radius": radius}
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×d in, N×d out, in float32, or in float64 where x is."""
        x = x if x.dtype == torch.float64 else x.float()
        t = x * torch.rsqrt(self.root * x.abs() + self.offset)
        length = torch.linalg.vector_norm(t, dim=1, keepdim=True)
        y: torch.Tensor = t * (self.radius / length.clamp_min(self.shortest))
        return y


class NormalizedLinear(nn.Linear):
    """A dense layer on normalized features; its state has the keys of a plain one, and those of ``norm``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.norm = FeatureNorm()
        self.train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, N×classes, of features N×d."""
        return super().forward(self.norm(x))


@dataclass(frozen=True, eq=False)
class Normalization:
    """A normalization fitted to features: a layer, and then z = (y - mean) / deviation of each feature y of its result.

    Attributes:
        name: one of `NORMALIZATIONS`.
        layer: what comes before the head.
        mean, deviation: float64, d; a head on z becomes one on y by `on_layer`.
    """

    name: str
    layer: FeatureNorm
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def blocks(self, features: NDArray[np.float32], kind: torch.dtype = torch.float64) -> Iterator[torch.Tensor]:
        """z of features n×d, some thousand rows at a time."""
        mean, deviation = torch.from_numpy(self.mean), torch.from_numpy(self.deviation)
        for block in _blocks(features, self.layer):
            yield block.sub_(mean).div_(deviation).to(kind)

    def on_layer(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights …×classes×d and biases …×classes on z as those on what the layer gives."""
        scaled = weight / self.deviation
        return scaled, bias - scaled @ self.mean


@dataclass(frozen=True, eq=False)
class Heads:
    """Linear heads on the features that one layer gives.

    Attributes:
        weight: float64, heads×classes×d.
        bias: float64, heads×classes.
        layer: what comes before them.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    layer: FeatureNorm

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """heads×n×classes of raw features n×d."""
        count, classes, width = self.weight.shape
        stacked = torch.from_numpy(self.weight.reshape(count * classes, width)).float().T
        blocks = (aligned(torch.from_numpy(features[i : i + ROWS])) for i in range(0, len(features), ROWS))
        parts = [(self.layer(block) @ stacked).double() for block in blocks]
        flat = torch.cat(parts).numpy().reshape(len(features), count, classes)
        result: NDArray[np.float64] = flat.transpose(1, 0, 2) + self.bias[:, None, :]
        return result


def fit_normalization(name: str, features: NDArray[np.float32]) -> Normalization:
    """Fit a normalization to features.

    - ``standard``: each feature is centered and divided by its deviation, as scikit-learn's StandardScaler does, with
      the variance shrunken toward the mean one by `SHRINKAGE`. Rows longer than the longest here are shortened to it.
    - ``length``: each row is divided by its length (scikit-learn's Normalizer), and features are centered (Wang et al.,
      SimpleShot, 2019, section 3, https://arxiv.org/abs/1911.04623, divide after centering).
    - ``root``: the same after the signed square root of every feature (Perronnin, Sánchez and Mensink, Improving the
      Fisher kernel for large-scale image classification, 2010, sections 3.1 and 3.2).

    The last two divide by one deviation for all features, so that the mean variance of z is 1, as it nearly is with
    the first, and one strength of regularization means the same for all.

    Args:
        name: one of `NORMALIZATIONS`.
        features: float32 n×d, left as they are.
    """
    length, size = 0.0, 0.0
    longest = 0.0
    for block in _blocks(features, None):
        lengths = torch.linalg.vector_norm(block, dim=1)
        length += float((lengths**2).sum())
        size += float(block.abs().sum())
        longest = max(longest, float(lengths.max()))
    typical = max((length / len(features)) ** 0.5, _TINY)
    if name == "standard":
        radius = np.nextafter(np.float32(max(longest, _TINY)), np.float32(np.inf))  # the longest row is left as it is
        layer = FeatureNorm(shortest=float(radius), radius=float(radius))
    elif name == "length":
        layer = FeatureNorm(shortest=_TINY * typical, radius=typical)
    else:
        offset = max(_SLOPE * size / features.size, _TINY)
        layer = FeatureNorm(root=1.0, offset=offset, shortest=_TINY * typical**0.5, radius=typical)
    mean, variance = _moments(features, layer)
    common = float(variance.mean())
    if common <= 0:
        deviation = np.ones(len(mean))
    elif name == "standard":
        deviation = np.sqrt((1 - SHRINKAGE) * variance + SHRINKAGE * common)
    else:
        deviation = np.full(len(mean), np.sqrt(common))
    return Normalization(name, layer, mean, deviation)


def _blocks(features: NDArray[np.float32], layer: FeatureNorm | None) -> Iterator[torch.Tensor]:
    """The features, or what the layer makes of them, in float64."""
    for i in range(0, len(features), ROWS):
        block = torch.from_numpy(features[i : i + ROWS]).double()
        yield block if layer is None else layer(block)


def _moments(features: NDArray[np.float32], layer: FeatureNorm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each feature of what the layer gives."""
    mean = torch.zeros(features.shape[1], dtype=torch.float64)
    square = torch.zeros_like(mean)
    for block in _blocks(features, layer):
        mean += block.sum(0) / len(features)
        square += (block * block).sum(0) / len(features)
    # In float64 what this difference loses of float32 features is far below what shrinkage adds.
    variance = (square - mean * mean).clamp_min(0.0)
    return mean.numpy(), variance.numpy()
