"""A network and images small enough to train in a second: squares whose color is their class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.pixel_cache import Pixels, open_pixels
from topgraft.data.samples import ImageSpec, Sample
from topgraft.models.classifier import Classifier
from topgraft.training.inputs import TrainingInputs

SPEC = ImageSpec(16, 16, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLASSES = 3


def small_classifier(seed: int = 0, classes: int = CLASSES) -> Classifier:
    """A stem with BatchNorm, a stage without, and a head: 16×16 images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        stage = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        chain: dict[str, nn.Module] = {"stem": stem, "stage1": stage, "head": nn.Linear(12, classes)}
    return Classifier(chain, SPEC).eval()


def colored(count: int, seed: int = 0, classes: int = CLASSES) -> list[Sample]:
    """Labeled images whose strongest channel is their label, under noise."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        array = generator.integers(0, 160, (16, 16, 3), dtype=np.uint8)
        array[..., number % classes] += 60
        samples.append(Sample(f"{seed}/{number}", number % classes, array=array, digest=f"{seed:032x}{number:032x}"))
    return samples


def pixels_of(samples: list[Sample], keep: bool = True) -> Pixels:
    """Ready to step on."""
    return open_pixels(samples, SPEC, workers=0, keep=keep, description="decode")


class Noted:
    """TrainingInputs that notes what was stepped on: the epoch, and the images of each batch. It may stop there."""

    def __init__(self, material: TrainingInputs, stop_at: int | None = None) -> None:
        self.labels, self.boundary = material.labels, material.boundary
        self.log: list[tuple[int, tuple[int, ...]]] = []
        self._material, self._stop_at = material, stop_at

    def batches(
        self, order: NDArray[np.int64], batch_size: int, at: int | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number, batch in enumerate(self._material.batches(order, batch_size, at)):
            if at is not None:
                if len(self.log) == self._stop_at:
                    raise KeyboardInterrupt
                start = number * batch_size
                self.log.append((at, tuple(order[start : start + batch_size].tolist())))
            yield batch


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return list(one) == list(other) and all(one[key].numpy().tobytes() == other[key].numpy().tobytes() for key in one)


def state_of(classifier: Classifier) -> dict[str, torch.Tensor]:
    """A copy that later steps do not change."""
    return {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
