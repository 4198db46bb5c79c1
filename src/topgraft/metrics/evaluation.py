"""The numbers of an evaluation in one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from topgraft.system.formatting import counted, percent, share
from topgraft.system.reprs import Grid, Overview, Shown

from .intervals import Interval, wilson
from .probabilities import ECE_BINS, calibration_error, hits, log_loss, softmax


def confused(metrics: Metrics) -> list[str]:
    """The three most frequent confusions, as ``ant taken for bee (3)``."""
    names = [row.name for row in metrics.classes]
    pairs = (
        (count, names[truth], names[answer])
        for truth, row in enumerate(metrics.confusion)
        for answer, count in enumerate(row)
        if count and truth != answer
    )
    return [f"{truth} taken for {answer} ({count:,})" for count, truth, answer in nlargest(3, pairs)]


def metrics_overview(this: Metrics, label: str = "") -> Overview:
    """Accuracies with their intervals, and one row for each class."""
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


def confusion_matrix(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts, classes×classes: the row is the true class, the column the predicted class."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    result: NDArray[np.int64] = counts.reshape(classes, classes).astype(np.int64)
    return result


def evaluate_logits(logits: NDArray[np.floating], labels: NDArray[np.int64], classes: Sequence[str]) -> Metrics:
    """Accuracy, log loss, calibration error, confusion matrix and a report for each class.

    Args:
        logits: n×classes, finite; n at least 1.
        labels: n, each from 0 to classes - 1.
        classes: names, in label order.

    Raises:
        ValueError: shapes or labels that do not fit, no images, or logits that are not finite.
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
    correct, predicted, images = int(confusion[k, k]), int(confusion[:, k].sum()), int(confusion[k].sum())
    return ClassReport(
        name=name,
        precision=correct / predicted if predicted else None,
        recall=correct / images if images else None,
        f1=2 * correct / (predicted + images) if predicted + images else None,
        n=images,
    )


@dataclass(frozen=True)
class ClassReport:
    """Precision, recall and F1 of one class (fractions of 1; None where undefined) and its images."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    n: int


@dataclass(frozen=True, repr=False)
class Metrics(Shown, overview=metrics_overview):
    """The numbers of one evaluation.

    `top5` is None for five classes or fewer. `ece` is the expected calibration error over `ece_bins`
    equal-width bins of the top probability; `log_loss` is in nats. Neither has an interval.
    `confusion[i][j]` counts images of class i that are predicted as class j.
    """

    n: int
    top1: Interval
    top5: Interval | None
    log_loss: float
    ece: float
    ece_bins: int
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
