"""Keep a tuned base from forgetting: stay on the straight line between the published weights and the tuned ones.

Source: WiSE-FT, Wortsman et al., Robust fine-tuning of zero-shot models (2021), section 3,
https://arxiv.org/abs/2109.01903. There one classifier serves both ends; here each task has its own, so the user's head
is solved again at each point, and the original classifier judges what is forgotten.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.data.samples import Sample, Unreadable, labels_of, unread
from topgraft.errors import DataError, UsageError
from topgraft.evaluation.forgetting import points
from topgraft.evaluation.pretrained_reference import PretrainedReference, base_state, untouched
from topgraft.evaluation.similarity import answers
from topgraft.features.engines.base import EngineChoice
from topgraft.features.extract import compute, run
from topgraft.features.frozen_base import open_base
from topgraft.metrics import Difference, Interval
from topgraft.models.classifier import Classifier
from topgraft.system import formatting
from topgraft.system.quantities import loss_limit
from topgraft.training.head.selection import HeadChoice, choose_head

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the tuned weights that are tried: every second one of WiSE-FT's figures, as each costs a pass over all
images."""

_ROUNDING = 1e-9  # points: 100 × 3/150 is not quite 2


@dataclass(frozen=True)
class TradePoint:
    """One place between the original base and the tuned one.

    Attributes:
        share: of the tuned weights, 0 to 1.
        target: top-1 on the validation images, the head solved again on train.
        choosing, reported: on either half of the judging images, source top-1 under the original classifier, or
            agreement with the original network's answers.
        lost: what is lost on the half that chooses, as a fraction of 1.
        lost_reported: the same on the other half.
    """

    share: float
    target: Interval
    choosing: Interval
    reported: Interval
    lost: Difference
    lost_reported: Difference


@dataclass(frozen=True)
class Trade:
    """What `limit_tuning` has tried and chosen.

    Attributes:
        at_most: points that may be lost, 0 to 100.
        judged_by: ``source`` or ``agreement``.
        points: by share, ascending.
        share: the chosen one.
        strength: C of the head that was solved there; None for a discriminant.
        unreadable: images of the source that were left out, and why.
    """

    at_most: float
    judged_by: str
    points: tuple[TradePoint, ...]
    share: float
    strength: float | None
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def chosen(self) -> TradePoint:
        """The point of the chosen share."""
        return next(point for point in self.points if point.share == self.share)


def trade_from_json(entry: Mapping[str, Any]) -> Trade:
    """A trade from what ``dataclasses.asdict`` made of it, as a run's config has it."""
    tried = tuple(
        TradePoint(
            share=point["share"],
            target=Interval(**point["target"]),
            choosing=Interval(**point["choosing"]),
            reported=Interval(**point["reported"]),
            lost=Difference(**point["lost"]),
            lost_reported=Difference(**point["lost_reported"]),
        )
        for point in entry["points"]
    )
    gone = tuple(Unreadable(**found) for found in entry.get("unreadable", ()))
    return Trade(entry["at_most"], entry["judged_by"], tried, entry["share"], entry["strength"], gone)


