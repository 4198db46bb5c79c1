"""Frozen records that travel along the line. No behavior beyond derived values, and no torch."""

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
        name: what a user is shown and what files record: the path below the source's root with forward
            slashes, or for example ``cifar10/test/17``. Unique within a `Splits`.
        label: index into the classes; None where unlabeled.
        path: the image file. Exactly one of `path` and `array` is given.
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
    """Labeled images, divided. `tg.open_images` makes it.

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
    and normalized per channel: ``(x - mean) / std``.

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


def unread(unreadable: Sequence[Unreadable], most: int | None = None) -> str:
    """``3 files cannot be read:`` and below it one line for each with its reason; empty where there are none."""
    if not unreadable:
        return ""
    files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
    lines = "".join(f"\n  {entry.name}: {entry.reason}" for entry in unreadable[:most])
    more = f"\n  and {len(unreadable) - most:,} more" if most is not None and len(unreadable) > most else ""
    return f"{files} cannot be read:{lines}{more}"


def labels_of(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """The label of each sample; -1 where there is none."""
    return np.array([-1 if sample.label is None else sample.label for sample in samples], dtype=np.int64)
