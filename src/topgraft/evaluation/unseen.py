"""Which images of a source a model may be evaluated on: an artifact knows by content what it has used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from topgraft.data.samples import Sample, SplitName, Splits
from topgraft.errors import DataError, UsageError
from topgraft.system.formatting import listing

from .results import FittedClassifier


@dataclass(frozen=True)
class UnseenSelection:
    """Images to evaluate on.

    Attributes:
        samples: labeled by the model's classes.
        seen: names of those that were asked for and left out, because fitting or selection has used them.
        used: whether some of `samples` were used so.
        notes: about the source, and what of it is not counted.
    """

    samples: tuple[Sample, ...]
    seen: tuple[str, ...]
    used: bool
    notes: tuple[str, ...] = ()


def select_unseen(model: FittedClassifier, splits: Splits, split: SplitName, *, include_seen: bool) -> UnseenSelection:
    """Images of one split that the model has not used.

    Splits that the source gives are taken as they are. Where it gives none, the model's memory makes them: what it
    has not seen is test. There `include_seen` with ``test`` takes all images of the source.

    Raises:
        UsageError: there is no such split, or nothing is left.
        DataError: classes that the model does not have, or no images.
    """
    everything = [sample for part in splits.parts.values() for sample in part]
    if not everything:
        raise DataError(splits.problem or f"{splits.where} has no images")
    remembered = bool(splits.undivided) or split in splits.made
    notes = splits.notes
    if not remembered:
        asked = list(splits[split])
    elif include_seen and split == "test":
        asked = everything
    else:
        asked = [sample for sample in everything if model.seen.get(sample.digest, "test") == split]
        if split == "test" and asked:
            notes = (*notes, *_not_counted(model, everything))
    if not asked and remembered:
        raise UsageError(
            f"the model knows all {len(everything):,} images of {splits.where}, and none of them as {split}; "
            "give others, choose another --split, or add --include-seen to count them all the same"
        )
    if not asked:
        there = ", ".join(splits.parts)
        raise UsageError(f"{splits.where} has no {split} images; its splits are {there}: choose one with --split")
    unknown = sorted(set(splits.classes) - set(model.classes))
    if unknown:
        raise DataError(
            f"the model does not know the classes {', '.join(unknown[:10])}; it knows {', '.join(model.classes[:20])}"
        )
    label = {index: model.classes.index(name) for index, name in enumerate(splits.classes)}
    named = [replace(s, label=None if s.label is None else label[s.label]) for s in asked]
    choice = leave_out_seen(model, named, split, include_seen=include_seen)
    return replace(choice, notes=(*notes, *choice.notes))


def leave_out_seen(
    model: FittedClassifier, samples: Sequence[Sample], split: SplitName, *, include_seen: bool
) -> UnseenSelection:
    """Samples without those that the model has used. Their labels count into the model's classes.

    Raises:
        UsageError: nothing is left.
        DataError: a label that is none of the model's.
    """
    for sample in samples:
        if sample.label is None or not 0 <= sample.label < len(model.classes):
            raise DataError(
                f"{sample.name} has the label {sample.label}, which is none of the model's {len(model.classes)} "
                "classes; give samples whose labels count into them"
            )
    used = {sample.digest for sample in samples if model.seen.get(sample.digest) in ("train", "val")}
    if include_seen:
        return UnseenSelection(tuple(samples), (), bool(used), _fitted_to(model, samples))
    kept = tuple(sample for sample in samples if sample.digest not in used)
    if not kept:
        raise UsageError(
            f"all {len(samples):,} images of {split} were used in fitting or selection; "
            "give images that the model has not seen, or --include-seen to count them all the same"
        )
    return UnseenSelection(kept, tuple(sample.name for sample in samples if sample.digest in used), False)


def _fitted_to(model: FittedClassifier, samples: Sequence[Sample]) -> tuple[str, ...]:
    splits = ("train", "val") if model.config["settings"].get("refit") else ("train",)
    count = sum(model.seen.get(sample.digest) in splits for sample in samples)
    if not count:
        return ()
    return (f"the model was fitted to {count:,} of the {len(samples):,} images: the accuracy says little of new ones",)


def _not_counted(model: FittedClassifier, everything: Sequence[Sample]) -> tuple[str, ...]:
    used = [sample.name for sample in everything if model.seen.get(sample.digest) in ("train", "val")]
    if not used:
        return ()
    images, them = ("image is", "it") if len(used) == 1 else ("images are", "them")
    return (
        f"{len(used):,} {images} not counted, because the model was fitted or selected with {them} "
        f"(--include-seen counts {them}): {listing(used, 3)}",
    )
