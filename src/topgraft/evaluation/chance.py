"""Compare a model with always answering the largest class, on the same images. NumPy only."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.strategies.history import EpochRecord, unpack
from topgraft.system.formatting import SPLIT_LABELS

from .results import Evaluation

SIGNIFICANT = 0.05
"""Two-sided p-value above which a model is not clearly better: what the 95 % intervals next to it stand for."""


@dataclass(frozen=True)
class LargestClass:
    """A model against always answering the largest class of the images that judge it.

    Attributes:
        name: class with the most images; the first of equal ones.
        share: fraction of the images that are of it, which is the accuracy of always answering it.
        n: images.
        gained: images that the model alone answers right.
        lost: images that always answering the largest class alone answers right.
        p: two-sided p-value of McNemar's exact test, 0 to 1.
        better: whether the model is clearly better; None where the images are so few that no model could be.
        message: what a user should be told; empty where the model is clearly better.
    """

    name: str
    share: float
    n: int
    gained: int
    lost: int
    p: float
    better: bool | None
    message: str


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test.

    If two classifiers are equally good, each image that only one of them answers right is as likely to be the one's as
    the other's: a binomial with probability 1/2 (McNemar, Psychometrika, 1947; the exact form as in Agresti,
    Categorical Data Analysis, section 10.1.4).

    Args:
        gained, lost: images that only the first, and only the second, answers right.
    """
    n = gained + lost
    term = tail = 1
    for k in range(min(gained, lost)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, float(2 * tail / 2**n))  # whole numbers of any size until here


def against_largest_class(
    right: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[str], images: str, where: str
) -> LargestClass:
    """Compare answers with always answering the largest class.

    Args:
        right: whether the model answers each image right; at least one.
        labels: label of each.
        classes: names, in label order.
        images: what they are, for the message: ``validation images``.
        where: their source, as the user gave it; empty or ``arrays`` where there is no path.
    """
    n, counts = len(labels), np.bincount(labels, minlength=len(classes))
    largest = int(counts.argmax())
    constant = labels == largest
    gained, lost = int((right & ~constant).sum()), int((constant & ~right).sum())
    p, others = mcnemar(gained, lost), n - int(counts[largest])
    better: bool | None = gained > lost and p <= SIGNIFICANT
    name, share = classes[largest], int(counts[largest]) / max(n, 1)
    look = "tg.survey" if where in ("", "arrays") else f"topgraft data {shlex.quote(where)}"
    message = ""
    if not n:
        better, message = None, f"there are no {images} to judge the model by. Add photos, and look at them: {look}"
    elif mcnemar(others, 0) > SIGNIFICANT:
        better = None
        message = (
            f"{n:,} {images}, {others:,} of them not {name}, are too few to tell whether the model is better than "
            f"always answering {name}. Add photos, and look at what is there: {look}"
        )
    elif not better:
        message = (
            f"the model is not clearly better than always answering {name}: it is right for {100 * right.mean():.1f} % "
            f"of {n:,} {images}, and {100 * share:.1f} % are {name} (McNemar's exact test, p = {p:.2g}). "
            f"Look for wrong labels, classes that look alike, and classes with few photos: {look}"
        )
    return LargestClass(name, share, n, gained, lost, p, better, message)


def judged(result: Evaluation) -> LargestClass:
    """Compare the answers of an evaluation with always answering the largest class."""
    right = result.logits.argmax(axis=1) == result.labels
    images = f"{SPLIT_LABELS[result.split]} images"
    return against_largest_class(right, result.labels, result.classes, images, result.where)


def judged_out_of_fold(
    records: Sequence[EpochRecord],
    selection: Mapping[str, Any],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    where: str,
) -> LargestClass | None:
    """Compare the out-of-fold answers that selected with always answering the largest class; None without such.

    Args:
        records: of the fit.
        selection: see `topgraft.training.loop.Outcome`.
        labels: of the training and then the validation images that could be read.
        classes, where: see `against_largest_class`.
    """
    if selection["by"] != "out-of-fold":
        return None
    epoch = selection.get("epoch", 0)
    for record in reversed(records):
        tried = record.folds if epoch else record.chosen
        if tried and (record.name, record.epoch) == (selection["phase"], epoch):
            right = unpack(record.hits, len(labels))
            images = "images, each judged out of fold"
            return against_largest_class(right, labels, classes, images, where)
    return None


def as_config(out_of_fold: LargestClass | None, validation: Evaluation | None) -> dict[str, Any]:
    """The comparison for a fit's config: on all images, where they selected out of fold; else on validation's."""
    found = out_of_fold or (None if validation is None else judged(validation))
    return {"largest_class": None if found is None else asdict(found)}


def warned(message: str) -> list[str]:
    """The message as lines before a headline: none where there is nothing to say."""
    return [f"warning: {message}"] if message else []
