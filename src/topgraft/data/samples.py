"""Frozen records that travel along the line. No behaviour beyond derived values, and no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topgraft.system.reprs import Shown

from . import overviews

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sample(Shown, overview=overviews.sample):
    """One labelled image, not yet decoded.

    Attributes:
        name: what a user is shown and what files record: the path below the source's root with forward
            slashes, or for example ``cifar10/test/17``. Unique within a `Splits`.
        label: index into the classes; None where unlabelled.
        path: the image file. Exactly one of `path` and `array` is given.
        array: uint8, H×W×3 (RGB) or H×W (grey).
        digest: SHA-256 in hex of the file's bytes, or of an array's shape and bytes.
    """

    name: str
    label: int | None
    path: Path | None = None
    array: NDArray[np.uint8] | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that was left out, and why. `reason` is one line in plain words."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Duplicate(Shown, overview=overviews.duplicate):
    """Images with the same content. `labels` and `splits` go with `names`, one each.

    `dropped` are those of `names` that were left out, of train or val, because a later split has the same content.
    `splits` is empty where the images could not be divided.
    """

    digest: str
    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    splits: tuple[SplitName, ...]
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Splits(Shown, overview=overviews.splits):
    """Labelled images, divided. `tg.open_images` makes it.

    Attributes:
        where: what the user gave to `open_images`, as a string.
        classes: class names, in label order.
        train, val, test: the samples; `test` is empty where the source has none.
        made: the splits that Topgraft made by content; the others were given by the source.
        split_seed: the seed of the splits that were made.
        unreadable: files that were left out while opening. Those found damaged in decoding, their verb reports.
        duplicates: groups of images with equal content.
        notes: what a user should be told about how the images were found and divided, one sentence each.
        undivided: the samples of a source that has no splits and cannot be divided; the splits are empty then.
        problem: why the images cannot be fitted to; None in what `tg.open_images` returns, which raises it.
    """

    where: str
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    made: frozenset[SplitName] = frozenset()
    split_seed: int = 0
    unreadable: tuple[Unreadable, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    notes: tuple[str, ...] = ()
    undivided: tuple[Sample, ...] = ()
    problem: str | None = None

    def __post_init__(self) -> None:
        for part in (*SPLIT_NAMES, "undivided"):
            object.__setattr__(self, part, overviews.Samples(getattr(self, part)))

    def __getitem__(self, split: SplitName) -> tuple[Sample, ...]:
        """The samples of a split, by name: ``splits["val"]``."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def parts(self) -> dict[str, tuple[Sample, ...]]:
        """Those of train, val, test and ``undivided`` that have samples, in this order."""
        parts = {"train": self.train, "val": self.val, "test": self.test, "undivided": self.undivided}
        return {name: samples for name, samples in parts.items() if samples}


@dataclass(frozen=True)
class ImageSpec:
    """How pixels are made for a network. The weights define it, and it travels in the artifact.

    An image is converted to RGB, its shorter side is resized to `resize_size`, the central
    `input_size` × `input_size` square is cropped, values are scaled to 0…1, put into `channel_order`,
    and normalised per channel: ``(x - mean) / std``.

    Attributes:
        input_size: side of the square that the network sees, in pixels.
        resize_size: the shorter side after the resize, in pixels; at least `input_size`.
        interpolation: filter of the resize.
        mean, std: per channel, in units of 0…1, in the order of `channel_order`.
        channel_order: order of the channels that the network expects.
        decode: ``scaled`` lets a JPEG decoder halve the image while decoding as long as its sides stay
            at least the resize target; ``full`` always decodes every pixel.
    """

    input_size: int
    resize_size: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"] = "RGB"
    decode: Literal["scaled", "full"] = "scaled"


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
class Metrics(Shown, overview=overviews.metrics):
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


@dataclass(frozen=True, repr=False)
class Evaluation(Shown, overview=overviews.evaluation):
    """What `evaluate` returns: per-image logits and labels, and the metrics made of them.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        used_for_selection: True where these images chose anything about the model; the number is then
            optimistic and is labelled so wherever it is shown.
        names: image names, in order.
        logits: float32, n × classes.
        labels: int64, n.
        unreadable: files that were left out, and why.
        seen: names that were left out because fitting or selection had used their content.
        notes: about how the images were found and divided.
        where: the source of the images, as the user gave it; empty where samples were given.
        before_refit: True where the logits are of the head before it was solved again on these images too.
    """

    split: SplitName
    used_for_selection: bool
    names: tuple[str, ...]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    metrics: Metrics
    unreadable: tuple[Unreadable, ...] = ()
    seen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    where: str = ""
    before_refit: bool = False


