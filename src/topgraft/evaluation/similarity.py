"""How alike two networks' features of the same images are: linear CKA and mean cosine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.metrics import Interval

from .evaluate import head_logits
from .pretrained_reference import PretrainedReference


@dataclass(frozen=True)
class Similarity:
    """How alike the tuned base is to the original one on images that need no labels.

    Attributes:
        n: images.
        agreement: of the best answers under the original classifier, tuned against original base; None where the
            original has no classifier for these features. It is not an accuracy: the original may have been wrong.
        cosine: mean over the images of the cosine of their two feature vectors, -1 to 1; without interval.
        cka: linear CKA of the two sets of features, 0 to 1; see `linear_cka`. None where it is undefined.
    """

    n: int
    agreement: Interval | None
    cosine: float
    cka: float | None


def linear_cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float | None:
    """Linear CKA of two sets of features of the same images, n×d and n×e: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), columns centered.

    From 0 to 1; unchanged by rotation and by one scale for all features. None where all rows of a set are equal.
    With fewer images than features it is too high, and more so the fewer they are.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited (2019), section 3,
    https://arxiv.org/abs/1905.00414; norms are Frobenius's.
    """
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (x, y))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    # ‖YᵀX‖² is the inner product of XXᵀ and YYᵀ: whichever matrices are smaller.
    if len(x) < max(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        both, own, other = float((k * m).sum()), float(np.linalg.norm(k)), float(np.linalg.norm(m))
    else:
        both = float((np.square(y.T @ x)).sum())
        own, other = float(np.linalg.norm(x.T @ x)), float(np.linalg.norm(y.T @ y))
    if own == 0.0 or other == 0.0:
        return None
    return min(1.0, both / (own * other))


def mean_cosine(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Mean over rows of the cosine of x and y, both n×d; two vectors of zeros are alike, one is like no other."""
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (x, y))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    products = (x * y).sum(axis=1)
    same = (x == y).all(axis=1).astype(np.float64)
    return float(np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1.0), same).mean())


def similarity(original: PretrainedReference, before: NDArray[np.float32], after: NDArray[np.float32]) -> Similarity:
    """Compare features, n×d, n at least 1, of the original and of the tuned base on the same images."""
    agreement = None
    if original.answers:
        same = answers(original, before) == answers(original, after)
        agreement = metrics.wilson(int(same.sum()), len(same))
    return Similarity(len(before), agreement, mean_cosine(before, after), linear_cka(before, after))


def answers(original: PretrainedReference, rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """The original classifier's best output for each row of features; the lowest of equal ones."""
    assert original.classifier is not None
    best: NDArray[np.int64] = head_logits(original.classifier, rows).argmax(axis=1)
    return best
