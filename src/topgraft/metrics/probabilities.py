"""Log loss, accuracy, calibration and temperature of logits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15  # Guo et al., On Calibration of Modern Neural Networks (2017), section 2


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log probabilities, n×classes, in float64."""
    x = np.asarray(logits, dtype=np.float64)
    x = x - x.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return result


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities, n×classes, in float64; each row sums to 1."""
    return np.exp(log_softmax(logits))


def log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean negative log probability of the true class, in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def hits(logits: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> int:
    """Number of images whose true class is among the k highest logits. Of equal logits the lower class is first."""
    true = logits[np.arange(len(labels)), labels][:, None]
    lower = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead = (logits > true) | ((logits == true) & lower)
    return int((ahead.sum(axis=1) < k).sum())


def is_correct(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the highest logit of each image is that of its true class; of equal logits the lower class wins."""
    result: NDArray[np.bool_] = logits.argmax(axis=1) == labels
    return result


_LARGEST_FACTOR = 1e4  # largest inverse temperature: if all images are correct, the log loss never stops falling
_NEWTON_STEPS = 100


def inverse_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64], *, cautious: bool = False) -> float:
    """The factor on the logits that minimizes their log loss, from 0 to 1e4.

    Temperature scaling (Guo et al., 2017, section 4.2). The loss is convex in the factor: Newton's method within
    shrinking bounds.

    Args:
        logits: n×classes.
        labels: n.
        cautious: if every prediction is correct, the plain loss has no minimum, although n images say less about the
            next one. With this the target of the true class is (n + 1)/(n + 2), and the other classes share the rest
            (Platt, Probabilistic Outputs for Support Vector Machines, 1999, section 2.2).
    """
    x = np.asarray(logits, dtype=np.float64)
    n, classes = x.shape
    true = x[np.arange(n), labels]
    if cautious:
        true = ((n + 1) * true + (x.sum(axis=1) - true) / (classes - 1)) / (n + 2)
    low, high, factor = 0.0, _LARGEST_FACTOR, 1.0
    for _ in range(_NEWTON_STEPS):
        p = softmax(factor * x)
        mean = (p * x).sum(axis=1)
        slope = float((mean - true).mean())
        low, high = (factor, high) if slope < 0 else (low, factor)
        curvature = float(((p * x * x).sum(axis=1) - mean * mean).mean())
        step = factor - slope / curvature if curvature > 0 else math.inf
        new = step if low < step < high else (low + high) / 2
        if abs(new - factor) <= 1e-9 * (1 + factor):
            break
        factor = new
    return factor


def scaled_log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """`log_loss` at the temperature that minimizes it on the same images."""
    return log_loss(inverse_temperature(logits, labels) * np.asarray(logits, dtype=np.float64), labels)


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal-width bins of confidence.

    Source: Guo et al. (2017), equation 3. Bins are open below and closed above.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(labels)), predicted]
    correct = (predicted == labels).astype(np.float64)
    bin_index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
