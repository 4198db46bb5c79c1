"""Divide images into train, val and test: stratified by class, and equal images in the same split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from topgraft.data.sources.base import Source
from topgraft.errors import DataError

from .duplicates import drop_copies, find_duplicates
from .samples import SPLIT_NAMES, Sample, SplitName, Splits, Unreadable, unread
from .split_checks import (
    Parts,
    absent_classes,
    dropped_copies,
    few_images,
    label_of,
    require_source,
    require_train,
    two_labels,
)

_FIFTHS: dict[SplitName, int] = {"train": 3, "val": 1, "test": 1}  # 60/20/20
_MOST_NAMES = 20  # of unreadable files in an error


def divide(source: Source, *, split_seed: int = 0, limit: int | None = None) -> Splits:
    """Give each image its split.

    Images without splits are divided 60/20/20. Within each class they are ranked by a hash of `split_seed` and
    content, and the ranking is cut: the first fifth is test, the next val, the rest train. So adding an image
    moves at most one other image across each cut. A source with train and test but no val has a fifth of train
    taken as val in the same way. A class with fewer images than there are parts is in train as a whole. Splits of the
    source do not change, except that images whose content is also in a later split are dropped: from train if in val
    or test, from val if in test. Equal images get the same split, whatever their labels.

    Args:
        source: result of `open_source`.
        split_seed: seed of the division; splits of the source do not depend on it.
        limit: largest number of images. Splits and classes shrink in proportion, to at least one image each. The
            images are taken in the order of the same ranking, so a smaller limit takes a subset of a larger one's.

    Returns:
        The splits, each in the source's order. `duplicates` are those of the whole source, also with a `limit`.

    Raises:
        DataError: no images, one class, a class without images in train, or a limit that is too small for every
            class. The message lists the files that could not be read.
    """
    try:
        return _divide(source, split_seed, limit)
    except DataError as error:
        reasons = unread(source.unreadable, _MOST_NAMES)
        raise DataError(f"{error}\n{reasons}" if reasons else str(error)) from None


def divide_if_possible(source: Source, *, split_seed: int = 0, limit: int | None = None) -> Splits:
    """Like `divide`, but images that cannot be divided are returned with the `problem` instead of raising it.

    Images that have splits remain in them; the others are `undivided`.

    Raises:
        DataError: a limit that is too small for every class.
    """
    try:
        return _divide(source, split_seed, limit)
    except DataError as error:
        problem = str(error)
    whole: dict[str, tuple[Sample, ...]] = {str(split): samples for split, samples in source.given.items()}
    whole["undivided"] = source.flat
    duplicates = find_duplicates(source, {})
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
    dropped: set[str] = set()
    made: frozenset[SplitName] = frozenset()
    few: dict[int, int] = {}
    if source.flat:
        parts, few = _cut(source.flat, _FIFTHS, split_seed)
        made = frozenset(SPLIT_NAMES)
    else:
        parts, dropped = drop_copies(parts)
        if not parts["val"]:
            require_train(parts, source, bool(dropped))
            cut, few = _cut(parts["train"], {"train": 4, "val": 1}, split_seed)
            parts |= cut
            made = frozenset({"val"})
    require_train(parts, source, bool(dropped))
    duplicates = find_duplicates(source, parts, dropped)
    notes = (
        *source.notes,
        *(few_images(few, parts, source.classes) or absent_classes(parts, source.classes)),
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
    """The splits without the images that could not be decoded."""
    names = {entry.name for entry in unreadable}
    train, val, test = (tuple(s for s in splits[name] if s.name not in names) for name in SPLIT_NAMES)
    return replace(splits, train=train, val=val, test=test)


def _rank(split_seed: int, sample: Sample) -> bytes:
    return hashlib.sha256(f"{split_seed}:{sample.digest}".encode()).digest()


def _cut(samples: Sequence[Sample], shares: Mapping[SplitName, int], split_seed: int) -> tuple[Parts, dict[int, int]]:
    """Divide samples by fifths. The shares sum to five; the first is that of the remaining samples.

    Returns:
        The parts, and the number of different images of each label that has fewer than there are parts: all of them
        are in the first.
    """
    home: dict[str, int] = {}  # digest → class it is ranked in: one, so that equal images of two labels stay together
    for sample in samples:
        label = label_of(sample)
        home[sample.digest] = min(label, home.get(sample.digest, label))
    ranked: dict[int, list[tuple[bytes, str]]] = defaultdict(list)
    by_digest = {sample.digest: sample for sample in samples}
    for digest, label in home.items():
        ranked[label].append((_rank(split_seed, by_digest[digest]), digest))
    few = {label: len(digests) for label, digests in sorted(ranked.items()) if len(digests) < len(shares)}
    rest, *cut = shares
    place: dict[str, SplitName] = {}
    for label, contents in ranked.items():
        if label in few:
            continue
        contents.sort()
        start = fifths = 0
        for split in reversed(cut):
            fifths += shares[split]
            # Each cut is rounded separately, so that one more image moves each by at most one.
            stop = max(start + 1, (2 * fifths * len(contents) + 5) // 10)
            place |= {digest: split for _, digest in contents[start:stop]}
            start = stop
    parts: Parts = {split: [] for split in shares}
    for sample in samples:
        parts[place.get(sample.digest, rest)].append(sample)
    return parts, few


def _take(parts: Mapping[str, Sequence[Sample]], limit: int, split_seed: int) -> dict[str, tuple[Sample, ...]]:
    """The first `limit` images in an order of which every prefix is stratified.

    The order starts with one image of each class in train, then in val, then in test. After these, the image of rank
    r out of n in its class and split is at position (r + ½) / n, so that classes and splits end together.
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
        for index, (digest, name) in enumerate(ranked):
            order.append(((index + 0.5) / len(ranked) if index else first[split], digest, name))
    order.sort()
    names = {name for _, _, name in order[:limit]}
    return {split: tuple(sample for sample in samples if sample.name in names) for split, samples in parts.items()}
