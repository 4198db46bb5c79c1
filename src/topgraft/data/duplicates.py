"""Find images of equal content, and drop copies of images that are in a later split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from topgraft.data.sources.base import Source

from .samples import SPLIT_NAMES, Duplicate, Sample, SplitName
from .split_checks import Parts


def find_duplicates(source: Source, parts: Parts, dropped: Collection[str] = ()) -> tuple[Duplicate, ...]:
    """Groups of equal images.

    Args:
        source: all images, with the splits that they have.
        parts: splits after the division; empty where the images are not divided.
        dropped: names of images that `drop_copies` dropped; their split is that of the source.
    """
    groups: dict[str, list[tuple[Sample, SplitName | None]]] = defaultdict(list)
    for sample in source.flat:
        groups[sample.digest].append((sample, None))
    for split, samples in source.given.items():
        for sample in samples:
            groups[sample.digest].append((sample, split))
    equal = {digest: group for digest, group in groups.items() if len(group) > 1}
    if not equal:
        return ()
    split_of = {sample.name: split for split, samples in parts.items() for sample in samples}
    return tuple(
        Duplicate(
            digest=digest,
            names=tuple(sample.name for sample, _ in group),
            labels=tuple(sample.label for sample, _ in group),
            splits=tuple(part for sample, split in group if (part := split_of.get(sample.name, split))),
            dropped=tuple(sample.name for sample, _ in group if sample.name in dropped),
        )
        for digest, group in equal.items()
    )


def drop_copies(parts: Parts) -> tuple[Parts, set[str]]:
    """The splits without images that are also in a later split, and the names of the dropped images."""
    later: set[str] = set()
    remaining: Parts = {}
    dropped: set[str] = set()
    for split in reversed(SPLIT_NAMES):
        remaining[split] = [sample for sample in parts[split] if sample.digest not in later]
        dropped |= {sample.name for sample in parts[split] if sample.digest in later}
        later |= {sample.digest for sample in parts[split]}
    return remaining, dropped
