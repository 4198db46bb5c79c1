"""The head on cached features: the best of several normalizations, and of two ways to solve, by out-of-fold loss.

Regularized multinomial logistic regression. For each strength C the convex problem is the one of scikit-learn's
``LogisticRegression``: sum of losses + ‖W‖²/2C on normalized features, the intercept free. Two classes are one logistic
regression there (``‖w‖²`` of one vector w with logits 0 and w·x); as two rows ±w/2 the same penalty is 2‖W‖²/2C.
Features are rotated to their principal axes; the penalty does not change under rotation, the Hessian becomes nearly
diagonal, and with fewer images than features the problem shrinks to the rank. `topgraft.training.head.lbfgs` then
follows the whole
path from strong to weak, each solution leading to the next.

Discriminants with a shrunken covariance: `topgraft.training.head.discriminant`. They are better with few images of a
class, and
logistic regression with many (docs/decisions/0006-the-head-on-few-photos.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.models.normalization import DOUBLE, NEVER, FeatureNorm, Heads, Normalization, fit_normalization
from topgraft.strategies.defaults import STRENGTHS

from .discriminant import SHRINKAGES, solve_discriminants
from .lbfgs import minimize

_RANK = 1e-10  # principal axes with less than this share of the largest variance are rounding, and carry nothing


@dataclass(frozen=True, eq=False)
class HeadPath(Heads):
    """Logistic regressions at every strength.

    Attributes:
        strengths: C, ascending; one head each.
        decrement: estimate of how far each objective is from its minimum, per image.
        converged: whether each reached the tolerance.
        iterations: of L-BFGS, over all strengths.
    """

    strengths: tuple[float, ...]
    decrement: tuple[float, ...]
    converged: tuple[bool, ...]
    iterations: int


@dataclass(frozen=True)
class HeadSettings:
    """How a head is solved: by one of `topgraft.models.normalization.NORMALIZATIONS`, and then in one of two ways.

    Attributes:
        normalization: of the features; empty where the head takes them as they are.
        strength: C of a logistic regression, or of machines; None for a discriminant.
        shrinkage: γ of a discriminant; None for the others.
        temperature: what the logits are divided by.
    """

    normalization: str
    strength: float | None = None
    shrinkage: float | None = None
    temperature: float = 1.0


@dataclass(frozen=True, eq=False)
class Head:
    """A solved head: weight classes×features and bias classes, float32, on what `layer` makes of the features."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    layer: FeatureNorm | None = None

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """n×classes of raw features n×d."""
        if self.layer is not None:
            features = self.layer(torch.from_numpy(features)).numpy()
        result: NDArray[np.float32] = features @ self.weight.T + self.bias
        return result


def class_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """``balanced`` as scikit-learn has it: n / (classes that occur × images of the class); 0 where there are none."""
    counts = np.bincount(labels, minlength=classes)
    there = counts > 0
    return np.where(there, len(labels) / (there.sum() * np.maximum(counts, 1)), 0.0)


def solve_path(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    normalization: str = "standard",
    class_weight: str | None = None,
) -> HeadPath:
    """Solve the logistic regression for every strength.

    Args:
        features: float32 n×d, raw; left as they are. One more matrix of that size is made.
        labels: int64, n, each below `classes`. A class without images gets weights of 0 and a very low bias.
        classes: at least 2.
        strengths: C, ascending, each above 0 and no two equal.
        normalization: one of `topgraft.models.normalization.NORMALIZATIONS`.
        class_weight: None, or ``balanced``.
    """
    kind = torch.float64 if features.size <= DOUBLE else torch.float32
    normalized = fit_normalization(normalization, features)
    present, place = np.unique(labels, return_inverse=True)
    coordinates, axes = _principal(features, normalized, kind)
    sample_weight = None
    if class_weight == "balanced":
        sample_weight = torch.from_numpy(class_weights(labels, classes)[labels]).to(kind)
    # Two classes: see the module's text on the penalty.
    penalty = [(2.0 if len(present) == 2 else 1.0) / c for c in strengths]
    solved = minimize(coordinates, torch.from_numpy(place), len(present), penalty, sample_weight)
    weight = np.zeros((len(strengths), classes, features.shape[1]))
    bias = np.full((len(strengths), classes), NEVER)
    weight[:, present], bias[:, present] = normalized.on_layer(
        solved.weight.double().numpy() @ axes.T, solved.bias.double().numpy()
    )
    return HeadPath(
        weight,
        bias,
        normalized.layer,
        tuple(strengths),
        tuple(float(x) for x in solved.decrement),
        tuple(bool(x) for x in solved.converged),
        solved.iterations,
    )