@dataclass(frozen=True, repr=False)
class EpochRecord(Shown, overview=overviews.epoch):
    """One line of ``history.jsonl``: what one epoch, or one solve of the head, did.

    For a solve, `epoch` is 0, and each head tried has a record: `normalization`, and C as `strength` or γ as
    `shrinkage`, as in `topgraft.head.HeadSettings`; `chosen` marks the one that was kept. For an epoch, one of the
    `epochs` of the phase's schedule, `train_loss` is the mean over its steps with the penalty on weights, `val_loss`
    is without, and `curve` has pairs of step and mean loss of the steps before it. `seconds` of the epochs of a phase
    add up to its wall time, preparation included.

    `hits` says which of the images that judge were answered right: one bit each, in order, as packed by
    ``numpy.packbits``, in hex. They are the validation images, or train and validation where a phase was tried in
    `folds`. `scaled_loss` is their log loss at the temperature that makes it least: two networks are compared by what
    they know, not by how sure they are.
    """

    phase: int
    name: str
    epoch: int
    seconds: float
    train_loss: float | None = None
    val_loss: float | None = None
    val_top1: Interval | None = None
    lr: float | None = None
    strength: float | None = None
    chosen: bool = False
    train_top1: Interval | None = None
    curve: tuple[tuple[int, float], ...] = ()
    hits: str = ""
    scaled_loss: float | None = None
    folds: int = 0
    epochs: int = 0
    normalization: str = ""
    shrinkage: float | None = None


@dataclass(frozen=True, repr=False)
class Prediction(Shown, overview=overviews.prediction):
    """The answer for one image: the `k` best classes with their probabilities, best first."""

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Predictions(Shown, overview=overviews.predictions):
    """What `predict` returns: one `Prediction` for each image that could be read, in order, and the other images."""

    predictions: tuple[Prediction, ...]
    unreadable: tuple[Unreadable, ...] = ()

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True)
class TableRow:
    """One group in the freeze table. `lr_multiplier` None is frozen; `batchnorm` says what its BatchNorm does."""

    group: str
    parameters: int
    lr_multiplier: float | None
    batchnorm: str


@dataclass(frozen=True, repr=False)
class PlannedPhase(Shown, overview=overviews.planned_phase):
    """One phase of a plan: passes over the images, base rate, multiplier of each group; see `topgraft.plan.Phase`."""

    name: str
    epochs: int
    lr: float
    multipliers: Mapping[str, float | None]


@dataclass(frozen=True)
class Station:
    """What one station of the line hands on for one batch: shape, type and range of the values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float


@dataclass(frozen=True)
class Placement:
    """Where one group runs while a model is fitted: device, number type of its products, and what computes."""

    group: str
    device: str
    dtype: str
    engine: str


@dataclass(frozen=True, repr=False)
class Inspection(Shown, overview=overviews.inspection):
    """What `inspect` returns: the freeze table of the last phase, the stations of the line for one batch of `images`,
    and, if it was asked for, where each group runs.

    `phases` are in the order in which they would come; of a strategy that decides as it goes, those of the longest way.
    """

    backbone: str
    strategy: str
    table: tuple[TableRow, ...]
    stations: tuple[Station, ...]
    images: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()
    placement: tuple[Placement, ...] = ()
    phases: tuple[PlannedPhase, ...] = ()


@dataclass(frozen=True, repr=False)
class Features(Shown, overview=overviews.features):
    """What `extract_features` returns: one row of pooled features for each image.

    Attributes:
        names: image names, in order.
        features: float32, n × feature width.
        labels: int64, n; -1 where unlabelled.
        splits: the split of each image; ``undivided`` where the source has none and is too small to be divided.
        classes: class names, in label order.
        backbone: name of the backbone that made the features.
        unreadable: files that were left out, and why.
        notes: about how the images were found and divided.
    """

    names: tuple[str, ...]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    backbone: str
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """Seconds of each part of the line (overlapping parts share them); images computed, cached, and copies of these."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    images_decoded: int = 0
    images_from_cache: int = 0
    images_copied: int = 0


@dataclass(frozen=True, repr=False)
class Fitted(Shown, overview=overviews.fitted):
    """What `fit` returns. Without behaviour: `evaluate`, `predict` and `save` take it.

    Attributes:
        classifier: the `topgraft.classifier.Classifier`, an ``nn.Module`` that takes uint8 N×H×W×3.
        classes: class names, in label order.
        spec: how pixels are made for it.
        config: all that `config.json` holds: settings, resolved choices, backbone, weights, versions.
        history: one record per epoch or solve.
        validation: the validation results; its numbers are marked as used for selection. None where the weights
            were changed after the fit.
        seen: content digest → split, of every image that was used, or is there for testing.
        unreadable: files that were left out, and why.
        cost: seconds of each part.
    """

    classifier: Any
    classes: tuple[str, ...]
    spec: ImageSpec
    config: Mapping[str, Any]
    history: tuple[EpochRecord, ...]
    validation: Evaluation | None
    seen: Mapping[str, SplitName]
    unreadable: tuple[Unreadable, ...]
    cost: Cost

    def __post_init__(self) -> None:
        object.__setattr__(self, "history", overviews.History(self.history))
