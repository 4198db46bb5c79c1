"""The head as linear support vector machines, one against the rest, whose scores become logits by one temperature.

Each machine is scikit-learn's ``LinearSVC`` (liblinear, the squared hinge loss): ½‖w‖² + C·Σ max(0, 1 - y·s)² of
scores s = w·x + b. Scores say which side and how far, not how probable. Divided by the temperature that gives the
lowest log loss on the images that select, they do (Guo et al., On Calibration of Modern Neural Networks, 2017,
section 4.2); the temperature is then folded into the weights, so that the head is one Linear like any other.

With fewer images than features the problem is solved in as many coordinates as there are images: for the Gram matrix
XXᵀ = LLᵀ, rows of L have the inner products that rows of X have, and w = Xᵀ·L⁻ᵀ·v has the length of v.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.strategies.defaults import FOLDS, SELECTION_MINIMUM

from .logistic import Head, HeadSettings, folds
from .selection import HeadChoice, SelectionRecord

STRENGTHS: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)
"""C of the machines, for feature vectors of length 1. The log loss is flat over the span."""

_BIAS = 1.0  # liblinear's extra feature; its weight is the bias, and is penalized with the others
_ROUNDS = 1000  # of liblinear; what it may lack then changes no answer that is not a tie
_COLUMNS = 4096  # of the features that are in float64 at a time
_JITTER = 1e-9  # of the Gram matrix's mean diagonal: equal images would leave it singular
_NEVER = -10.0  # ten margins on the wrong side
_TEMPERATURES = (1e-3, 1e2)  # scores of SVMs lie around ±1


@dataclass(frozen=True, eq=False)
class SvmPath:
    """One machine for each class: weight classes×d, bias classes, float64. With two: see `solve_svm`."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """n×classes of features n×d."""
        product: NDArray[np.float64] = (features @ self.weight.T.astype(np.float32)).astype(np.float64)
        return product + self.bias


def solve_svm(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    class_weight: str | None = None,
    seed: int = 0,
) -> list[SvmPath]:
    """Solve the machines for every strength.

    Two classes are one machine with score s there; as two rows the scores are -s/2 and s/2. A class without images
    gets weights of 0 and a very low bias.

    Args:
        features: float32 n×d.
        labels: int64, n, each below `classes`; at least two of them occur.
        classes: at least 2.
        strengths: C, each above 0.
        class_weight: None, or ``balanced``.
        seed: of the order in which liblinear goes through the images.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    coordinates, back = _coordinates(features)
    there = np.unique(labels)
    solved = []
    for strength in strengths:
        machine = LinearSVC(
            C=strength,
            dual="auto",
            class_weight=class_weight,
            intercept_scaling=_BIAS,
            max_iter=_ROUNDS,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(coordinates, labels)
        found, bias = machine.coef_, machine.intercept_
        if len(there) == 2:
            found, bias = np.concatenate([-found, found]) / 2, np.concatenate([-bias, bias]) / 2
        weight = np.zeros((classes, features.shape[1]))
        biases = np.full(classes, _NEVER)
        weight[there], biases[there] = back(found), bias
        solved.append(SvmPath(weight, biases))
    return solved


def choose_svm(
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
    """Keep the strength whose scores, each at its best temperature, have the lowest selection log loss.

    Who selects is as in `topgraft.training.head.selection.choose_head`: 200 validation images or more, else
    out-of-fold scores over
    train and validation together. The machines are solved on train alone unless `refit`. The logits of the choice
    are scores divided by its temperature.
    """
    solved = solve_svm(train_features, train_labels, classes, strengths, class_weight=class_weight, seed=seed)
    both = np.concatenate([train_features, val_features])
    labels_both = np.concatenate([train_labels, val_labels])
    if len(val_labels) >= SELECTION_MINIMUM:
        selected_by, truth = "validation", val_labels
        scores = [machines.scores(val_features) for machines in solved]
    else:
        selected_by, truth = "out-of-fold", labels_both
        scores = _out_of_fold(both, labels_both, classes, strengths, class_weight, seed)
    temperatures = [best_temperature(at, truth) for at in scores]
    losses = [metrics.log_loss(at / t, truth) for at, t in zip(scores, temperatures, strict=True)]
    best = int(np.argmin(losses))
    records = tuple(
        SelectionRecord(
            HeadSettings("", strength=strength, temperature=temperatures[i]),
            metrics.log_loss(solved[i].scores(train_features) / temperatures[i], train_labels),
            losses[i],
            metrics.hits(scores[i], truth, 1),
        )
        for i, strength in enumerate(strengths)
    )
    kept = solved[best]
    if refit:
        one = strengths[best : best + 1]
        kept = solve_svm(both, labels_both, classes, one, class_weight=class_weight, seed=seed)[0]
    return HeadChoice(
        head=Head(
            (kept.weight / temperatures[best]).astype(np.float32), (kept.bias / temperatures[best]).astype(np.float32)
        ),
        settings=records[best].settings,
        selected_by=selected_by,
        selection_images=len(truth),
        records=records,
        right=metrics.is_correct(scores[best], truth),
        scaled_loss=losses[best],
    )


def best_temperature(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature in 0.001 … 100 at which ``softmax(scores / temperature)`` has the lowest log loss.

    Where every answer is right, no temperature is low enough, though n images cannot say that of the next. So the true
    class counts as (n + 1)/(n + 2), and the others share the rest, as Platt has it (Probabilistic Outputs for Support
    Vector SvmPath, 1999, section 2.2).

    The log loss is convex in 1/temperature, so that its one minimum is found by halving where its slope changes sign.
    """
    n, classes = scores.shape
    own = scores[np.arange(n), labels]
    others = (scores.sum(axis=1) - own) / (classes - 1)
    wanted = ((n + 1) * own + others) / (n + 2)

    def slope(inverse: float) -> float:
        return float(((metrics.softmax(scores * inverse) * scores).sum(axis=1) - wanted).mean())

    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / float(np.sqrt(low * high))


def _out_of_fold(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
    class_weight: str | None,
    seed: int,
) -> list[NDArray[np.float64]]:
    assigned = folds(labels, FOLDS, seed)
    scores = [np.zeros((len(labels), classes)) for _ in strengths]
    for fold in np.unique(assigned):
        out = assigned == fold
        if len(np.unique(labels[~out])) < 2:  # nothing to tell apart: equal scores stand
            continue
        solved = solve_svm(features[~out], labels[~out], classes, strengths, class_weight=class_weight, seed=seed)
        for at, machines in zip(scores, solved, strict=True):
            at[out] = machines.scores(features[out])
    return scores


_Back = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _coordinates(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], _Back]:
    """Coordinates with the features' inner products, n×min(n, d), and the way back for weights in them."""
    from scipy.linalg import solve_triangular

    n, width = features.shape
    if n >= width:
        return features.astype(np.float64), lambda found: found
    gram = np.zeros((n, n))
    for i in range(0, width, _COLUMNS):
        block = features[:, i : i + _COLUMNS].astype(np.float64)
        gram += block @ block.T
    gram[np.diag_indices(n)] += _JITTER * np.trace(gram) / n
    lower = np.asarray(np.linalg.cholesky(gram), dtype=np.float64)

    def back(found: NDArray[np.float64]) -> NDArray[np.float64]:
        mixed: NDArray[np.float64] = solve_triangular(lower, found.T, lower=True, trans="T").T  # classes×n
        return mixed @ features

    return lower, back
