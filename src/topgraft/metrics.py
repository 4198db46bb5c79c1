"""Numbers of an evaluation, with their uncertainty. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from topgraft.system.formatting import counted, percent, share
from topgraft.system.reprs import Grid, Overview, Shown


def confused(metrics: Metrics) -> list[str]:
    """The three most frequent confusions: ``ant taken for bee (3)``."""
    names = [row.name for row in metrics.classes]
    pairs = (
        (count, names[truth], names[answer])
        for truth, row in enumerate(metrics.confusion)
        for answer, count in enumerate(row)
        if count and truth != answer
    )
    return [f"{truth} taken for {answer} ({count:,})" for count, truth, answer in nlargest(3, pairs)]


def metrics(this: Metrics, label: str = "") -> Overview:
    """Accuracies with their intervals, and a row for each class."""
    grid = Grid(
        ("class", "precision", "recall", "F1", "images"),
        this.classes,
        lambda r: (r.name, *("–" if v is None else share(v) for v in (r.precision, r.recall, r.f1)), f"{r.n:,}"),
        "classes",
    )
    facts = {
        "top-1": percent(asdict(this.top1)),
        "top-5": "" if this.top5 is None else percent(asdict(this.top5)),
        "log loss": f"{this.log_loss:.3f}, expected calibration error {this.ece:.3f} ({this.ece_bins} bins)",
        "confused": "; ".join(confused(this)),
    }
    return Overview(f"Metrics on {counted(this.n, 'image')}{label}", facts, (grid,))


Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


ECE_BINS = 15  # Guo et al., On Calibration of Modern Neural Networks (2017), section 2


_SMALLEST = np.finfo(np.float64).tiny


def wilson(k: int, n: int) -> Interval:
    """A proportion k/n with its 95 % score interval.

    Source: Wilson (1927), as written in Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion
    (Statistical Science, 2001), equation 4. With n = 0 nothing is known: value 0, interval 0 to 1.

    Raises:
        ValueError: k is negative or larger than n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a proportion")
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    p, z2 = k / n, Z_95 * Z_95
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives 0 or 1 up to rounding; the value lies inside its interval in every case.
    return Interval(p, 0.0 if k == 0 else max(0.0, center - half), 1.0 if k == n else min(1.0, center + half), n)


def paired_loss(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Difference:
    """How much of a proportion is lost from `before` to `after`, two booleans of each of the same images.

    The interval is the 95 % adjusted Wald interval for matched pairs, which adds half an image to each of the four
    cells: Wald+2 of Agresti and Min, Simple improved confidence intervals for comparing matched proportions (Statistics
    in Medicine, 2005), as in http://users.stat.ufl.edu/~aa/cda/R/matched/R2_matched/index.html. With no images nothing
    is known: value 0, interval -1 to 1.

    Raises:
        ValueError: arrays of different lengths.
    """
    if before.shape != after.shape:
        raise ValueError(f"{len(before)} and {len(after)} answers are not pairs")
    n = len(before)
    if n == 0:
        return Difference(0.0, -1.0, 1.0, 0)
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    total = n + 2
    center = (lost - gained) / total
    half = Z_95 * math.sqrt((lost + gained + 1) / total - center * center) / math.sqrt(total)
    return Difference((lost - gained) / n, max(-1.0, center - half), min(1.0, center + half), n)


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
    """Images whose true class is among the k best. Of equal logits the lower class comes first."""
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    return int((ahead.sum(axis=1) < k).sum())


def right(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image's best class is its own; of equal logits the lower class is the best."""
    result: NDArray[np.bool_] = logits.argmax(axis=1) == labels
    return result


_STEEPEST = 1e4  # bound of the inverse temperature: with all images right the log loss falls for ever


_NEWTON = 100


def inverse_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64], *, cautious: bool = False) -> float:
    """The factor on the logits that makes their log loss least; from 0 to 1e4.

    Temperature scaling (Guo et al., 2017, section 4.2). In the factor the loss is convex: Newton's method between
    bounds that close in.

    Args:
        cautious: where every answer is right, no factor is high enough, though n images cannot say that of the next.
            So the true class counts as (n + 1)/(n + 2), and the others share the rest, as Platt has it (Probabilistic
            Outputs for Support Vector SvmPath, 1999, section 2.2).
    """
    x = np.asarray(logits, dtype=np.float64)
    n, classes = x.shape
    own = x[np.arange(n), labels]
    if cautious:
        own = ((n + 1) * own + (x.sum(axis=1) - own) / (classes - 1)) / (n + 2)
    low, high, factor = 0.0, _STEEPEST, 1.0
    for _ in range(_NEWTON):
        p = softmax(factor * x)
        mean = (p * x).sum(axis=1)
        slope = float((mean - own).mean())
        low, high = (factor, high) if slope < 0 else (low, factor)
        curvature = float(((p * x * x).sum(axis=1) - mean * mean).mean())
        step = factor - slope / curvature if curvature > 0 else math.inf
        new = step if low < step < high else (low + high) / 2
        if abs(new - factor) <= 1e-9 * (1 + factor):
            break
        factor = new
    return factor


