"""A small fitted model that needs no fit: a network of a few hundred numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from topgraft import metrics
from topgraft.data.loader import Batch
from topgraft.data.samples import ImageSpec, Unreadable
from topgraft.evaluation.results import Cost, Evaluation, FittedClassifier
from topgraft.features.engines.base import EngineChoice
from topgraft.features.frozen_base import Base, open_base
from topgraft.metrics import Interval
from topgraft.models.backbones.init import glorot_uniform
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Backbone, Build, Chain, random_chain
from topgraft.models.weights.digest import file_sha256
from topgraft.strategies.history import EpochRecord

SPEC = ImageSpec(32, 36, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "BGR", "full")
CLASSES = ("ant", "bee", "Käfer")


def build(options: Build) -> Chain:
    stem = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return {"stem": stem, "head": nn.Linear(8, options.classes)}


BUILD = Build(input_size=32, classes=len(CLASSES))
TINY = Backbone(
    name="tiny",
    family="tests",
    year=2026,
    paper="none",
    groups=("stem", "head"),
    feature_width=8,
    build=build,
    initialize=glorot_uniform,
    conventions=(),
    untrained=SPEC,
)


def add_tiny() -> None:
    """Let `topgraft.artifacts.load.load` find the network."""
    BACKBONES["tiny"] = TINY


def write_weights(path: Path, classes: int, seed: int = 0, backbone: str = "tiny") -> str:
    """A file of weights with the published top, as a user may have it; returns its SHA-256."""
    network = BACKBONES[backbone]
    chain = random_chain(network, Build(input_size=32, classes=classes, top="published"), seed)
    save_file(nn.ModuleDict(chain).state_dict(), path)
    return file_sha256(path)


def fitted(seed: int = 0, where: str = "photos") -> FittedClassifier:
    """A model as `topgraft.fit` returns it; the same seed gives the same bytes."""
    torch.manual_seed(seed)
    labels = np.array([0, 1, 2, 0, 1], dtype=np.int64)
    logits = np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32)
    names = tuple(f"{CLASSES[label]}/{at}.png" for at, label in enumerate(labels))
    return FittedClassifier(
        classifier=Classifier(build(BUILD), SPEC).eval(),
        classes=CLASSES,
        spec=SPEC,
        config={
            "backbone": {
                "name": "tiny", "build": asdict(BUILD), "weights": "tiny-0", "weights_sha256": "0", "licence": "MIT",
                "paper": "",
            },
            "strategy": "head",
            "selection": {"strength": 0.1, "by": "validation", "images": 5},
            "settings": {"seed": seed},
            "resolved": {"engine": {"name": "torch", "precision": "fp32", "device": "cpu", "batch_size": 2}},
            "seed": seed,
            "data": {
                "where": where,
                "images": {"train": 3, "val": 5, "test": 1},
                "split_seed": 0,
                "made": ["train", "val", "test"],
            },
            "notes": ["one note"],
            "versions": {"topgraft": "0.1.0"},
        },
        history=(
            EpochRecord(0, "head", 0, 0.5, 0.1, 0.2, Interval(0.8, 0.5, 0.9, 5), None, 0.1, True),
            EpochRecord(0, "head", 0, 0.5),
        ),
        validation=Evaluation(
            "val", True, names, logits, labels, CLASSES, metrics.evaluate_logits(logits, labels, CLASSES), where=where,
        ),
        seen={"a" * 64: "train", "b" * 64: "val", "c" * 64: "test"},
        unreadable=(Unreadable("ant/ä.png", "is empty (0 bytes)"),),
        cost=Cost({"total": 1.5}, 9, 0),
    )  # fmt: skip


CHOICE = EngineChoice("torch", "fp32", "cpu", 2, threads=1)


class _Counting:
    """An engine that notes what it has run."""

    def __init__(self, model: FittedClassifier, ran: list[int]) -> None:
        self.choice, self.version = CHOICE, "1"
        self._model, self._ran = model, ran

    def run(self, batches: Iterator[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in batches:
            if len(batch.indices):
                self._ran.append(len(batch.indices))
                with torch.inference_mode():
                    yield batch.indices, self._model.classifier.features(batch.pixels).numpy()


def base_of(model: FittedClassifier, folder: Path, ran: list[int] | None = None) -> Base:
    """The model's base in a cache of its own; `ran` gets the sizes of the batches that run."""
    counted: list[int] = [] if ran is None else ran
    opened = open_base(model.classifier, CHOICE, 0, folder / "cache")
    return replace(opened, build=lambda: _Counting(model, counted))
