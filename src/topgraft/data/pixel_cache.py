"""Training images: decoded once if they fit into memory; else, or if augmented, again in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.system import progress

from .augment import View
from .loader import batches
from .samples import ImageSpec, Sample, Unreadable

# Bytes of cached pixels, of all splits together: CIFAR's 50,000 images of 32×32 take 0.15 GB, and a laptop can spare a
# gigabyte while a network trains.
KEPT_BYTES = 1 << 30
_BATCH = 256  # images decoded at a time to fill the cache


@dataclass(frozen=True, eq=False)
class Pixels:
    """The images of one split.

    Attributes:
        samples: all samples, including those that cannot be decoded.
        labels: int64, one for each sample.
        spec: preprocessing.
        workers: number of decoding threads.
        kept: cached pixels, uint8 samples×H×W×3, RGB, black if unreadable; None if decoded in every epoch.
        failed: index of a sample → why it cannot be decoded. Without a cache it grows if files change.
    """

    samples: Sequence[Sample]
    labels: torch.Tensor
    spec: ImageSpec
    workers: int
    kept: torch.Tensor | None
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def readable(self) -> NDArray[np.int64]:
        """Indices of the samples that are not known to be unreadable, ascending."""
        return np.array([index for index in range(len(self.samples)) if index not in self.failed], dtype=np.int64)

    def unread(self, index: int) -> Unreadable | None:
        """Why a sample cannot be decoded; None if no failure is known."""
        return Unreadable(self.samples[index].name, self.failed[index]) if index in self.failed else None

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """The samples that are known to be unreadable, with the reason."""
        return tuple(Unreadable(self.samples[index].name, reason) for index, reason in sorted(self.failed.items()))


def fits(images: int, spec: ImageSpec) -> bool:
    """Whether the pixels of this number of images fit into the cache."""
    return images * spec.input_size**2 * 3 <= KEPT_BYTES


def open_pixels(samples: Sequence[Sample], spec: ImageSpec, *, workers: int, keep: bool, description: str) -> Pixels:
    """The images of a split. Each is decoded once, also without a cache, to find those that cannot be decoded.

    Args:
        samples: labeled samples.
        spec: preprocessing.
        workers: number of decoding threads.
        keep: whether to cache the pixels; see `fits`.
        description: label of the progress bar.
    """
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    side = spec.input_size
    kept = torch.zeros((len(samples), side, side, 3), dtype=torch.uint8) if keep else None
    failed: dict[int, str] = {}
    with progress.bar(description, len(samples)) as bar:
        for batch in batches(samples, spec, batch_size=_BATCH, workers=workers):
            if kept is not None:
                kept[torch.from_numpy(batch.indices)] = batch.pixels
            failed.update(batch.failed)
            bar.advance(len(batch.indices) + len(batch.failed))
    return Pixels(samples, labels, spec, workers, kept, failed)


def epoch(
    pixels: Pixels, order: NDArray[np.int64], batch_size: int, view: View | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches in an order: uint8 N×H×W×3 and int64 N. Unreadable images are left out and recorded in `failed`.

    Args:
        pixels: images of one split.
        order: indices of samples.
        batch_size: the last batch may be smaller, as may one with unreadable images.
        view: what is drawn at random for each image; it is then decoded again, whatever is kept. None is the
            spec's central crop.
    """
    if pixels.kept is not None and view is None:
        for start in range(0, len(order), batch_size):
            indices = torch.from_numpy(order[start : start + batch_size])
            yield pixels.kept[indices], pixels.labels[indices]
        return
    shuffled = [pixels.samples[index] for index in order]
    for batch in batches(shuffled, pixels.spec, batch_size=batch_size, workers=pixels.workers, view=view):
        pixels.failed.update((int(order[index]), reason) for index, reason in batch.failed)
        if len(batch.indices):
            yield batch.pixels, pixels.labels[torch.from_numpy(order[batch.indices])]
