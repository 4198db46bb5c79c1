"""Choose the head: normalization, way of solving and strength, by the log loss of predictions on unseen images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.models.normalization import NORMALIZATIONS, Heads
from topgraft.strategies.defaults import FOLDS, SELECTION_MINIMUM, STRENGTHS

from .discriminant import SHRINKAGES
from .logistic import Head, HeadSettings, folds, pick, solve_discriminant_heads, solve_head, solve_path

DEFAULT = HeadSettings("root", shrinkage=0.96)
"""The head where there are too few images to select one. With one image of a class it is the nearest class mean on
normalized features. On ants and bees and on sign-digits no other is better on both
(docs/decisions/0006-the-head-on-few-photos.md)."""

PER_CLASS = 3
"""Images of a class, on average, from which on out-of-fold predictions select. Of two images a fold leaves one, and
then nothing is known of how images of a class differ."""

ROUNDS = 3
"""Times that few images are divided into folds, each time otherwise: which images share a fold then decides less
(Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10)."""

REPEATED = 300
"""Images up to which that is done."""

WITHIN = 0.5
"""Standard errors of the paired difference of log losses within which the stronger of two discriminants is taken. With
1, the rule of Breiman et al. (Classification and Regression Trees, 1984, section 3.4.3), sign-digits lose half a point;
with 0, ants and bees do."""

CLEARLY = 2.0
"""Standard errors by which a logistic regression has to be better than the best discriminant to be taken."""

CHOOSING = 1000
"""Images that the normalization is selected on at most: with more, all of them are nearly equally good."""

# Nats by which a training image's own class is above the mean of the others where a default head is taken. The log loss
# of new images is least at 7 and 9 with one image of a class, and at 10 and 12 with two (sign-digits, ants and bees).
_GAP = 7.0
_SPREAD = 0.1  # of the logits that a temperature leaves at least: a head whose answers are at chance still answers


@dataclass(frozen=True)
class SelectionRecord:
    """One head tried: log losses in nats, None where no images select; `correct` of the images that selected."""

    settings: HeadSettings
    train_log_loss: float
    log_loss: float | None
    correct: int


@dataclass(frozen=True, eq=False)
class HeadChoice:
    """The head that was chosen.

    Attributes:
        head: the head.
        settings: how it was solved.
        selected_by: ``validation`` or ``out-of-fold``; ``default`` where there are too few images to select by.
        selection_images: images that selected.
        records: one for each head tried.
        right: of each image that selected, whether the chosen head answers it right: the validation images, or
            train and then validation.
        scaled_loss: their log loss at the best temperature; None where there are none.
    """

    head: Head
    settings: HeadSettings
    selected_by: str
    selection_images: int
    records: tuple[SelectionRecord, ...]
    right: NDArray[np.bool_]
    scaled_loss: float | None


@dataclass(frozen=True, eq=False)
class Data:
    """Features, float32 n×d, and labels, int64 n; and whose the labels are."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: int
    class_weight: str | None

    def __getitem__(self, rows: NDArray[np.generic]) -> Data:
        return replace(self, features=self.features[rows], labels=self.labels[rows])

    def plus(self, other: Data) -> Data:
        """These images and then the others."""
        features = np.concatenate([self.features, other.features])
        return replace(self, features=features, labels=np.concatenate([self.labels, other.labels]))


Solve = Callable[[Data], Heads]


