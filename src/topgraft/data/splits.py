"""Dividing images into train, val and test: by content, stratified, and never the same image twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from topgraft.data.sources.base import Source
from topgraft.errors import DataError
from topgraft.system.formatting import listing

from .samples import SPLIT_NAMES, Duplicate, Sample, SplitName, Splits, Unreadable, unread

_FIFTHS: dict[SplitName, int] = {"train": 3, "val": 1, "test": 1}  # 60/20/20


_SHOWN = 20  # names in an error


_Parts = dict[SplitName, list[Sample]]


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
        notes=(*source.notes, *_two_labels(duplicates)),
        undivided=whole["undivided"],
        problem=problem,
    )


def _divide(source: Source, split_seed: int, limit: int | None) -> Splits:
    _require(source)
    parts: _Parts = {split: list(source.given.get(split, ())) for split in SPLIT_NAMES}
    twins = _twins(source)
    dropped: set[str] = set()
    made: frozenset[SplitName] = frozenset()
    if source.flat:
        parts, made = _cut(source.flat, source.classes, _FIFTHS, split_seed), frozenset(SPLIT_NAMES)
    else:
        parts, dropped = _part_twins(parts)
        if not parts["val"]:
            _require_train(parts, source, bool(dropped))
            parts |= _cut(parts["train"], source.classes, {"train": 4, "val": 1}, split_seed)
            made = frozenset({"val"})
    _require_train(parts, source, bool(dropped))
    duplicates = _duplicates(source, parts, twins, dropped)
    notes = (*source.notes, *_absent(parts, source.classes), *_dropped(duplicates), *_two_labels(duplicates))
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


def refuse_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """What ``strict`` means: files that cannot be read are an error.

    Raises:
        DataError: there are some; the message lists all of them with their reasons.
    """
    if unreadable:
        raise DataError(f"{unread(unreadable)}\nMend or remove them, or run without --strict to leave them out")


def refuse_vanished(gone: Sequence[Unreadable]) -> None:
    """Images that could be read when the fit began, and are needed again.

    Raises:
        DataError: there are some; the message lists them with their reasons.
    """
    if gone:
        raise DataError(f"{unread(gone)}\nThis was not so when the fit began. Bring them back, and go on with --resume")


def require_readable(classes: Sequence[str], train: Collection[int], val: Collection[int]) -> None:
    """What is asked again once the pixels are decoded, given the labels that are left.

    Raises:
        DataError: a class without a readable training image, or no readable validation image.
    """
    gone = [name for label, name in enumerate(classes) if label not in train]
    if gone:
        raise DataError(f"no training image of {_classes(gone)} can be read. Add images, or remove the class")
    if not val:
        raise DataError("no validation image can be read. Add images, or let Topgraft make the splits")


def _rank(split_seed: int, sample: Sample) -> bytes:
    return hashlib.sha256(f"{split_seed}:{sample.digest}".encode()).digest()


def _cut(samples: Sequence[Sample], classes: Sequence[str], shares: Mapping[SplitName, int], split_seed: int) -> _Parts:
    """Divide samples by fifths. The shares add up to five; the first is that of what remains."""
    home: dict[str, int] = {}  # content → class it is ranked in: one, so that twins of two labels stay together
    for sample in samples:
        label = _label(sample)
        home[sample.digest] = min(label, home.get(sample.digest, label))
    ranked: dict[int, list[tuple[bytes, str]]] = defaultdict(list)
    by_digest = {sample.digest: sample for sample in samples}
    for digest, label in home.items():
        ranked[label].append((_rank(split_seed, by_digest[digest]), digest))
    few = {classes[label]: len(found) for label, found in sorted(ranked.items()) if len(found) < len(shares)}
    if few:
        raise DataError(_too_few(few, tuple(shares)))
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
    parts: _Parts = {split: [] for split in shares}
    for sample in samples:
        parts[place.get(sample.digest, rest)].append(sample)
    return parts


def _too_few(few: Mapping[str, int], splits: tuple[str, ...]) -> str:
    one = len(few) == 1
    return (
        f"{'the class' if one else f'{len(few)} classes,'} "
        f"{listing(f'{name} ({images})' for name, images in few.items())}{'' if one else ','} "
        f"{'has' if one else 'have'} fewer than {len(splits)} different images, and {', '.join(splits[:-1])} and "
        f"{splits[-1]} need one of each class. Add images (30 of a class are a good start), or remove "
        f"{'the class' if one else 'these classes'}"
    )


def _twins(source: Source) -> dict[str, list[tuple[Sample, SplitName | None]]]:
    """Content that more than one image has, with the split that each was given."""
    groups: dict[str, list[tuple[Sample, SplitName | None]]] = defaultdict(list)
    for sample in source.flat:
        groups[sample.digest].append((sample, None))
    for split, samples in source.given.items():
        for sample in samples:
            groups[sample.digest].append((sample, split))
    return {digest: group for digest, group in groups.items() if len(group) > 1}


def _part_twins(parts: _Parts) -> tuple[_Parts, set[str]]:
    """Given splits without what is in a later one too, and the names of what was dropped."""
    later: set[str] = set()
    kept: _Parts = {}
    dropped: set[str] = set()
    for split in reversed(SPLIT_NAMES):
        kept[split] = [sample for sample in parts[split] if sample.digest not in later]
        dropped |= {sample.name for sample in parts[split] if sample.digest in later}
        later |= {sample.digest for sample in parts[split]}
    return kept, dropped


def _duplicates(
    source: Source,
    parts: _Parts,
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
            strata[split, _label(sample)].append((_rank(split_seed, sample), sample.name))
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


def _label(sample: Sample) -> int:
    if sample.label is None:
        raise DataError(f"{sample.name} has no label, and images are divided by label. Give each image one")
    return sample.label


def _require(source: Source) -> None:
    """Images at all, two classes, train among the given splits, images in every class."""
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


def _require_train(parts: _Parts, source: Source, dropped: bool) -> None:
    empty = [name for name, count in _counts(parts["train"], source.classes).items() if not count]
    if empty:
        also = " that are not in val or test too" if dropped else ""
        raise DataError(
            f"no images in train{also} of {_classes(empty)} in {source.where}. Add images, or remove the class "
            "from every split"
        )


def _absent(parts: _Parts, classes: Sequence[str]) -> list[str]:
    """A note for each split, not wholly empty, that lacks classes: their numbers will be missing there."""
    notes: list[str] = []
    for split in ("val", "test"):
        samples = parts[split]
        empty = [name for name, count in _counts(samples, classes).items() if not count]
        if samples and empty:
            notes.append(f"{split} has no images of {_classes(empty)}")
    return notes


def _dropped(duplicates: Sequence[Duplicate]) -> list[str]:
    names = [name for group in duplicates for name in group.dropped]
    if not names:
        return []
    images = "1 image is" if len(names) == 1 else f"{len(names):,} images are"
    return [f"{images} left out of train or val, because a later split holds an exact copy: {listing(names)}"]


def _two_labels(duplicates: Sequence[Duplicate]) -> list[str]:
    groups = [" = ".join(group.names) for group in duplicates if len(set(group.labels)) > 1]
    if not groups:
        return []
    images = "1 image is" if len(groups) == 1 else f"{len(groups):,} images are"
    return [f"{images} there under two labels or more, and kept so: {listing(groups)}"]


def _counts(samples: Sequence[Any], classes: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(classes, 0)
    for sample in samples:
        counts[classes[_label(sample)]] += 1
    return counts


def _classes(names: Sequence[str]) -> str:
    return f"{'the class' if len(names) == 1 else 'the classes'} {listing(names)}"