def solve_discriminant_heads(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    normalization: str = "root",
    class_weight: str | None = None,
) -> Heads:
    """Solve the discriminants for every one of `topgraft.training.head.discriminant.SHRINKAGES`; see `solve_path`
    for the arguments.

    A class is as probable as it is frequent; ``balanced`` makes all of them alike.
    """
    counts = np.bincount(labels, minlength=classes)
    balanced = class_weight == "balanced"
    prior = (counts > 0) / (counts > 0).sum() if balanced else counts / counts.sum()
    weights = class_weights(labels, classes) if balanced else None
    normalized = fit_normalization(normalization, features)
    return solve_discriminants(features, labels, classes, normalized, prior=prior, weights=weights)


def solve_head(
    settings: HeadSettings,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    class_weight: str | None = None,
) -> Head:
    """Solve one head in the way that another one was; see `solve_path` for the arguments."""
    if settings.shrinkage is not None:
        heads = solve_discriminant_heads(
            features, labels, classes, normalization=settings.normalization, class_weight=class_weight
        )
        return pick(heads, SHRINKAGES.index(settings.shrinkage), settings.temperature)
    assert settings.strength is not None
    path = solve_path(
        features,
        labels,
        classes,
        (settings.strength,),
        normalization=settings.normalization,
        class_weight=class_weight,
    )
    return pick(path, 0, settings.temperature)


def pick(heads: Heads, index: int, temperature: float = 1.0) -> Head:
    """One of the heads, its logits divided by a temperature; a class without images stays as unlikely as it is."""
    bias = np.where(heads.bias[index] == NEVER, NEVER, heads.bias[index] / temperature)
    return Head((heads.weight[index] / temperature).astype(np.float32), bias.astype(np.float32), heads.layer)


def folds(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """A fold for each image, stratified: each class is shuffled and dealt out in turn."""
    generator = np.random.default_rng(seed)
    assigned = np.empty(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        assigned[generator.permutation(where)] = (start + np.arange(len(where))) % count
        start += len(where)  # classes with one image go to different folds
    return assigned


def _principal(
    features: NDArray[np.float32], normalized: Normalization, kind: torch.dtype
) -> tuple[torch.Tensor, NDArray[np.float64]]:
    """Normalized features in the coordinates of their principal axes, n×r, and the axes, d×r (orthonormal)."""
    n, width = features.shape
    if n < width:
        z = torch.cat(list(normalized.blocks(features)))
        values, vectors = torch.linalg.eigh(z @ z.T)
        kept = values > _RANK * values[-1].clamp_min(1e-30)
        root = values[kept].sqrt()
        axes = z.T @ (vectors[:, kept] / root)
        return (vectors[:, kept] * root).to(kind), axes.numpy()
    gram = torch.zeros(width, width, dtype=torch.float64)
    for z in normalized.blocks(features, kind):
        gram += (z.T @ z).double()
    # Any orthonormal axes give the same problem, and axes that are nearly principal are as quick. So float32 does,
    # and none is left out: an axis without variance costs nothing but its column.
    axes = torch.linalg.eigh(gram.to(kind))[1].double()
    coordinates, turn = torch.empty(n, axes.shape[1], dtype=kind), axes.to(kind)
    start = 0
    for z in normalized.blocks(features, kind):
        torch.mm(z, turn, out=coordinates[start : start + len(z)])
        start += len(z)
    return coordinates, axes.numpy()