def interpolate(
    original: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """``(1 - share)·original + share·tuned`` of every floating tensor; others are the tuned ones.

    At 0 and 1 the floating tensors are bit for bit the original's and the tuned ones.

    Args:
        original, tuned: parameters and buffers of one base; see `topgraft.evaluation.pretrained_reference.base_state`.
        share: 0 to 1.

    Raises:
        ValueError: they have not the same tensors.
    """
    if {k: v.shape for k, v in original.items()} != {k: v.shape for k, v in tuned.items()}:
        raise ValueError("the two bases have different tensors")
    mixed: dict[str, torch.Tensor] = {}
    for key, end in tuned.items():
        if not end.is_floating_point() or share == 1.0:
            mixed[key] = end.detach().clone()
        elif share == 0.0:
            mixed[key] = original[key].detach().clone()
        else:
            mixed[key] = torch.lerp(original[key].detach(), end.detach(), share)
    return mixed


def halves(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """True for the half that chooses: by a hash of the content, so that equal images are in one half."""
    order = sorted({sample.digest for sample in samples}, key=lambda d: hashlib.sha256(f"half:{d}".encode()).digest())
    choosing = set(order[: (len(order) + 1) // 2])
    return np.array([sample.digest in choosing for sample in samples], dtype=np.bool_)


def require_answers(original: PretrainedReference) -> Classifier:
    """The original network, where it has a classifier whose answers can be compared.

    Raises:
        UsageError: it has none.
    """
    if original.classifier is None or not original.answers:
        raise UsageError(f"what is forgotten cannot be limited: {original.why}; leave the limit out")
    return original.classifier


def require_halves(judging: Sequence[Sample]) -> NDArray[np.bool_]:
    """The images that judge, halved; see `halves`.

    Raises:
        UsageError: they are too few.
    """
    choosing = halves(judging)
    if not 0 < choosing.sum() < len(choosing):
        different = len({sample.digest for sample in judging})
        raise UsageError(
            f"{different:,} different judging images are too few to limit what is forgotten: half of them chooses, and "
            "the other is reported. Give --source with more"
        )
    return choosing


def limit_tuning(
    classifier: Classifier,
    original: PretrainedReference,
    train: Sequence[Sample],
    val: Sequence[Sample],
    *,
    at_most: float,
    choice: EngineChoice,
    source: Sequence[Sample] = (),
    class_weight: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    folder: Path | None = None,
    libraries: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
) -> Trade:
    """Move a tuned base towards the original one until at most so much is forgotten, changing it in place.

    At each share all images run through the base in between, and the head is solved again. Of the shares at which at
    most `at_most` points are lost on one half of the judging images, the one with the best validation accuracy is
    kept, the smaller on ties. At share 0 nothing is lost, so there always is one. The other half did not choose: what
    is lost there is what may be expected elsewhere.

    Args:
        classifier: tuned; on the CPU, in evaluation mode.
        original: with its own classifier; see `topgraft.evaluation.pretrained_reference.find_reference`.
        train, val: labeled images of the new task; classes are the outputs of `classifier`.
        at_most: points that may be lost, 0 to 100, of source top-1, or, without a source, of agreement with the
            original network's answers on `val`.
        choice, workers, folder, libraries: see `topgraft.features.frozen_base.open_base`. Only the original's
            features are cached.
        source: labeled images of the original task; see `topgraft.evaluation.pretrained_reference.source_samples`.
        class_weight, seed: see `topgraft.training.head.selection.choose_head`.
        shares: ascending, from 0 to at most 1.

    Raises:
        UsageError: a limit out of range, too few images to be halved, or an original without classifier.
        DataError: images that can no longer be read.
    """
    loss_limit(at_most)
    published = require_answers(original)
    if list(shares) != sorted(set(shares)) or not shares or shares[0] != 0 or shares[-1] > 1:
        raise UsageError("shares must ascend from 0 to at most 1")
    if untouched(classifier, original):
        shares = (0.0,)
    base = open_base(published, choice, workers, folder, libraries)
    asked = [*train, *val, *source]
    before = compute(asked, base, strict=False, description="original base")
    samples = [asked[index] for index in before.kept]
    first, last = (int(np.searchsorted(before.kept, stop)) for stop in (len(train), len(train) + len(val)))
    learned, held = slice(0, first), slice(first, last)
    judges = slice(last, None) if source else held
    if not 0 < first < last:
        raise UsageError(f"{first:,} training and {last - first:,} validation images that can be read are too few")
    choosing = require_halves(samples[judges])
    labels = labels_of(samples)
    truth = labels[judges] if source else answers(original, before.rows[judges])
    right_before = answers(original, before.rows[judges]) == truth
    tuned = {key: value.clone() for key, value in base_state(classifier).items()}
    between = copy.deepcopy(published)
    tried: list[tuple[TradePoint, HeadChoice]] = []
    for share in shares:
        rows = before.rows
        if share > 0:
            put(interpolate(base_state(published), tuned, share), between)
            rows = _rows(samples, between, choice, workers, libraries, f"{formatting.share(share, 0)} of the tuning")
        solved = choose_head(
            rows[learned],
            labels[learned],
            rows[held],
            labels[held],
            classifier.head.out_features,
            class_weight=class_weight,
            seed=seed,
        )
        right = answers(original, rows[judges]) == truth
        tried.append((_point(share, _target(solved, rows[held], labels[held]), right_before, right, choosing), solved))
    allowed = [entry for entry in tried if 100 * entry[0].lost.value <= at_most + _ROUNDING]
    point, solved = max(allowed, key=lambda entry: (entry[0].target.value, -entry[0].share))
    put(interpolate(base_state(published), tuned, point.share), classifier)
    classifier.set_head(solved.head.weight, solved.head.bias, solved.head.layer)
    judged_by = "source" if source else "agreement"
    names = {sample.name for sample in source}
    gone = tuple(entry for entry in before.unreadable if entry.name in names)
    return Trade(at_most, judged_by, tuple(entry for entry, _ in tried), point.share, solved.settings.strength, gone)


def put(state: Mapping[str, torch.Tensor], classifier: Classifier) -> None:
    """Copy values of `topgraft.evaluation.pretrained_reference.base_state` into a classifier."""
    there = classifier.groups.state_dict()
    with torch.no_grad():
        for key, value in state.items():
            there[key].copy_(value)


def _rows(
    samples: Sequence[Sample],
    classifier: Classifier,
    choice: EngineChoice,
    workers: int | None,
    libraries: Sequence[str],
    description: str,
) -> NDArray[np.float32]:
    """Features of all samples. Nothing of a base that is used once is left in the cache."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as once:
        base = open_base(classifier, choice, workers, Path(once), libraries)
        computed = run(samples, base, description=description)
    if computed.unreadable:
        raise DataError(f"images have changed since they were opened.\n{unread(computed.unreadable, 20)}")
    return computed.rows


def _target(choice: HeadChoice, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> Interval:
    """Top-1 of a solved head."""
    return metrics.wilson(metrics.hits(choice.head.logits(rows), labels, 1), len(labels))


def _point(
    share: float,
    target: Interval,
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    choosing: NDArray[np.bool_],
) -> TradePoint:
    halves = [(after[half], metrics.paired_loss(before[half], after[half])) for half in (choosing, ~choosing)]
    kept = [metrics.wilson(int(right.sum()), len(right)) for right, _ in halves]
    return TradePoint(share, target, kept[0], kept[1], halves[0][1], halves[1][1])


def short_trade(trade: Trade) -> str:
    """One sentence for the summary of a fit."""
    chosen = trade.chosen
    what = "source top-1" if trade.judged_by == "source" else "agreement with the original answers"
    return (
        f"kept {formatting.share(chosen.share, 0)} of the tuning: "
        f"validation top-1 {formatting.share(chosen.target.value)} "
        f"(n = {chosen.target.n:,}, used for selection); of {what}, "
        f"{points(chosen.lost_reported)} on images that did not choose; {trade.at_most:g} allowed"
    )
