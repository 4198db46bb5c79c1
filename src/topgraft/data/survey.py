"""Survey a set of images, as ``topgraft data`` shows it: counts, sizes, formats, duplicates."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from topgraft.errors import DataError, ImageError
from topgraft.system import progress
from topgraft.system.cores import usable_cores
from topgraft.system.reprs import Overview, Shown

from . import decode, overviews
from .file_types import name_format
from .hashing import read_file
from .samples import SPLIT_NAMES, Duplicate, Sample, SplitName, Splits, Unreadable
from .split_checks import require_readable

_CHUNK = 8  # images for one task of a thread


@dataclass(frozen=True)
class Range:
    """Smallest, median and largest side, in pixels."""

    smallest: int
    median: float
    largest: int


def _overview(this: Survey) -> Overview:
    """Counts by class and split, sizes and problems."""
    counts = {split: [images.get(name, 0) for name in this.classes] for split, images in this.counts.items()}
    sides = (this.widths, this.heights)
    sizes = [f"{r.smallest:,} to {r.largest:,} (median {r.median:,g})" for r in sides if r is not None]
    facts = {
        "source": this.where,
        "pixels": " × ".join(sizes),
        "formats": ", ".join(f"{kind} {count:,}" for kind, count in this.formats.items()),
        "unreadable": overviews.unreadable(this.unreadable),
        "duplicates": overviews.duplicates(this.duplicates),
        "cannot be fitted": this.problem or "",
        "notes": "; ".join(this.notes),
    }
    grid = overviews.by_class(this.classes, counts)
    return Overview(f"Survey: {overviews.images_of(this.images, this.classes)}", facts, (grid,))


@dataclass(frozen=True, repr=False)
class Survey(Shown, overview=_overview):
    """The content of a set of images. Every file was decoded in full; ``dataclasses.asdict`` of it is JSON.

    Attributes:
        where: argument of `open_images`, as a string.
        classes: class names, in label order.
        counts: split → class → images that can be read; only splits that have images. ``undivided`` is the key of
            images that have no splits and cannot be divided.
        images: the sum of `counts`.
        made: splits that Topgraft made; the others are those of the source.
        split_seed: seed of the splits in `made`.
        widths, heights: sides of the upright images in pixels; None without images.
        formats: format → images, most frequent first; ``array`` for images from memory.
        unreadable: files that were left out when opening or cannot be decoded, with the reason.
        duplicates: groups of images with equal content, including those dropped from splits of the source.
        under_two_labels: digests of the groups whose images have more than one label.
        across_splits: digests of the groups with images in more than one split.
        imbalance: images of the largest class over those of the smallest; None where a class has none.
        notes: sentences about how the images were found and divided.
        problem: why `fit` would refuse these images; None if it would not.
    """

    where: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    images: int
    made: tuple[SplitName, ...]
    split_seed: int
    widths: Range | None
    heights: Range | None
    formats: dict[str, int]
    unreadable: tuple[Unreadable, ...]
    duplicates: tuple[Duplicate, ...]
    under_two_labels: tuple[str, ...]
    across_splits: tuple[str, ...]
    imbalance: float | None
    notes: tuple[str, ...]
    problem: str | None


def survey(splits: Splits, *, workers: int | None = None) -> Survey:
    """Decode every image, in threads, and count.

    Args:
        splits: from `topgraft.open_images`, or from `topgraft.data.splits.divide_if_possible`.
        workers: threads; None is one per usable core.
    """
    samples = [sample for part in splits.parts.values() for sample in part]
    looks = _look_at(samples, workers)
    bad = {sample.name: str(look) for sample, look in zip(samples, looks, strict=True) if isinstance(look, ImageError)}
    good = [look for look in looks if not isinstance(look, ImageError)]
    counts = {name: _counts(splits.classes, part, bad) for name, part in splits.parts.items()}
    totals = [sum(split[name] for split in counts.values()) for name in splits.classes]
    smallest = min(totals, default=0)
    return Survey(
        where=splits.where,
        classes=splits.classes,
        counts=counts,
        images=len(good),
        made=tuple(split for split in SPLIT_NAMES if split in splits.made),
        split_seed=splits.split_seed,
        widths=_range([width for width, _, _ in good]),
        heights=_range([height for _, height, _ in good]),
        formats=dict(Counter(kind for _, _, kind in good).most_common()),
        unreadable=(*splits.unreadable, *(Unreadable(name, reason) for name, reason in bad.items())),
        duplicates=splits.duplicates,
        under_two_labels=tuple(group.digest for group in splits.duplicates if len(set(group.labels)) > 1),
        across_splits=tuple(group.digest for group in splits.duplicates if len(set(group.splits)) > 1),
        imbalance=max(totals) / smallest if smallest else None,
        notes=splits.notes,
        problem=splits.problem or _problem(splits, bad),
    )


_Look = tuple[int, int, str]  # width, height, format


def _look_at(samples: Sequence[Sample], workers: int | None) -> list[_Look | ImageError]:
    looks: list[_Look | ImageError] = []
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    threads = max(1, workers) if workers is not None else usable_cores()
    with ThreadPoolExecutor(threads) as pool, progress.bar("reading", len(samples)) as bar:
        for chunk_looks in pool.map(lambda chunk: [_look(sample) for sample in chunk], chunks):
            looks += chunk_looks
            bar.advance(len(chunk_looks))
    return looks


def _look(sample: Sample) -> _Look | ImageError:
    if sample.path is None:
        assert sample.array is not None
        return sample.array.shape[1], sample.array.shape[0], "array"
    try:
        data = read_file(sample.path)
        width, height = decode.decode(data).size
    except ImageError as error:
        return ImageError(str(error))  # without the traceback, which holds the bytes
    return width, height, name_format(data)


def _counts(classes: Sequence[str], samples: Sequence[Sample], bad: Mapping[str, str]) -> dict[str, int]:
    counts = dict.fromkeys(classes, 0)
    for label in _labels(samples, bad):
        counts[classes[label]] += 1
    return counts


def _labels(samples: Sequence[Sample], bad: Mapping[str, str]) -> list[int]:
    return [sample.label for sample in samples if sample.label is not None and sample.name not in bad]


def _problem(splits: Splits, bad: Mapping[str, str]) -> str | None:
    """Why the images cannot be fitted without those that cannot be decoded."""
    try:
        val = _labels(splits.val, bad) if splits.val else None
        require_readable(splits.classes, set(_labels(splits.train, bad)), val)
    except DataError as error:
        return str(error)
    return None


def _range(sides: Sequence[int]) -> Range | None:
    return Range(min(sides), statistics.median(sides), max(sides)) if sides else None