def scaled_log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """`log_loss` at the temperature that makes it least, on the same images."""
    return log_loss(inverse_temperature(logits, labels) * np.asarray(logits, dtype=np.float64), labels)


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over equal-width bins of confidence.

    Source: Guo et al. (2017), equation 3. Bins are open below and closed above.
    """
    answers = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(labels)), answers]
    correct = (answers == labels).astype(np.float64)
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(number, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def confusion_matrix(answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """classes×classes counts: row the true class, column the answer."""
    counts = np.bincount(labels * classes + answers, minlength=classes * classes)
    result: NDArray[np.int64] = counts.reshape(classes, classes).astype(np.int64)
    return result


def measure(logits: NDArray[np.floating], labels: NDArray[np.int64], classes: Sequence[str]) -> Metrics:
    """All numbers of an evaluation.

    Args:
        logits: n×classes, finite; n at least 1.
        labels: n, each from 0 to classes - 1.
        classes: names, in label order.

    Raises:
        ValueError: shapes or labels that do not fit, no image at all, or logits that are not finite.
    """
    n = len(labels)
    if n == 0 or logits.shape != (n, len(classes)):
        raise ValueError(f"logits of shape {logits.shape} do not fit {n} labels and {len(classes)} classes")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must lie between 0 and {len(classes) - 1}")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite")
    probabilities = softmax(logits)
    confusion = confusion_matrix(logits.argmax(axis=1), labels, len(classes))
    return Metrics(
        n=n,
        top1=wilson(hits(logits, labels, 1), n),
        top5=wilson(hits(logits, labels, 5), n) if len(classes) > 5 else None,
        log_loss=log_loss(logits, labels),
        ece=calibration_error(probabilities, labels),
        ece_bins=ECE_BINS,
        classes=tuple(_report(name, k, confusion) for k, name in enumerate(classes)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _report(name: str, k: int, confusion: NDArray[np.int64]) -> ClassReport:
    right, answered, there = int(confusion[k, k]), int(confusion[:, k].sum()), int(confusion[k].sum())
    return ClassReport(
        name=name,
        precision=right / answered if answered else None,
        recall=right / there if there else None,
        f1=2 * right / (answered + there) if answered + there else None,
        n=there,
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A proportion with its 95 % Wilson score interval; all three are fractions of 1."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two proportions of the same `n` images with its 95 % interval; all three are fractions of 1."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ClassReport:
    """Precision, recall and F1 of one class (fractions of 1; None where undefined) and its images."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    n: int


@dataclass(frozen=True, repr=False)
class Metrics(Shown, overview=metrics):
    """The numbers of one evaluation, each with its n.

    `top5` is None with five classes or fewer. `ece` is the expected calibration error over `ece_bins`
    equal-width bins of the top probability; `log_loss` is in nats. Neither has an interval.
    `confusion[i][j]` counts images of class i that were answered j.
    """

    n: int
    top1: Interval
    top5: Interval | None
    log_loss: float
    ece: float
    ece_bins: int
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
