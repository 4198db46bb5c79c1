"""Per-image logits and labels, and the metrics made of them. Tensors become arrays only here and in `predict`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from . import metrics
from .classifier import Classifier
from .memory import aligned
from .records import Evaluation, Sample, SplitName, Unreadable


def head_logits(classifier: Classifier, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits, n×classes float32, of feature rows n×width, in float32 whatever made the rows."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = classifier.head.float()(aligned(torch.from_numpy(rows))).numpy()
    return logits


def evaluate(
    classifier: Classifier,
    rows: NDArray[np.float32],
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    split: SplitName,
    *,
    used_for_selection: bool,
    unreadable: tuple[Unreadable, ...] = (),
    seen: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    where: str = "",
) -> Evaluation:
    """Results on samples that are labelled and whose feature rows are given, in the same order."""
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    logits = head_logits(classifier, rows)
    return Evaluation(
        split=split,
        used_for_selection=used_for_selection,
        names=tuple(sample.name for sample in samples),
        logits=logits,
        labels=labels,
        classes=classes,
        metrics=metrics.measure(logits, labels, classes),
        unreadable=unreadable,
        seen=seen,
        notes=notes,
        where=where,
    )
