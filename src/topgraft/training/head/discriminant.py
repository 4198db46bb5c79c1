"""Linear discriminants with a shrunken covariance, for every shrinkage at once: a head for few images.

The classes are normal distributions with one covariance (1 - γ)·S + γ·(tr S / d)·I, where S is the covariance within
classes: scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=γ)``. With γ = 1 an image is answered by
the nearest class mean (Snell, Swersky and Zemel, Prototypical networks, 2017, section 2.2,
https://arxiv.org/abs/1703.05175). Source of the shrinkage: Ledoit and Wolf, A well-conditioned estimator for
large-dimensional covariance matrices (Journal of Multivariate Analysis, 2004). The optimum there is one of the matrix;
here γ is chosen by what it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.models.normalization import DOUBLE, NEVER, Heads, Normalization

SHRINKAGES: tuple[float, ...] = (1.0, 0.99, 0.96, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.02)
"""γ, the strongest first. Near 1 the answers change fast: each step there takes the covariance about twice as
seriously. Around 0.5 and below they hardly do."""

_NONE = 1e-9  # of the variance: less within the classes is rounding


def solve_discriminants(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    normalization: Normalization,
    *,
    prior: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> Heads:
    """Solve for every one of `SHRINKAGES`.

    Args:
        features: float32 n×d, raw.
        labels: int64, n, each below `classes`. A class without images gets weights of 0 and a very low bias.
        classes: at least 2.
        normalization: fitted to these features.
        prior: probability of each class; above 0 where the class occurs.
        weights: of the classes in the covariance, or None for ones.

    Returns:
        the heads, in the order of `SHRINKAGES`. Where no two images are of one class, S is the identity.
    """
    present, place = np.unique(labels, return_inverse=True)
    shares = np.ones(len(labels)) if weights is None else weights[labels]
    roots = torch.from_numpy(np.sqrt(shares / shares.sum()))
    one_hot = torch.from_numpy(np.eye(len(present))[place])
    means = torch.zeros(len(present), features.shape[1], dtype=torch.float64)
    for start, z in _numbered(normalization.blocks(features)):
        means += one_hot[start : start + len(z)].T @ z
    means /= one_hot.sum(0)[:, None]

    def within() -> Iterator[torch.Tensor]:
        for start, z in _numbered(normalization.blocks(features)):
            yield z.sub_(means[place[start : start + len(z)]]).mul_(roots[start : start + len(z), None])

    values, axes = _eigen(within(), features.shape)
    common = float(values.sum()) / features.shape[1]
    if common <= _NONE:
        values, axes, common = values[:0], axes.none(), 1.0
    floors = torch.tensor(SHRINKAGES, dtype=torch.float64)[:, None] * common
    extra = 1 / ((1 - floors / common) * values + floors) - 1 / floors
    solved = means / floors[:, :, None] + axes.back(axes.along(means) * extra[:, None])
    offsets = -(solved * means).sum(2).numpy() / 2 + np.log(prior[present])
    weight = np.zeros((len(SHRINKAGES), classes, features.shape[1]))
    bias = np.full((len(SHRINKAGES), classes), NEVER)
    weight[:, present], bias[:, present] = normalization.on_layer(solved.numpy(), offsets)
    return Heads(weight, bias, normalization.layer)


def _numbered(blocks: Iterator[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks of rows, each with the number of its first row."""
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


@dataclass(frozen=True, eq=False)
class _Axes:
    """Orthonormal axes ``rows.T @ turn``, d×r, that need not be multiplied out: rows n×d or None for 1, turn n×r."""

    rows: torch.Tensor | None
    turn: torch.Tensor

    def along(self, x: torch.Tensor) -> torch.Tensor:
        """Coordinates of x, …×d, along them, …×r."""
        return (x if self.rows is None else x @ self.rows.T) @ self.turn

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """What has these coordinates."""
        turned = x @ self.turn.T
        return turned if self.rows is None else turned @ self.rows

    def none(self) -> _Axes:
        """No axes."""
        return _Axes(self.rows, self.turn[:, :0])


def _eigen(blocks: Iterator[torch.Tensor], shape: tuple[int, ...]) -> tuple[torch.Tensor, _Axes]:
    """Eigenvalues of the sum of row times row, r, and their axes; where n < d those that are not 0."""
    n, width = shape
    if n < width:
        rows = torch.cat(list(blocks))
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        kept = values > _NONE * values[-1].clamp_min(_NONE)
        return values[kept], _Axes(rows, vectors[:, kept] / values[kept].sqrt())
    kind = torch.float64 if n * width <= DOUBLE else torch.float32
    gram = torch.zeros(width, width, dtype=torch.float64)
    for rows in blocks:
        gram += (rows.to(kind).T @ rows.to(kind)).double()
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0.0), _Axes(None, vectors)
