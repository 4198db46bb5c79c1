"""The head on cached features: regularised multinomial logistic regression, a whole path of strengths at once.

For each strength C the convex problem is the one of scikit-learn's ``LogisticRegression``:
sum of losses + ‖W‖²/2C on standardised features, the intercept free. Two classes are one logistic regression there
(``‖w‖²`` of one vector w with logits 0 and w·x); as two rows ±w/2 the same penalty is 2‖W‖²/2C.

How it is solved. Features are centred, scaled and rotated to their principal axes; the penalty does not change under
rotation, the Hessian becomes nearly diagonal, and with fewer images than features the problem shrinks to the rank.
`topgraft.solver` then follows the whole path from strong to weak, each solution leading to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from . import metrics
from .defaults import FOLDS, SELECTION_MINIMUM, STRENGTHS
from .memory import aligned
from .solver import ROWS, minimise

_DOUBLE = 1_000_000  # numbers in the feature matrix up to which all is computed in float64
_RANK = 1e-10  # principal axes with less than this share of the largest variance are rounding, and carry nothing


@dataclass(frozen=True, eq=False)
class HeadPath:
    """Solutions at every strength, in units of the raw features.

    Attributes:
        strengths: C, ascending.
        weight: float64, strengths×classes×features.
        bias: float64, strengths×classes.
        decrement: estimate of how far each objective is from its minimum, per image.
        converged: whether each reached the tolerance.
        iterations: of L-BFGS, over all strengths.
    """

    strengths: tuple[float, ...]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    decrement: tuple[float, ...]
    converged: tuple[bool, ...]
    iterations: int

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """strengths×n×classes of raw features n×d."""
        count, classes, width = self.weight.shape
        stacked = torch.from_numpy(self.weight.reshape(count * classes, width)).float().T
        blocks = (aligned(torch.from_numpy(features[i : i + ROWS])) for i in range(0, len(features), ROWS))
        parts = [(block @ stacked).double() for block in blocks]
        flat = torch.cat(parts).numpy().reshape(len(features), count, classes)
        result: NDArray[np.float64] = flat.transpose(1, 0, 2) + self.bias[:, None, :]
        return result


@dataclass(frozen=True)
class StrengthRecord:
    """One strength tried: log losses in nats; `correct` of the images that selected."""

    strength: float
    train_log_loss: float
    log_loss: float
    correct: int


@dataclass(frozen=True, eq=False)
class HeadChoice:
    """The head that was chosen.

    Attributes:
        weight, bias: float32, classes×features and classes, in units of the raw features.
        strength: its C.
        selected_by: ``validation`` or ``out-of-fold``.
        selection_images: images that selected.
        records: one for each strength, ascending.
        right: of each image that selected, whether the chosen strength answers it right: the validation images, or
            train and then validation.
        scaled_loss: their log loss at the best temperature.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strength: float
    selected_by: str
    selection_images: int
    records: tuple[StrengthRecord, ...]
    right: NDArray[np.bool_]
    scaled_loss: float


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
    class_weight: str | None = None,
) -> HeadPath:
    """Solve the head for every strength.

    Args:
        features: float32 n×d, raw; left as they are. One more matrix of that size is made.
        labels: int64, n, each below `classes`. A class without images gets weights of 0 and a very low bias.
        classes: at least 2.
        strengths: C, ascending, each above 0 and no two equal.
        class_weight: None, or ``balanced``.
    """
    width = features.shape[1]
    kind = torch.float64 if features.size <= _DOUBLE else torch.float32
    mean = features.mean(axis=0, dtype=np.float64)
    scale = _deviation(features, mean)
    there = np.unique(labels)
    place = np.zeros(classes, dtype=np.int64)
    place[there] = np.arange(len(there))
    coordinates, axes = _principal(features, mean, scale, kind)
    sample_weight = None
    if class_weight == "balanced":
        sample_weight = torch.from_numpy(class_weights(labels, classes)[labels]).to(kind)
    # Two classes: see the module's text on the penalty.
    penalty = [(2.0 if len(there) == 2 else 1.0) / c for c in strengths]
    solved = minimise(coordinates, torch.from_numpy(place[labels]), len(there), penalty, sample_weight)
    rotated = solved.weight.double().numpy() @ axes.T / scale  # strengths×there×d
    weight = np.zeros((len(strengths), classes, width))
    bias = np.full((len(strengths), classes), -30.0)  # e⁻³⁰: never the answer
    weight[:, there] = rotated
    bias[:, there] = solved.bias.double().numpy() - rotated @ mean
    return HeadPath(
        tuple(strengths),
        weight,
        bias,
        tuple(float(x) for x in solved.decrement),
        tuple(bool(x) for x in solved.converged),
        solved.iterations,
    )


