"""What samples, splits and surveys show of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from topgraft.system.formatting import NAMES_IN_LINE, SPLIT_LABELS, counted, shape
from topgraft.system.reprs import Grid, Overview, Shown

if TYPE_CHECKING:
    from .samples import Duplicate, Sample, Splits, Unreadable


def unreadable(entries: Sequence[Unreadable]) -> str:
    """How many files were left out, and why the first two; empty where none was."""
    reasons = "; ".join(f"{entry.name} {entry.reason}" for entry in entries[:2])
    return f"{counted(len(entries), 'file')}: {reasons}{' …' if len(entries) > 2 else ''}" if entries else ""


def duplicates(groups: Sequence[Duplicate]) -> str:
    """How many groups of equal images there are; empty where there is none."""
    return counted(len(groups), "group") if groups else ""


def by_class(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Grid:
    """Images of each class in each split; `counts` has one number for each class."""
    return Grid(
        ("class", *(SPLIT_LABELS.get(split, "images") for split in counts)),
        range(len(classes)),
        lambda label: (classes[label], *(f"{numbers[label]:,}" for numbers in counts.values())),
        "classes",
    )


def images_of(number: int, classes: Sequence[str]) -> str:
    """``398 images of 2 classes``."""
    return f"{counted(number, 'image')} of {counted(len(classes), 'class', 'classes')}"


def splits(this: Splits) -> Overview:
    """Counts by class and split, and what is odd."""
    found = {name: Counter(sample.label for sample in part) for name, part in this.parts.items()}
    made = ", ".join(SPLIT_LABELS[name] for name in SPLIT_LABELS if name in this.made)
    return Overview(
        images_of(sum(len(part) for part in this.parts.values()), this.classes),
        {
            "source": this.where,
            "split by content": f"{made} (seed {this.split_seed})" if made else "",
            "unreadable": unreadable(this.unreadable),
            "duplicates": duplicates(this.duplicates),
            "notes": "; ".join(this.notes),
            "cannot be fitted": this.problem or "",
        },
        (by_class(this.classes, {n: [c[label] for label in range(len(this.classes))] for n, c in found.items()}),),
    )


def _content(sample: Sample) -> str:
    """What an image is before it is decoded."""
    if sample.array is None:
        return str(sample.path)
    return f"{shape(sample.array.shape)} {sample.array.dtype}"


def sample(this: Sample) -> Overview:
    """Its name, label, content and digest."""
    facts = {"name": this.name, "label": str(this.label), "path" if this.array is None else "array": _content(this)}
    return Overview("Sample", facts | {"sha256": this.digest[:12]}, one_line=True)


def samples(these: Sequence[Sample]) -> Overview:
    """A row for each."""
    grid = Grid(("name", "label", "content"), these, lambda s: (s.name, str(s.label), _content(s)), "samples")
    return Overview(counted(len(these), "sample"), grids=(grid,))


def duplicate(this: Duplicate) -> Overview:
    """The names of equal images."""
    facts = {"images": str(len(this.names)), "names": " = ".join(this.names[:NAMES_IN_LINE])}
    return Overview("Duplicate", facts, one_line=True)


class Samples(Shown, tuple["Sample", ...], overview=samples):
    """The samples of a split: a tuple that is shown as a table."""

    __slots__ = ()
