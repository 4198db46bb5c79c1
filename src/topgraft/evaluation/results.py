"""What evaluating, predicting and fitting return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.data.samples import ImageSpec, SplitName, Unreadable
from topgraft.metrics import Metrics
from topgraft.strategies.history import EpochRecord, History
from topgraft.system.reprs import Shown

from . import overviews


@dataclass(frozen=True, repr=False)
class Evaluation(Shown, overview=overviews.evaluation):
    """What `evaluate` returns: per-image logits and labels, and the metrics made of them.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        used_for_selection: True where these images chose anything about the model; the number is then
            optimistic and is labeled so wherever it is shown.
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
class Cost:
    """Seconds of each part of the line (overlapping parts share them); images computed, cached, and copies of these."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    images_decoded: int = 0
    images_from_cache: int = 0
    images_copied: int = 0


@dataclass(frozen=True, repr=False)
class FittedClassifier(Shown, overview=overviews.fitted):
    """What `fit` returns. Without behavior: `evaluate`, `predict` and `save` take it.

    Attributes:
        classifier: the `topgraft.models.classifier.Classifier`, an ``nn.Module`` that takes uint8 N×H×W×3.
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
        object.__setattr__(self, "history", History(self.history))
