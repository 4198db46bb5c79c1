"""A CSV file with the columns image (or file), label (or class_index) and, if given, split."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topgraft.data.samples import SPLIT_NAMES, SplitName, Unreadable
from topgraft.errors import DataError, shortened
from topgraft.system.formatting import listing, reason_of, shown

from .base import Listed, Source, absolute, is_file, local_path, read_listed, split_named

_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = (",", ";", "\t")
_NEEDED = {"image": ("image", "file"), "label": ("label", "class_index")}
"""What a column may be called, the usual name first."""


@dataclass(frozen=True, slots=True)
class _Row:
    number: int  # of the line in the file, as an editor counts
    image: str
    label: str
    split: str


def takes(where: Any) -> bool:
    """The path of a file that ends in .csv or .tsv."""
    path = local_path(where)
    return path is not None and path.suffix.lower() in _SUFFIXES and is_file(path)


def open_table(where: str | Path, data_dir: Path | None = None) -> Source:
    """The images that a table lists. Paths are relative to the table's folder.

    The table is UTF-8 with or without a byte order mark, its delimiter a comma, a semicolon or a tab, and its
    first line holds the columns' names in any order and case: `image` or else `file`, and `label` or else
    `class_index`. `split` holds train, val (or valid, validation) or test. Other columns are not used.

    Raises:
        DataError: it is not such a table, has no rows, or a split that is none of these.
    """
    table = absolute(where)
    rows = _rows(table)
    splits = _splits(rows, table)
    classes = tuple(sorted({row.label for row in rows if row.label and row.image}))
    labels = {name: number for number, name in enumerate(classes)}
    seen: Counter[str] = Counter()
    listed: list[Listed] = []
    bad: list[Unreadable] = []
    for row, split in zip(rows, splits, strict=True):
        seen[row.image] += 1
        name = shown(row.image) if seen[row.image] == 1 else f"{shown(row.image)} (line {row.number})"
        reason = _fault(row)
        if reason:
            bad.append(Unreadable(row.image or f"line {row.number}", reason))
        else:
            listed.append(Listed(name, labels[row.label], _path(table.parent, row.image), split))
    samples, unreadable = read_listed(listed)
    flat = samples.pop(None, ())
    given = {split: samples[split] for split in SPLIT_NAMES if split in samples}
    return Source(str(where), classes, flat, given, tuple(bad + unreadable))


def _rows(table: Path) -> list[_Row]:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{table} is not UTF-8. Save it as 'CSV UTF-8'") from None
    except OSError as error:
        raise DataError(f"{table} cannot be read: {reason_of(error)}") from None
    delimiter, columns = _columns(text.partition("\n")[0].rstrip("\r"), table)
    # Strict: a quote that is never closed would swallow the rest of the table into one field.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[_Row] = []
    try:
        next(reader)
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            cells = {name: fields[at].strip() if at < len(fields) else "" for name, at in columns.items()}
            rows.append(_Row(reader.line_num, cells["image"], cells["label"], cells.get("split", "")))
    except csv.Error as error:
        raise DataError(f"{table} is damaged at line {reader.line_num}: {error}") from None
    if not rows:
        raise DataError(f"{table} lists no images. Add one line for each image below {'image,label'!r}")
    return rows


def _columns(header: str, table: Path) -> tuple[str, dict[str, int]]:
    """The delimiter under which the header has the needed columns, and the place of each column used."""
    for delimiter in _DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        called = {use: next((name for name in known if name in names), "") for use, known in _NEEDED.items()}
        if all(called.values()):
            called |= {"split": "split"} if "split" in names else {}
            return delimiter, {use: names.index(name) for use, name in called.items()}
    raise DataError(
        f"{table} has no columns named image and label; its first line is {shortened(header, 120)!r}. "
        "Name the columns image and label in the first line, and split if there is one"
    )


def _splits(rows: Sequence[_Row], table: Path) -> list[SplitName | None]:
    splits = [split_named(row.split) for row in rows]
    unknown = Counter(row.split for row, split in zip(rows, splits, strict=True) if row.split and split is None)
    if unknown:
        raise DataError(
            f"{table} has splits that are none of train, val and test: "
            f"{listing(f'{name!r} ({n} lines)' for name, n in unknown.items())}. Rename them, or remove the column"
        )
    without = [row.number for row, split in zip(rows, splits, strict=True) if split is None]
    if without and len(without) < len(rows):
        raise DataError(
            f"{table} has lines without a split: {listing(map(str, without))}. "
            "Fill them in, or remove the column to have the images divided"
        )
    return splits


def _fault(row: _Row) -> str | None:
    if not row.image:
        return "the line names no image"
    if not row.label:
        return f"no label in line {row.number}"
    if "://" in row.image:
        return "is an address; download it, and give its path"
    return None


def _path(folder: Path, image: str) -> Path:
    path = folder / image
    if "\\" in image and not path.exists():  # a table that was written on Windows
        return folder / image.replace("\\", "/")
    return path