@dataclass(frozen=True, eq=False)
class _Judge:
    """What selects: `held` images that were not trained on, or, if there are none, `data` in folds."""

    data: Data
    held: Data | None
    seed: int

    @property
    def name(self) -> str:
        return "out-of-fold" if self.held is None else "validation"

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of the images that select."""
        return (self.held or self.data).labels

    def logits(self, solve: Solve, heads: Heads | None = None) -> NDArray[np.float64]:
        """rounds×heads×n×classes of the images that select, by heads that have not seen them.

        Args:
            solve: solves the heads.
            heads: solved on the data, where they are known.
        """
        if self.held is not None:
            return (heads or solve(self.data)).logits(self.held.features)[None]
        rounds = ROUNDS if len(self.labels) <= REPEATED else 1
        return np.stack([self._out_of_fold(solve, self.seed + number) for number in range(rounds)])

    def _out_of_fold(self, solve: Solve, seed: int) -> NDArray[np.float64]:
        """heads×n×classes, each image by heads that were solved on the other folds."""
        # As many folds as a class has images, so that each fold leaves out one of every class: a class that alone has
        # one image less than the others is answered less often.
        typical = int(np.median(np.unique(self.labels, return_counts=True)[1]))
        assigned = folds(self.labels, min(FOLDS, max(typical, 2)), seed)
        parts: dict[int, NDArray[np.float64]] = {}
        for fold in np.unique(assigned):
            out = assigned == fold
            present = np.unique(self.labels[~out])
            if len(present) > 1:
                parts[int(fold)] = solve(self.data[~out]).logits(self.data.features[out])
                # What is not among the training images is as unlikely as the least likely of those that are. One
                # image of a class would decide otherwise, as no head can answer it.
                absent = np.setdiff1d(np.arange(self.data.classes), present)
                parts[int(fold)][..., absent] = parts[int(fold)][..., present].min(axis=-1, keepdims=True)
        count = next(iter(parts.values())).shape[0] if parts else 1
        logits = np.zeros((count, len(self.labels), self.data.classes))  # nothing to tell apart: uniform predictions
        for fold, part in parts.items():
            logits[:, assigned == fold] = part
        return logits

    def reduced(self) -> _Judge:
        """The same with at most `CHOOSING` images of the data, stratified."""
        if len(self.data.labels) <= CHOOSING:
            return self
        dealt = folds(self.data.labels, -(-len(self.data.labels) // CHOOSING), self.seed)
        return replace(self, data=self.data[dealt == 0])


def choose_head(
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
    """Keep the head with the lowest selection log loss, or one that is hardly worse and more regularized.

    With 200 validation images or more, they select. With fewer, out-of-fold predictions over train and validation
    together do; each fold has its own feature statistics. Discriminants, each at its best temperature, select the
    normalization, and `WITHIN` one of them. A logistic regression on the same normalization is taken where it is
    `CLEARLY` better. With fewer than `PER_CLASS` images of a class `DEFAULT` is taken. The head is solved on train
    alone unless `refit`.

    Args:
        train_features, val_features: float32 n×d, raw; there may be no validation images.
        train_labels, val_labels: int64, n, each below `classes`.
        classes, strengths, class_weight: see `topgraft.training.head.logistic.solve_path`.
        refit: whether the head that was chosen is solved again on train and validation together.
        seed: seed of the assignment to folds.
    """
    train = Data(train_features, train_labels, classes, class_weight)
    val = Data(val_features, val_labels, classes, class_weight)
    few = len(val_labels) < SELECTION_MINIMUM
    pool = train.plus(val) if len(val_labels) and (few or refit) else train
    judge = _Judge(pool, None, seed) if few else _Judge(train, val, seed)
    fitted = pool if refit else train
    if len(judge.labels) < PER_CLASS * len(np.unique(judge.labels)):
        return _default(fitted)
    some = judge.reduced()
    name, rounds = _normalization(some)
    settings = [HeadSettings(name, shrinkage=x) for x in SHRINKAGES]
    discriminants = _try(judge, train, _discriminants(name), settings, rounds if some is judge else None)
    regressions = _try(judge, train, _regressions(name, strengths), [HeadSettings(name, strength=x) for x in strengths])
    best, other = (min(tried, key=_mean) for tried in (discriminants, regressions))
    chosen = next(one for one in discriminants if _mean(one) <= _mean(best) + WITHIN * _error(one, best))
    if _mean(other) < _mean(best) - CLEARLY * _error(other, best):
        chosen = other
    head = chosen.head
    if refit:
        head = solve_head(chosen.record.settings, pool.features, pool.labels, classes, class_weight=class_weight)
    return HeadChoice(
        head=head,
        settings=chosen.record.settings,
        selected_by=judge.name,
        selection_images=len(judge.labels),
        records=tuple(one.record for one in (*discriminants, *regressions)),
        right=metrics.is_correct(chosen.logits, judge.labels),
        scaled_loss=metrics.scaled_log_loss(chosen.logits, judge.labels),
    )


def temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """What divides logits so that their log loss is least, with caution and within bounds; see the constants here."""
    inverse = metrics.inverse_temperature(logits, labels, cautious=True)
    spread = float((logits - logits.mean(axis=1, keepdims=True)).std())
    return 1 / max(inverse, _SPREAD / spread) if spread > 0 else 1.0


@dataclass(frozen=True, eq=False)
class _Tried:
    """A head, what is known of it, the log loss of each image that selects, and its logits there, n×classes."""

    head: Head
    record: SelectionRecord
    losses: NDArray[np.float64]
    logits: NDArray[np.float64]


def _mean(one: _Tried) -> float:
    return float(one.losses.mean())


def _error(one: _Tried, other: _Tried) -> float:
    """Standard error of the difference of their mean losses."""
    return float((one.losses - other.losses).std() / len(one.losses) ** 0.5)


def _try(
    judge: _Judge,
    train: Data,
    solve: Solve,
    settings: Sequence[HeadSettings],
    rounds: NDArray[np.float64] | None = None,
) -> list[_Tried]:
    """All heads of one kind, from strong to weak; `rounds` are what the judge's logits are, where they are known."""
    heads, tried = solve(train), []
    rounds = judge.logits(solve, heads) if rounds is None else rounds
    known = heads.logits(train.features)
    for i, chosen in enumerate(settings):
        if chosen.shrinkage is not None:
            chosen = replace(chosen, temperature=_mean_temperature(rounds[:, i], judge.labels))
        losses = _losses(rounds[:, i], judge.labels, chosen)
        scaled = rounds[0, i] / chosen.temperature
        record = SelectionRecord(
            chosen,
            metrics.log_loss(known[i] / chosen.temperature, train.labels),
            float(losses.mean()),
            metrics.hits(scaled, judge.labels, 1),
        )
        tried.append(_Tried(pick(heads, i, chosen.temperature), record, losses, scaled))
    return tried


