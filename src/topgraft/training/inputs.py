"""What a phase steps on: pixels, or activations that the frozen prefix made of them and the cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.data.augment import Augmentation, View
from topgraft.data.pixel_cache import Pixels, epoch
from topgraft.data.split_checks import refuse_vanished
from topgraft.features.store import FeatureStore
from topgraft.strategies.plan import Phase
from topgraft.training.head import Labeled


class TrainingInputs(Protocol):
    """Labeled images of train and validation together, in the form that the first training group takes, or before.

    Attributes:
        labels: int64, one for each image.
        boundary: the group whose activations these are; None for pixels.
    """

    @property
    def labels(self) -> torch.Tensor:
        """See the class."""

    @property
    def boundary(self) -> str | None:
        """See the class."""

    def batches(
        self, order: NDArray[np.int64], batch_size: int, at: int | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches in an order, and their labels.

        Args:
            order: indices of images.
            batch_size: the last batch may be smaller, as may one with images that cannot be read.
            at: the epoch, from 1, whose augmented views these are; None for the plain images.

        Raises:
            DataError: a plain image can no longer be read: what is compared image by image needs all of them.
        """


@dataclass(frozen=True, eq=False)
class PixelInputs:
    """uint8 N×H×W×3. With an augmentation every epoch sees views of its own.

    Attributes:
        pixels: all images.
        augmentation: what is drawn for the views; None for the plain images.
        seed: of what is drawn.
        judged: the images from index `first` on, where those alone are kept decoded.
        first: see `judged`.
    """

    pixels: Pixels
    augmentation: Augmentation | None = None
    seed: int = 0
    judged: Pixels | None = None
    first: int = 0
    boundary: None = None

    @property
    def labels(self) -> torch.Tensor:
        """See `TrainingInputs`."""
        return self.pixels.labels

    def batches(
        self, order: NDArray[np.int64], batch_size: int, at: int | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `TrainingInputs.batches`."""
        if at is None:
            yield from self._judged(order, batch_size)
        else:
            view = None if self.augmentation is None else View(self.augmentation, self.seed, at - 1)
            yield from epoch(self.pixels, order, batch_size, view)

    def _judged(self, order: NDArray[np.int64], batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pixels = self.pixels
        if self.judged is not None and len(order) and order.min() >= self.first:
            pixels, order = self.judged, order - self.first
        there = 0
        for images, labels in epoch(pixels, order, batch_size):
            there += len(labels)
            yield images, labels
        if there < len(order) or pixels.kept is not None:  # kept, what is unreadable is black
            refuse_vanished([entry for at in order if (entry := pixels.unread(int(at))) is not None])


@dataclass(frozen=True, eq=False)
class CachedActivations:
    """Activations in float32, N×C×H×W or N×features, by the content of each image.

    Attributes:
        labels: int64, one for each image.
        boundary: the last group of the prefix.
        digests: of each image's content.
        plain: rows of the plain images.
        views: rows of the augmented views; an epoch takes the next, and after the last the first again. Where there
            are none, the plain rows are taken.
        ahead: a thread reads the next batch meanwhile, so that a GPU need not wait for the disk. A processor's cores
            have enough to do: on two of them a step took up to a quarter longer.
        failed: number of a view, from 0, and index → why there is no row; the image is left out of that view's epochs.
    """

    labels: torch.Tensor
    boundary: str
    digests: Sequence[str]
    plain: FeatureStore
    views: tuple[FeatureStore, ...] = ()
    ahead: bool = False
    failed: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def batches(
        self, order: NDArray[np.int64], batch_size: int, at: int | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `TrainingInputs.batches`."""
        store, parts = self.plain, [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if at is not None and self.views:
            number = (at - 1) % len(self.views)
            store = self.views[number]
            without = np.array([index for view, index in self.failed if view == number], dtype=np.int64)
            parts = [part for part in (part[~np.isin(part, without)] for part in parts) if len(part)]
        if not self.ahead:
            for part in parts:
                yield self._batch(store, part)
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="topgraft-read")
        try:
            now: Future[tuple[torch.Tensor, torch.Tensor]] | None = None
            for part in parts:
                following = pool.submit(self._batch, store, part)
                if now is not None:
                    yield now.result()
                now = following
            if now is not None:
                yield now.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, store: FeatureStore, part: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(store.gather([self.digests[index] for index in part]))
        if rows.ndim == 4:
            rows = rows.contiguous(memory_format=torch.channels_last)
        return rows, self.labels[torch.from_numpy(part)]


@dataclass(frozen=True)
class Inputs:
    """What phases train on.

    Attributes:
        features: of train and of validation, where the head is solved.
        material: gives the images for a phase that steps, by its table.
        train, val: indices into that material of the images that can be read, as the features' rows have them.
    """

    features: tuple[Labeled, Labeled] | None = None
    material: Callable[[Phase, Mapping[str, float | None]], TrainingInputs] | None = None
    train: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    val: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
