"""How much of the original task a tuned base still does: its features under the published network's own classifier.

With labeled images of the original task that is an accuracy, before and after. Without them it is how often the
tuned base, under the original classifier, gives the original network's answer on the user's own images, and how alike
the two networks' features are. Both are said to be what they are: neither is an accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.data import overviews
from topgraft.data.samples import Sample, Unreadable, labels_of, unread
from topgraft.errors import DataError
from topgraft.features.engines.base import EngineChoice
from topgraft.features.extract import FeatureRows, compute
from topgraft.features.frozen_base import open_base
from topgraft.metrics import Difference, Interval
from topgraft.models.classifier import Classifier
from topgraft.system.formatting import in_points, percent, share
from topgraft.system.reprs import Overview, Shown

from .evaluate import head_logits
from .pretrained_reference import PretrainedReference, untouched
from .similarity import Similarity, similarity


@dataclass(frozen=True)
class Kept:
    """What labeled images of the original task say.

    Attributes:
        n: images.
        where: their source, as the user gave it.
        top1_before, top1_after: accuracy of the original and of the tuned base under the original classifier.
        top5_before, top5_after: the same of the five best answers; None with five outputs or fewer.
        lost: top-1 before minus after, paired; see `topgraft.metrics.paired_loss`.
    """

    n: int
    where: str
    top1_before: Interval
    top1_after: Interval
    top5_before: Interval | None
    top5_after: Interval | None
    lost: Difference


def _overview(this: Forgetting) -> Overview:
    """How much is lost, and of what."""
    facts = {
        "original": f"{this.backbone}, weights {this.weights}",
        "not measured": this.cannot,
        "unreadable": overviews.unreadable(this.unreadable),
    }
    if this.source is not None:
        lost = this.source.lost
        points = f"{in_points(lost.value)} (95 % interval {in_points(lost.low)} to {in_points(lost.high)})"
        before, after = (percent(asdict(found)) for found in (this.source.top1_before, this.source.top1_after))
        facts |= {"points lost": f"{points}, n = {lost.n:,}, paired", "top-1 before": before, "top-1 after": after}
        facts["source"] = this.source.where
    if this.own is not None:
        if this.own.agreement is not None:
            facts["same answers"] = f"{percent(asdict(this.own.agreement))}; not an accuracy"
        cka = "" if this.own.cka is None else f", linear CKA {this.own.cka:.3f}"
        facts["features"] = f"mean cosine {this.own.cosine:.3f}{cka}, n = {this.own.n:,}, without interval"
    lost_points = "not measured" if this.lost is None else f"{this.lost:.1f} points"
    return Overview(f"Forgotten: {lost_points}{'; the base is the original one' if this.untouched else ''}", facts)


@dataclass(frozen=True, repr=False)
class Forgetting(Shown, overview=_overview):
    """What `topgraft.evaluation.forgetting` returns.

    Attributes:
        backbone, weights: of the original network.
        untouched: the base's tensors are the original's, by hash. Nothing is forgotten, and nothing else was computed.
        lost: points, 0 to 100, of source top-1, or of agreement where no source was given; exactly 0 if untouched,
            None where it cannot be measured.
        own: on the user's own images; None if untouched, or if only the source was asked for.
        source: on labeled images of the original task; None where none were given.
        cannot: what cannot be measured, and why; empty where everything can.
        unreadable: images that were left out, and why.
    """

    backbone: str
    weights: str
    untouched: bool
    lost: float | None
    own: Similarity | None = None
    source: Kept | None = None
    cannot: str = ""
    unreadable: tuple[Unreadable, ...] = ()


def kept(
    original: PretrainedReference,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    labels: NDArray[np.int64],
    where: str = "",
) -> Kept:
    """Accuracy of the original classifier on features, n×d, n at least 1, of the original and of the tuned base."""
    assert original.classifier is not None
    n = len(labels)
    logits = [head_logits(original.classifier, rows) for rows in (before, after)]
    right = [found.argmax(axis=1) == labels for found in logits]
    top1 = [metrics.wilson(int(found.sum()), n) for found in right]
    top5: list[Interval | None] = [None, None]
    if logits[0].shape[1] > 5:
        top5 = [metrics.wilson(metrics.hits(found, labels, 5), n) for found in logits]
    return Kept(n, where, top1[0], top1[1], top5[0], top5[1], metrics.paired_loss(right[0], right[1]))


def settled(classifier: Classifier, original: PretrainedReference) -> Forgetting | None:
    """What can be said without an image: there is nothing to forget, or nothing is forgotten. None if neither."""
    if original.classifier is None:
        return Forgetting(original.backbone, original.weights, False, None, cannot=original.why)
    if untouched(classifier, original):
        return Forgetting(original.backbone, original.weights, True, 0.0)
    return None


def measure(
    classifier: Classifier,
    original: PretrainedReference,
    choice: EngineChoice,
    *,
    own: Sequence[Sample] = (),
    source: Sequence[Sample] = (),
    where: str = "",
    workers: int | None = None,
    folder: Path | None = None,
    libraries: Sequence[str] = (),
    strict: bool = False,
) -> Forgetting:
    """Run both bases on the same engine and compare them. Rows that the cache holds are not computed again.

    Args:
        classifier: with the tuned base; on the CPU, in evaluation mode.
        original: see `find_reference`.
        choice, workers, folder, libraries: see `topgraft.features.frozen_base.open_base`.
        own: images of the user's own; no labels are needed. None of them if empty.
        source: labeled images of the original task; see `source_samples`. None of them if empty.
        where: their source, as the user gave it.
        strict: raise where an image cannot be decoded.

    Raises:
        DataError: there are no images, none of them can be read, or, under `strict`, not all.
    """
    found = settled(classifier, original)
    if found is not None:
        return found
    if not own and not source:
        raise DataError(
            "there are no images to compare on. Give some that the model was not trained on, or labeled images of the "
            "original task"
        )
    assert original.classifier is not None
    bases = [open_base(each, choice, workers, folder, libraries) for each in (original.classifier, classifier)]
    of_own: Similarity | None = None
    of_source: Kept | None = None
    left_out: list[Unreadable] = []
    for name, samples in (("own images", own), ("source", source)):
        if not samples:
            continue
        pair = [
            compute(samples, base, strict=strict, description=f"{name}, {which}")
            for base, which in zip(bases, ("original", "tuned"), strict=True)
        ]
        indices, (before, after) = _in_both(pair)
        if not len(indices):
            raise DataError(f"none of the images to compare on can be read.\n{unread(pair[0].unreadable, 20)}")
        left_out += {entry.name: entry for part in pair for entry in part.unreadable}.values()
        if samples is source:
            labels = labels_of(samples)[indices]
            of_source = kept(original, before, after, labels, where)
        else:
            of_own = similarity(original, before, after)
    lost = None
    if of_source is not None:
        lost = 100 * of_source.lost.value
    elif of_own is not None and of_own.agreement is not None:
        lost = 100 * (1 - of_own.agreement.value)
    return Forgetting(
        original.backbone, original.weights, False, lost, of_own, of_source, original.why, tuple(left_out)
    )


def _in_both(pair: Sequence[FeatureRows]) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """The images that both bases have rows of: their indices, and the two sets of rows."""
    indices, first, second = np.intersect1d(pair[0].kept, pair[1].kept, return_indices=True)
    return indices, [pair[0].rows[first], pair[1].rows[second]]


def short(found: Forgetting) -> str:
    """One sentence for the summary of a fit."""
    if found.untouched:
        return f"original task: 0 points lost, as the base is {found.weights}, bit for bit"
    if found.source is not None:
        source = found.source
        return (
            f"original task: top-1 {share(source.top1_before.value)} before and "
            f"{share(source.top1_after.value)} after, {points(source.lost)}"
        )
    if found.own is None:
        return f"original task: {found.cannot}"
    own = found.own
    alike = f"cosine {own.cosine:.3f}" + ("" if own.cka is None else f", CKA {own.cka:.3f}")
    if own.agreement is None:
        return f"original task: features of n = {own.n:,} of your own images kept {alike} ({found.cannot})"
    at = own.agreement
    return (
        f"original task: on n = {own.n:,} of your own images the tuned base gives the original network's answer for "
        f"{share(at.value)} ({100 * at.low:.1f} to {100 * at.high:.1f}); features kept {alike}"
    )


def points(lost: Difference) -> str:
    """A difference as ``12.4 points lost (95 % interval 10.2 to 14.6, n = 1,000)``."""
    value, low, high = (in_points(share) for share in (lost.value, lost.low, lost.high))
    return f"{value} points lost (95 % interval {low} to {high}, n = {lost.n:,})"