def _mean_temperature(rounds: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Of rounds×n×classes."""
    return float(np.exp(np.mean([np.log(temperature(logits, labels)) for logits in rounds])))


def _losses(rounds: NDArray[np.float64], labels: NDArray[np.int64], settings: HeadSettings) -> NDArray[np.float64]:
    """Log loss of each image, n, the mean over rounds×n×classes."""
    scaled = metrics.log_softmax((rounds / settings.temperature).reshape(-1, rounds.shape[-1])).reshape(rounds.shape)
    losses: NDArray[np.float64] = -scaled[:, np.arange(len(labels)), labels].mean(axis=0)
    return losses


def _discriminants(normalization: str) -> Solve:
    def solve(data: Data) -> Heads:
        return solve_discriminant_heads(
            data.features, data.labels, data.classes, normalization=normalization, class_weight=data.class_weight
        )

    return solve


def _regressions(normalization: str, strengths: Sequence[float]) -> Solve:
    def solve(data: Data) -> Heads:
        return solve_path(
            data.features,
            data.labels,
            data.classes,
            strengths,
            normalization=normalization,
            class_weight=data.class_weight,
        )

    return solve


def _normalization(judge: _Judge) -> tuple[str, NDArray[np.float64]]:
    """The one whose best discriminant has the lowest log loss, the simplest on ties; and what `_Judge.logits` gives."""
    found: dict[str, tuple[float, NDArray[np.float64]]] = {}
    for name in NORMALIZATIONS:
        rounds, losses = judge.logits(_discriminants(name)), []
        for each in rounds.swapaxes(0, 1):
            settings = HeadSettings(name, temperature=_mean_temperature(each, judge.labels))
            losses.append(float(_losses(each, judge.labels, settings).mean()))
        found[name] = min(losses), rounds
    name = min(found, key=lambda name: found[name][0])
    return name, found[name][1]


def _default(train: Data) -> HeadChoice:
    """The head of `DEFAULT`, of which nothing is known; its temperature leaves training images `_GAP`."""
    heads = _discriminants(DEFAULT.normalization)(train)
    index = SHRINKAGES.index(DEFAULT.shrinkage or 1.0)
    logits = heads.logits(train.features)[index]
    own = logits[np.arange(len(logits)), train.labels]
    gap = float((own - (logits.sum(axis=1) - own) / (train.classes - 1)).mean())
    settings = replace(DEFAULT, temperature=gap / _GAP if gap > 0 else 1.0)
    record = SelectionRecord(settings, metrics.log_loss(logits / settings.temperature, train.labels), None, 0)
    nothing = np.zeros(0, dtype=np.bool_)
    return HeadChoice(pick(heads, index, settings.temperature), settings, "default", 0, (record,), nothing, None)
