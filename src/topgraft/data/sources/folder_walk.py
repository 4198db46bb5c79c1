"""List the folders and files of an image folder, without what operating systems leave behind."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from topgraft.data.samples import SplitName, Unreadable
from topgraft.errors import DataError
from topgraft.system.formatting import reason_of, shown

# Files and folders that operating systems and file servers create. Names that start with a dot are skipped too.
_SYSTEM_NAMES = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+walk",
    "__pycache__",
}


@dataclass(frozen=True)
class Folder:
    """The content of one folder without its subfolders' and without system files, sorted by name."""

    path: Path
    folders: tuple[Path, ...]
    files: tuple[Path, ...]


@dataclass
class Walk:
    """What is collected below the opened folder.

    Attributes:
        root: the opened folder.
        files: class, split and path of each file; the split is None where there are no split folders.
        classes: names of the class folders.
        loose: files outside class folders.
        unreadable: folders that cannot be listed.
        notes: what a user should know about the layout, one sentence each.
    """

    root: Path
    files: list[tuple[str, SplitName | None, Path]] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    loose: list[Path] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """A path as messages show it: relative to the opened folder, with forward slashes."""
        return shown(os.path.relpath(path, self.root).replace(os.sep, "/"))


def files_below(folder: Path, visited: set[str], walk: Walk) -> list[Path]:
    """All files below a folder, sorted by name. Each folder is listed once, so that links cannot form a loop."""
    files: list[Path] = []
    pending = [folder]
    while pending:
        current = pending.pop()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            level = list_folder(current)
        except DataError as error:
            walk.unreadable.append(Unreadable(walk.name(current), str(error)))
            continue
        files += level.files
        pending += reversed(level.folders)
    return sorted(files, key=str)  # much faster than by path


def list_folder(path: Path) -> Folder:
    """List one folder.

    Raises:
        DataError: it cannot be listed.
    """
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                    continue
                (folders if _is_folder(entry) else files).append(path / entry.name)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be listed: {reason_of(error)}") from None
    return Folder(path, tuple(sorted(folders, key=str)), tuple(sorted(files, key=str)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one. A broken link counts as a file, which is reported when read."""
    try:
        return entry.is_dir()
    except OSError:
        return False
