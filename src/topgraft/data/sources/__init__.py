"""Where images come from. To add a source: one module that opens it, and one row of `SOURCES`."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from topgraft.errors import DataError

from . import arrays, cifar, csv_table, digits, folder
from .base import Source, SourceKind, absolute, is_file, is_folder, local_path

__all__ = ["SOURCES", "Source", "SourceKind", "open_source"]

# The first row that takes what the user gave opens it. Words come before paths: a folder that has such a
# name is written with its path, as ./cifar10.
SOURCES: dict[str, SourceKind] = {
    "cifar10": SourceKind("cifar10", cifar.takes_cifar10, cifar.open_cifar10),
    "cifar100": SourceKind("cifar100", cifar.takes_cifar100, cifar.open_cifar100),
    "cifar100_coarse": SourceKind("cifar100_coarse", cifar.takes_cifar100_coarse, cifar.open_cifar100_coarse),
    "digits": SourceKind("digits", digits.takes, digits.open_digits),
    "arrays": SourceKind("(images, labels)", arrays.takes, arrays.open_arrays),
    "table": SourceKind("images.csv", csv_table.takes, csv_table.open_table),
    "folder": SourceKind("photos/", folder.takes, folder.open_folder),
}


def open_source(where: Any, *, data_dir: Path | None = None) -> Source:
    """Find labeled images, read each file once for its digest and header, and divide nothing yet.

    Args:
        where: one of the forms in `SOURCES`: the path of a folder, a CSV or a CIFAR archive, a data set's
            name, or arrays.
        data_dir: a folder that may hold a data set's archive.

    Raises:
        DataError: there is nothing that can be opened, or it has no usable layout.
        DownloadError: a data set that is not here could not be downloaded.
    """
    for kind in SOURCES.values():
        if kind.takes(where):
            return _with_namesake(kind.open(where, data_dir), where)
    raise DataError(_why_not(where))


def _with_namesake(source: Source, where: Any) -> Source:
    """Say so where a folder has the name of the data set that was opened."""
    if not isinstance(where, str) or where not in _words() or not is_folder(Path(where)):
        return source
    note = f"{where} is the data set of that name; to open the folder {where} that is here, write ./{where}"
    return replace(source, notes=(*source.notes, note))


def _why_not(where: Any) -> str:
    path = local_path(where)
    if path is None:
        return (
            f"a {type(where).__name__} is not a source of images; give a folder or a CSV file, the name of a data set "
            f"({', '.join(_words())}), or (images, labels) as arrays"
        )
    if not is_file(path):
        return f"there is no file or folder {absolute(path)}, and no data set of that name{_hint(path)}"
    if path.suffix.lower() == ".zip" or ".tar" in path.name.lower() or path.suffix.lower() in (".tgz", ".gz", ".7z"):
        return f"{path} is an archive; unpack it, and give the folder"
    return (
        f"{path} is a file, and images are opened from a folder with one folder for each class, or from a table "
        "that ends in .csv, with the columns image and label. To classify one image use predict"
    )


def _words() -> list[str]:
    return [name for name, kind in SOURCES.items() if kind.takes(name) and kind.form == name]


def _hint(path: Path) -> str:
    """What may have been meant: a data set, or a neighbor of the missing path."""
    parent = path.parent
    neighbors = [entry.name for entry in parent.iterdir()] if is_folder(parent) else []
    close = difflib.get_close_matches(path.name, neighbors, n=1)
    if close:
        return f"; did you mean {parent / close[0]}?"
    close = difflib.get_close_matches(str(path), _words(), n=1)
    return f"; did you mean {close[0]}?" if close else f"; the data sets are {', '.join(_words())}"
