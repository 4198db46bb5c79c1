"""What a phase steps on: pixels, or activations that the frozen prefix made of them and the cache holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .augmentation import Augmentation, View
from .cache import FeatureStore
from .pixels import Pixels, epoch


class Material(Protocol):
    """Labelled images of train and validation together, in the form that the first training group takes, or before.

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
        """


@dataclass(frozen=True, eq=False)
class PixelMaterial:
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
        """See `Material`."""
        return self.pixels.labels

    def batches(
        self, order: NDArray[np.int64], batch_size: int, at: int | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `Material.batches`."""
        view = None
        if at is not None and self.augmentation is not None:
            view = View(self.augmentation, self.seed, at - 1)
        if view is None and self.judged is not None and len(order) and order.min() >= self.first:
            return epoch(self.judged, order - self.first, batch_size)
        return epoch(self.pixels, order, batch_size, view)


@dataclass(frozen=True, eq=False)
class StoredMaterial:
    """Activations in float32, N×C×H×W or N×features, by the content of each image.

    Attributes:
        labels: int64, one for each image.
        boundary: the last group of the prefix.
        digests: of each image's content.
        plain: rows of the plain images.
        views: rows of the augmented views; an epoch takes the next, and after the last the first again. Where there
            are none, the plain rows are taken.
    """

    labels: torch.Tensor
    boundary: str
    digests: Sequence[str]
    plain: FeatureStore
    views: tuple[FeatureStore, ...] = ()

    def batches(
        self, order: NDArray[np.int64], batch_size: int, at: int | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `Material.batches`."""
        store = self.plain if at is None or not self.views else self.views[(at - 1) % len(self.views)]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = torch.from_numpy(store.gather([self.digests[index] for index in chosen]))
            if rows.ndim == 4:
                rows = rows.contiguous(memory_format=torch.channels_last)
            yield rows, self.labels[torch.from_numpy(chosen)]
