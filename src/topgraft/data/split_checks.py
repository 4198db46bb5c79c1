"""Checks of images before and after the division into splits, and notes about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from topgraft.data.sources.base import Source
from topgraft.errors import DataError
from topgraft.system.formatting import listing

from .samples import Duplicate, Sample, SplitName, Unreadable, unread

Parts = dict[SplitName, list[Sample]]


def refuse_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Refuse files that cannot be read, as ``strict`` requires.

    Raises:
        DataError: there are unreadable files; the message lists all of them with their reasons.
    """
    if unreadable:
        raise DataError(f"{unread(unreadable)}\nMend or remove them, or run without --strict to leave them out")


def refuse_vanished(gone: Sequence[Unreadable]) -> None:
    """Refuse to continue without images that could be read when the fit began.

    Raises:
        DataError: images cannot be read any more; the message lists them with their reasons.
    """
    if gone:
        raise DataError(
            f"{unread(gone)}\nThis was not so when the fit began. Bring them back, and continue with --resume"
        )


def require_readable(classes: Sequence[str], train: Collection[int], val: Collection[int] | None) -> None:
    """Check the classes again after decoding.

    Args:
        classes: names, in label order.
        train: labels of the training images that could be decoded.
        val: the same of the validation images; None if there were none.

    Raises:
        DataError: a class without a readable training image, or no readable validation image.
    """
    gone = [name for label, name in enumerate(classes) if label not in train]
    if gone:
        raise DataError(f"no training image of {_classes(gone)} can be read. Add images, or remove the class")
    if val is not None and not val:
        raise DataError("no validation image can be read. Add images, or let Topgraft make the splits")


def few_images(few: Mapping[int, int], parts: Parts, classes: Sequence[str]) -> list[str]:
    """Notes on classes with fewer different images than splits, all of which are in train.

    Args:
        few: label → different images of such a class.
        parts: the splits.
        classes: names, in label order.
    """
    if not few:
        return []
    if not parts["val"]:
        return [
            f"there are no validation images, as no class has {2 if parts['test'] else 3} different images: how good "
            "the model is will not be known until it is evaluated on others"
        ]
    names = listing(f"{classes[label]} ({images})" for label, images in few.items())
    one = len(few) == 1
    return [
        f"all images of {'the class' if one else f'{len(few)} classes,'} {names}{'' if one else ','} are in train, as "
        f"there are so few: how well {'it is' if one else 'they are'} recognized will not be known"
    ]


def label_of(sample: Sample) -> int:
    if sample.label is None:
        raise DataError(f"{sample.name} has no label, and images are divided by label. Give each image one")
    return sample.label


def require_source(source: Source) -> None:
    """Require images, two classes, images in every class, and usable splits if the source has splits."""
    if not source.samples:
        raise DataError(
            f"{source.where} holds no images that can be read. Give a folder with one folder of images for each class"
        )
    if len(source.classes) < 2:
        raise DataError(
            f"{source.where} has only one class, {source.classes[0]}. A classifier needs two or more; to tell "
            "one thing from the rest, add a class of other images"
        )
    if not source.flat:
        _require_given(source)
    counts = _counts(source.samples, source.classes)
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise DataError(
            f"no images that can be read in {_classes(empty)} of {source.where}. Add images, or remove the class"
        )


def _require_given(source: Source) -> None:
    if not source.given.get("train"):
        raise DataError(
            f"{source.where} has no images in train, only in {' and '.join(source.given)}. Add train, "
            "or give one folder without splits to have it divided"
        )
    if "val" in source.given and not source.given["val"]:
        raise DataError(
            f"{source.where} has a val without images that can be read. Add images, or remove it to have "
            "a fifth of train taken"
        )
    if not source.given.get("val") and not source.given.get("test"):
        raise DataError(f"{source.where} has no images in val and test. Add one of them, or leave the splits out")


def require_train(parts: Parts, source: Source, dropped: bool) -> None:
    empty = [name for name, count in _counts(parts["train"], source.classes).items() if not count]
    if empty:
        also = " that are not in val or test too" if dropped else ""
        raise DataError(
            f"no images in train{also} of {_classes(empty)} in {source.where}. Add images, or remove the class "
            "from every split"
        )


def absent_classes(parts: Parts, classes: Sequence[str]) -> list[str]:
    """Notes on splits with images that lack some classes."""
    notes: list[str] = []
    for split in ("val", "test"):
        samples = parts[split]
        empty = [name for name, count in _counts(samples, classes).items() if not count]
        if samples and empty:
            notes.append(f"{split} has no images of {_classes(empty)}")
    return notes


def dropped_copies(duplicates: Sequence[Duplicate]) -> list[str]:
    names = [name for group in duplicates for name in group.dropped]
    if not names:
        return []
    images = "1 image is" if len(names) == 1 else f"{len(names):,} images are"
    return [f"{images} left out of train or val, because a later split holds an exact copy: {listing(names)}"]


def two_labels(duplicates: Sequence[Duplicate]) -> list[str]:
    groups = [" = ".join(group.names) for group in duplicates if len(set(group.labels)) > 1]
    if not groups:
        return []
    images = "1 image is" if len(groups) == 1 else f"{len(groups):,} images are"
    return [f"{images} there under two labels or more, and kept so: {listing(groups)}"]


def _counts(samples: Sequence[Any], classes: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(classes, 0)
    for sample in samples:
        counts[classes[label_of(sample)]] += 1
    return counts


def _classes(names: Sequence[str]) -> str:
    return f"{'the class' if len(names) == 1 else 'the classes'} {listing(names)}"
