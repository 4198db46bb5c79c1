"""Print what is in a set of images."""

from __future__ import annotations

from rich.markup import escape

from topgraft.data.samples import SPLIT_NAMES
from topgraft.data.survey import Survey
from topgraft.system.formatting import SPLIT_LABELS, counted

from .table import make_console, make_table


def surveyed(found: Survey) -> None:
    """Counts by class and split, sizes, formats, and everything odd."""
    console = make_console()
    splits = list(found.counts)
    shown = make_table("class", *(SPLIT_LABELS.get(split, "images") for split in splits), "total")
    for name in found.classes:
        counts = [found.counts[split].get(name, 0) for split in splits]
        shown.add_row(escape(name), *(f"{count:,}" for count in counts), f"{sum(counts):,}")
    console.print(shown)
    lines = [f"{counted(found.images, 'image')}, {counted(len(found.classes), 'class', 'classes')}"]
    if found.made:
        made = ", ".join(SPLIT_LABELS[split] for split in SPLIT_NAMES if split in found.made)
        lines.append(f"splits made by content (seed {found.split_seed}): {made}")
    for what, range_ in (("width", found.widths), ("height", found.heights)):
        if range_ is not None:
            lines.append(f"{what}: {range_.smallest:,} to {range_.largest:,} pixels, median {range_.median:,g}")
    lines.append("formats: " + ", ".join(f"{kind} {count:,}" for kind, count in found.formats.items()))
    if found.imbalance is not None:
        lines.append(f"imbalance: the largest class has {found.imbalance:.1f} times the images of the smallest")
    lines += found.notes
    if found.unreadable:
        lines.append(f"unreadable: {len(found.unreadable):,}")
        lines += [f"  {entry.name}: {entry.reason}" for entry in found.unreadable]
    if found.duplicates:
        lines.append(f"exact duplicates: {counted(len(found.duplicates), 'group')}")
        for group in found.duplicates:
            marks = [
                *(["under two labels"] if group.digest in found.under_two_labels else []),
                *(["across splits"] if group.digest in found.across_splits else []),
            ]
            note = f" ({', '.join(marks)})" if marks else ""
            lines.append(f"  {' = '.join(group.names)}{note}")
    if found.problem is not None:
        lines.append(f"fit would refuse these images: {found.problem}")
    for line in lines:
        console.print(line, highlight=False, markup=False)
