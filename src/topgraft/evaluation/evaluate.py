"""Per-image logits and labels, and the metrics made of them. Tensors become arrays only here and in `predict`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.data.samples import Sample, SplitName, Unreadable
from topgraft.models.classifier import Classifier
from topgraft.system.threads import aligned

from .results import Evaluation


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
    before_refit: NDArray[np.float32] | None = None,
) -> Evaluation:
    """Results on samples that are labeled and whose feature rows are given, in the same order.

    Args:
        before_refit: logits of the same samples, n×classes, by the head before it was fitted to them too; they are
            evaluated then.
    """
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    logits = head_logits(classifier, rows) if before_refit is None else before_refit.astype(np.float32)
    return Evaluation(
        split=split,
        used_for_selection=used_for_selection,
        names=tuple(sample.name for sample in samples),
        logits=logits,
        labels=labels,
        classes=classes,
        metrics=metrics.evaluate_logits(logits, labels, classes),
        unreadable=unreadable,
        seen=seen,
        notes=notes,
        where=where,
        before_refit=before_refit is not None,
    )
