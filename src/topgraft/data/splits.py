"""Dividing images into train, val and test: by content, stratified, and never the same image twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from topgraft.data.sources.base import Source
from topgraft.errors import DataError

from .samples import SPLIT_NAMES, Duplicate, Sample, SplitName, Splits, Unreadable, unread
from .split_checks import (
    Parts,
    absent_classes,
    dropped_copies,
    label_of,
    require_source,
    require_train,
    too_few_images,
    two_labels,
)

_FIFTHS: dict[SplitName, int] = {"train": 3, "val": 1, "test": 1}  # 60/20/20


_SHOWN = 20  # names in an error


def divide(source: Source, *, split_seed: int = 0, limit: int | None = None) -> Splits:
    """Give each image its split.

    Images without splits are divided 60/20/20. Within each class they are ranked by a hash of `split_seed` and
    content, and the ranking is cut: the first fifth is test, the next val, the rest train. So an image added
    moves at most one other across each cut. Where train and test are given and val is not, a fifth of train
    becomes val in the same way. Given splits are kept, but images whose content is in a later split too are
    dropped: from train if in val or test, from val if in test. Equal images never part, whatever their labels.

    Args:
        source: what `open_source` found.
        split_seed: of the splits that are made; given ones do not depend on it.
        limit: at most so many images, of each split and class in proportion and at least one of each. They are
            taken in the order of the same ranking, so a smaller limit takes a part of what a larger one takes.

    Returns:
        The splits, each in the source's order. `duplicates` are those of the whole source, also under `limit`.

    Raises:
        DataError: no images, one class, a class without images in train, fewer images than the splits need,
            or a limit that is too small for every class. What could not be read is named with it.
    """
    try:
        return _divide(source, split_seed, limit)
    except DataError as error:
        left_out = unread(source.unreadable, _SHOWN)
        raise DataError(f"{error}\n{left_out}" if left_out else str(error)) from None


def divide_if_possible(source: Source, *, split_seed: int = 0, limit: int | None = None) -> Splits:
    """As `divide`, for what needs no division: images that cannot be divided are all there, with the `problem`.

    Images that have splits stay in them; the others are `undivided`.

    Raises:
        DataError: a limit that is too small for every class.
    """
    try:
        return _divide(source, split_seed, limit)
    except DataError as error:
        problem = str(error)
    whole: dict[str, tuple[Sample, ...]] = {str(split): samples for split, samples in source.given.items()}
    whole["undivided"] = source.flat
    duplicates = tuple(
        Duplicate(
            digest,
            tuple(sample.name for sample, _ in group),
            tuple(sample.label for sample, _ in group),
            tuple(given for _, given in group if given),
        )
        for digest, group in _twins(source).items()
    )
    if limit is not None:
        whole = _take(whole, limit, split_seed)
    return Splits(
        where=source.where,
        classes=source.classes,
        train=whole.get("train", ()),
        val=whole.get("val", ()),
        test=whole.get("test", ()),
        split_seed=split_seed,
        unreadable=source.unreadable,
        duplicates=duplicates,
        notes=(*source.notes, *two_labels(duplicates)),
        undivided=whole["undivided"],
        problem=problem,
    )


def _divide(source: Source, split_seed: int, limit: int | None) -> Splits:
    require_source(source)
    parts: Parts = {split: list(source.given.get(split, ())) for split in SPLIT_NAMES}
    twins = _twins(source)
    dropped: set[str] = set()
    made: frozenset[SplitName] = frozenset()
    if source.flat:
        parts, made = _cut(source.flat, source.classes, _FIFTHS, split_seed), frozenset(SPLIT_NAMES)
    else:
        parts, dropped = _part_twins(parts)
        if not parts["val"]:
            require_train(parts, source, bool(dropped))
            parts |= _cut(parts["train"], source.classes, {"train": 4, "val": 1}, split_seed)
            made = frozenset({"val"})
    require_train(parts, source, bool(dropped))
    duplicates = _duplicates(source, parts, twins, dropped)
    notes = (
        *source.notes,
        *absent_classes(parts, source.classes),
        *dropped_copies(duplicates),
        *two_labels(duplicates),
    )
    if limit is not None:
        taken = _take({str(split): samples for split, samples in parts.items()}, limit, split_seed)
        parts = {split: list(taken[split]) for split in SPLIT_NAMES}
    return Splits(
        where=source.where,
        classes=source.classes,
        train=tuple(parts["train"]),
        val=tuple(parts["val"]),
        test=tuple(parts["test"]),
        made=made,
        split_seed=split_seed,
        unreadable=source.unreadable,
        duplicates=duplicates,
        notes=notes,
    )


def without(splits: Splits, unreadable: Sequence[Unreadable]) -> Splits:
    """The splits without images that turned out to be unreadable when they were decoded."""
    names = {entry.name for entry in unreadable}
    train, val, test = (tuple(s for s in splits[name] if s.name not in names) for name in SPLIT_NAMES)
    return replace(splits, train=train, val=val, test=test)


def _rank(split_seed: int, sample: Sample) -> bytes:
    return hashlib.sha256(f"{split_seed}:{sample.digest}".encode()).digest()


def _cut(samples: Sequence[Sample], classes: Sequence[str], shares: Mapping[SplitName, int], split_seed: int) -> Parts:
    """Divide samples by fifths. The shares add up to five; the first is that of what remains."""
    home: dict[str, int] = {}  # content → class it is ranked in: one, so that twins of two labels stay together
    for sample in samples:
        label = label_of(sample)
        home[sample.digest] = min(label, home.get(sample.digest, label))
    ranked: dict[int, list[tuple[bytes, str]]] = defaultdict(list)
    by_digest = {sample.digest: sample for sample in samples}
    for digest, label in home.items():
        ranked[label].append((_rank(split_seed, by_digest[digest]), digest))
    few = {classes[label]: len(found) for label, found in sorted(ranked.items()) if len(found) < len(shares)}
    if few:
        raise DataError(too_few_images(few, tuple(shares)))
    rest, *cut = shares
    place: dict[str, SplitName] = {}
    for contents in ranked.values():
        contents.sort()
        start = fifths = 0
        for split in reversed(cut):
            fifths += shares[split]
            # Each cut is rounded by itself, so that one more image moves none of them by more than one.
            stop = max(start + 1, (2 * fifths * len(contents) + 5) // 10)
            place |= {digest: split for _, digest in contents[start:stop]}
            start = stop
    parts: Parts = {split: [] for split in shares}
    for sample in samples:
        parts[place.get(sample.digest, rest)].append(sample)
    return parts


def _twins(source: Source) -> dict[str, list[tuple[Sample, SplitName | None]]]:
    """Content that more than one image has, with the split that each was given."""
    groups: dict[str, list[tuple[Sample, SplitName | None]]] = defaultdict(list)
    for sample in source.flat:
        groups[sample.digest].append((sample, None))
    for split, samples in source.given.items():
        for sample in samples:
            groups[sample.digest].append((sample, split))
    return {digest: group for digest, group in groups.items() if len(group) > 1}


def _part_twins(parts: Parts) -> tuple[Parts, set[str]]:
    """Given splits without what is in a later one too, and the names of what was dropped."""
    later: set[str] = set()
    kept: Parts = {}
    dropped: set[str] = set()
    for split in reversed(SPLIT_NAMES):
        kept[split] = [sample for sample in parts[split] if sample.digest not in later]
        dropped |= {sample.name for sample in parts[split] if sample.digest in later}
        later |= {sample.digest for sample in parts[split]}
    return kept, dropped


def _duplicates(
    source: Source,
    parts: Parts,
    twins: Mapping[str, Sequence[tuple[Sample, SplitName | None]]],
    dropped: set[str],
) -> tuple[Duplicate, ...]:
    """Groups of equal images; `splits` are where they lie, for dropped ones the split they were given."""
    if not twins:
        return ()
    lies = {sample.name: split for split, samples in parts.items() for sample in samples}
    groups: list[Duplicate] = []
    for digest, group in twins.items():
        names = tuple(sample.name for sample, _ in group)
        splits = tuple(lies.get(sample.name, given or "train") for sample, given in group)
        labels = tuple(sample.label for sample, _ in group)
        groups.append(Duplicate(digest, names, labels, splits, tuple(name for name in names if name in dropped)))
    return tuple(groups)


def _take(parts: Mapping[str, Sequence[Sample]], limit: int, split_seed: int) -> dict[str, tuple[Sample, ...]]:
    """The first `limit` of one order of all images, whose every beginning is stratified.

    First comes one image of each class in train, then in val, then in test. Then the image at rank r of n in
    its class and split comes at the place (r + ½) / n, so that all classes and splits run out together.
    """
    strata: dict[tuple[str, int], list[tuple[bytes, str]]] = defaultdict(list)
    for split, samples in parts.items():
        for sample in samples:
            strata[split, label_of(sample)].append((_rank(split_seed, sample), sample.name))
    if limit < len(strata):
        raise DataError(
            f"a limit of {limit} images is too small: every class needs one in each of its splits, "
            f"{len(strata)} in all. Raise the limit to {len(strata)} or more"
        )
    order: list[tuple[float, bytes, str]] = []
    first = {split: number - len(parts) for number, split in enumerate(parts)}
    for (split, _), ranked in strata.items():
        ranked.sort()
        for place, (rank, name) in enumerate(ranked):
            order.append(((place + 0.5) / len(ranked) if place else first[split], rank, name))
    order.sort()
    taken = {name for _, _, name in order[:limit]}
    return {split: tuple(sample for sample in samples if sample.name in taken) for split, samples in parts.items()}
