"""Records of images, splits and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from topgraft.system.reprs import Shown

from . import overviews

SplitName = Literal["train", "val", "test"]


SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sample(Shown, overview=overviews.sample):
    """One labeled image, not yet decoded.

    Attributes:
        name: name in messages and files: the path below the root of the source with forward slashes, or for
            example ``cifar10/test/17``. Unique within a `Splits`.
        label: index into the classes; None if unlabeled.
        path: the image file. Exactly one of `path` and `array` is set.
        array: uint8, H×W×3 (RGB) or H×W (gray).
        digest: SHA-256 in hex of the file's bytes, or of an array's shape and bytes.
    """

    name: str
    label: int | None
    path: Path | None = None
    array: NDArray[np.uint8] | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that was left out. `reason` says why in one line."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Duplicate(Shown, overview=overviews.duplicate):
    """Images with the same content. `names`, `labels` and `splits` have one entry for each.

    `dropped` lists the names that were left out of train or val because a later split has the same content.
    `splits` is empty if the images could not be divided.
    """

    digest: str
    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    splits: tuple[SplitName, ...]
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Splits(Shown, overview=overviews.splits):
    """Labeled images, divided; the result of `tg.open_images`.

    Attributes:
        where: argument of `open_images`, as a string.
        classes: class names, in label order.
        train, val, test: samples; `test` is empty if the source has none.
        made: splits that Topgraft made by content; the others are those of the source.
        split_seed: seed of the splits in `made`.
        unreadable: files that were left out when opening. Damage found in decoding is not included.
        duplicates: groups of images with equal content.
        notes: sentences for the user about how the images were found and divided.
        undivided: samples of a source that has no splits and cannot be divided; the splits are then empty.
        problem: why `fit` would refuse these images; None in results of `tg.open_images`, which raises it.
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
        """The samples of the named split: ``splits["val"]``."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def parts(self) -> dict[str, tuple[Sample, ...]]:
        """The non-empty ones of train, val, test and ``undivided``, in this order."""
        parts = {"train": self.train, "val": self.val, "test": self.test, "undivided": self.undivided}
        return {name: samples for name, samples in parts.items() if samples}


@dataclass(frozen=True)
class ImageSpec:
    """The preprocessing of images for a network. The weights define it, and the artifact stores it.

    An image is converted to RGB, its shorter side is resized to `resize_size`, the central
    `input_size` × `input_size` square is cropped, values are scaled to 0…1, put into `channel_order`,
    and normalized per channel: ``(x - mean) / std``.

    Attributes:
        input_size: side in pixels of the square input of the network.
        resize_size: shorter side in pixels after the resize; at least `input_size`.
        interpolation: filter of the resize.
        mean, std: values for each channel, in units of 0…1, in the order of `channel_order`.
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


def unread(unreadable: Sequence[Unreadable], most: int | None = None) -> str:
    """``3 files cannot be read:`` and one line for each with its reason; empty if there are none."""
    if not unreadable:
        return ""
    files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
    lines = "".join(f"\n  {entry.name}: {entry.reason}" for entry in unreadable[:most])
    more = f"\n  and {len(unreadable) - most:,} more" if most is not None and len(unreadable) > most else ""
    return f"{files} cannot be read:{lines}{more}"


def labels_of(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """The label of each sample; -1 if there is none."""
    return np.array([-1 if sample.label is None else sample.label for sample in samples], dtype=np.int64)