def choose_head(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    val_features: NDArray[np.float32],
    val_labels: NDArray[np.int64],
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    class_weight: str | None = None,
    refit: bool = False,
    seed: int = 0,
) -> HeadChoice:
    """Solve the path on train and keep the strength with the lowest selection log loss, the stronger on ties.

    With 200 validation images or more, they select. With fewer, out-of-fold predictions over train and
    validation together do; each fold has its own feature statistics. The head is solved on train alone unless `refit`.

    Args:
        seed: of the assignment to folds.
    """
    path = solve_path(train_features, train_labels, classes, strengths, class_weight=class_weight)
    train_losses = [metrics.log_loss(logits, train_labels) for logits in path.logits(train_features)]
    both = labels_both = None
    if len(val_labels) < SELECTION_MINIMUM or refit:
        both = np.concatenate([train_features, val_features])
        labels_both = np.concatenate([train_labels, val_labels])
    if len(val_labels) >= SELECTION_MINIMUM:
        selected_by, logits, truth = "validation", path.logits(val_features), val_labels
    else:
        assert both is not None
        assert labels_both is not None
        selected_by, truth = "out-of-fold", labels_both
        logits = _out_of_fold(both, labels_both, classes, strengths, class_weight, seed)
    losses = [metrics.log_loss(at, truth) for at in logits]
    best = int(np.argmin(losses))
    if refit:
        assert both is not None
        assert labels_both is not None
        path = solve_path(both, labels_both, classes, strengths, class_weight=class_weight)
    return HeadChoice(
        weight=path.weight[best].astype(np.float32),
        bias=path.bias[best].astype(np.float32),
        strength=path.strengths[best],
        selected_by=selected_by,
        selection_images=len(truth),
        records=tuple(
            StrengthRecord(c, train_losses[i], losses[i], metrics.hits(logits[i], truth, 1))
            for i, c in enumerate(path.strengths)
        ),
        right=metrics.right(logits[best], truth),
        scaled_loss=metrics.scaled_log_loss(logits[best], truth),
    )


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


def _out_of_fold(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
    class_weight: str | None,
    seed: int,
) -> NDArray[np.float64]:
    assigned = folds(labels, FOLDS, seed)
    logits = np.zeros((len(strengths), len(labels), classes))
    for fold in np.unique(assigned):
        out = assigned == fold
        if len(np.unique(labels[~out])) < 2:  # nothing to tell apart: uniform predictions stand
            continue
        path = solve_path(features[~out], labels[~out], classes, strengths, class_weight=class_weight)
        logits[:, out] = path.logits(features[out])
    return logits


def _deviation(features: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of each feature as scikit-learn's StandardScaler has it: 1 where a feature is constant."""
    total = np.zeros(features.shape[1])
    for i in range(0, len(features), ROWS):
        total += ((features[i : i + ROWS] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(total / len(features))
    constant = deviation <= 10 * np.finfo(np.float32).eps * np.abs(mean)
    return np.where(constant, 1.0, deviation)


def _principal(
    features: NDArray[np.float32], mean: NDArray[np.float64], scale: NDArray[np.float64], kind: torch.dtype
) -> tuple[torch.Tensor, NDArray[np.float64]]:
    """Standardised features in the coordinates of their principal axes, n×r, and the axes, d×r (orthonormal)."""
    n, width = features.shape
    centre, spread = torch.from_numpy(mean), torch.from_numpy(scale)

    def standard(i: int) -> torch.Tensor:
        return (torch.from_numpy(features[i : i + ROWS]).double() - centre) / spread

    if n < width:
        z = standard(0) if n <= ROWS else torch.cat([standard(i) for i in range(0, n, ROWS)])
        values, vectors = torch.linalg.eigh(z @ z.T)
        kept = values > _RANK * values[-1].clamp_min(1e-30)
        root = values[kept].sqrt()
        axes = z.T @ (vectors[:, kept] / root)
        return (vectors[:, kept] * root).to(kind), axes.numpy()
    gram = torch.zeros(width, width, dtype=torch.float64)
    for i in range(0, n, ROWS):
        z = standard(i).to(kind)
        gram += (z.T @ z).double()
    # Any orthonormal axes give the same problem, and axes that are nearly principal are as quick. So float32 does,
    # and none is left out: an axis without variance costs nothing but its column.
    axes = torch.linalg.eigh(gram.to(kind))[1].double()
    coordinates = torch.empty(n, axes.shape[1], dtype=kind)
    turn = axes.to(kind)
    for i in range(0, n, ROWS):
        coordinates[i : i + ROWS] = standard(i).to(kind) @ turn
    return coordinates, axes.numpy()
