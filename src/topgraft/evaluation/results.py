"""What evaluating, predicting and fitting return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from topgraft.data.samples import ImageSpec, SplitName, Unreadable
from topgraft.metrics import Interval, Metrics, softmax
from topgraft.strategies.history import History
from topgraft.system.files import StrPath
from topgraft.system.reprs import Shown
from topgraft.system.tabular import Tabular

from . import overviews

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, repr=False)
class Evaluation(Shown, Tabular, overview=overviews.evaluation):
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

    @property
    def accuracy(self) -> float:
        """Fraction of the images whose best class is right."""
        return self.metrics.top1.value

    @property
    def top1(self) -> Interval:
        """`accuracy` with its 95 % interval and its n."""
        return self.metrics.top1

    def to_dicts(self) -> list[dict[str, Any]]:
        """For each image its name, true class, predicted class with its probability, and whether that is right."""
        probabilities = softmax(self.logits)
        best = self.logits.argmax(axis=1)
        return [
            {
                "name": name,
                "true_label": self.classes[label],
                "label": self.classes[answer],
                "probability": float(row[answer]),
                "correct": bool(answer == label),
            }
            for name, label, answer, row in zip(self.names, self.labels, best, probabilities, strict=True)
        ]


@dataclass(frozen=True, repr=False)
class Prediction(Shown, overview=overviews.prediction):
    """The answer for one image: the `k` best classes with their probabilities, best first."""

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The best class."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """Probability of the best class."""
        return self.probabilities[0]


@dataclass(frozen=True, repr=False)
class Predictions(Shown, Tabular, overview=overviews.predictions):
    """What `predict` returns: one `Prediction` for each image that could be read, in order, and the other images."""

    predictions: tuple[Prediction, ...]
    unreadable: tuple[Unreadable, ...] = ()

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    def __getitem__(self, index: int) -> Prediction:
        return self.predictions[index]

    def to_dicts(self) -> list[dict[str, Any]]:
        """For each image its name, best class with its probability, and the probabilities of all classes listed."""
        return [
            {
                "name": answer.name,
                "label": answer.label,
                "probability": answer.probability,
                "probabilities": dict(zip(answer.classes, answer.probabilities, strict=True)),
            }
            for answer in self.predictions
        ]


@dataclass(frozen=True)
class Cost:
    """Seconds of each part of the line (overlapping parts share them); images computed, cached, and copies of these."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    images_decoded: int = 0
    images_from_cache: int = 0
    images_copied: int = 0


@dataclass(frozen=True, repr=False)
class FittedClassifier(Shown, overview=overviews.fitted):
    """What `fit` and `load` return.

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
    history: History
    validation: Evaluation | None
    seen: Mapping[str, SplitName]
    unreadable: tuple[Unreadable, ...]
    cost: Cost

    def __post_init__(self) -> None:
        object.__setattr__(self, "history", History(self.history))

    @property
    def module(self) -> nn.Module:
        """The network as an ``nn.Module``: logits, float32 N×classes, of uint8 pixels N×H×W×3 in RGB.

        H and W are ``spec.input_size``; `spec` also says how images are resized and cropped to it. The module itself
        normalizes the pixels with the spec's mean and standard deviation, and puts the channels in its order.
        """
        module: nn.Module = self.classifier
        return module

    def predict(
        self,
        images: Any,
        *,  # options of PredictSettings
        # speed and cache
        engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        workers: int | None = None,
        cache_dir: StrPath | None = None,
        # output
        top_k: int = 5,
        quiet: bool = False,
    ) -> Predictions:
        """Predict classes of images without labels; see `topgraft.predict`.

        Args:
            images: paths, folders or glob patterns; or uint8 arrays H×W×3 or H×W, one or a sequence.
            engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
                `topgraft devices --measure`; default: auto.
            precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
                default: auto.
            device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
            workers: threads that decode images; default: one per usable core.
            cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the
                user's cache.
            top_k: classes listed for each image, best first; default: 5.
            quiet: show no progress and no notes.
        """
        options = _options(locals())
        from topgraft import api

        return api.predict(self, **options)

    def evaluate(
        self,
        images: Any,
        *,  # options of EvaluateSettings
        # data
        split_seed: int | None = None,
        limit: int | None = None,
        data_dir: StrPath | None = None,
        strict: bool = False,
        split: Literal["train", "val", "test"] = "test",
        include_seen: bool = False,
        # speed and cache
        engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        workers: int | None = None,
        cache_dir: StrPath | None = None,
        quiet: bool = False,
    ) -> Evaluation:
        """Evaluate on labeled images not used for training or selection; see `topgraft.evaluate`.

        Args:
            images: `Splits`, or whatever `open_images` takes; or samples, as ``photos.test``.
            split_seed: seed of the splits that Topgraft makes; default: the seed that the artifact was fitted with.
            limit: use a stratified subset of at most N images; default: all.
            data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
            strict: stop at unreadable images instead of leaving them out; default: False.
            split: split to use; images that the artifact has never seen count as test; default: test.
            include_seen: also count images that fitting or selection has used; default: False.
            engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
                `topgraft devices --measure`; default: auto.
            precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
                default: auto.
            device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
            workers: threads that decode images; default: one per usable core.
            cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the
                user's cache.
            quiet: show no progress and no notes.
        """
        options = _options(locals())
        from topgraft import api

        return api.evaluate(self, **options)

    def save(self, folder: StrPath, *, overwrite: bool = False, keep_checkpoint: bool = False) -> Path:
        """Write the model as one folder; see `topgraft.save`."""
        from topgraft import api

        return api.save(self, folder, overwrite=overwrite, keep_checkpoint=keep_checkpoint)


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method, without ``self``."""
    return {name: value for name, value in arguments.items() if name != "self"}
