"""A folder of class folders, flat or with train, val and test inside."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topgraft.data import preprocess
from topgraft.data.hashing import digest_files
from topgraft.data.samples import SPLIT_NAMES, Sample, SplitName, Unreadable
from topgraft.errors import DataError
from topgraft.system.formatting import listing, shown

from .base import Listed, Source, absolute, is_folder, local_path, read_listed, split_named

# What operating systems and file servers leave behind. Names that start with a dot are skipped as well.
_LITTER = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
}


@dataclass(frozen=True)
class _Level:
    """What lies directly in one folder, litter apart, sorted by name."""

    path: Path
    folders: tuple[Path, ...]
    files: tuple[Path, ...]


@dataclass
class _Found:
    """What the walk collects."""

    root: Path
    files: list[tuple[str, SplitName | None, Path]] = field(default_factory=list)  # class, split, file
    classes: set[str] = field(default_factory=set)
    loose: list[Path] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        return shown(os.path.relpath(path, self.root).replace(os.sep, "/"))


def takes(where: Any) -> bool:
    """Any path of a folder."""
    path = local_path(where)
    return path is not None and is_folder(path)


def open_folder(where: str | Path, data_dir: Path | None = None) -> Source:
    """The images below a folder, labeled by the folder they lie in.

    The layout is ``CLASS/**/image``, or ``train/CLASS/**/image`` with ``val`` (or ``valid``, ``validation``)
    and ``test`` next to it. Links are followed; a folder that was already walked for a class is not walked again.
    Files' contents decide what is an image, not their names. Hidden files and what systems leave behind
    are skipped. A folder that holds nothing but one folder of folders is opened one level deeper, with a note.

    Raises:
        DataError: there are no class folders, or the layout has two readings.
    """
    root = absolute(where)
    found = _Found(root)
    level = _descend(_look(root), found)
    splits = _split_folders(level)
    if splits:
        for split, folder in splits.items():
            inside = _look(folder)
            if not inside.folders:
                found.notes.append(_without_classes(inside, found))
            _collect(inside, split, found)
        aside = [path.name for path in level.folders if path not in splits.values()]
        if aside:
            found.notes.append(f"left aside, because they are neither train, val nor test: {listing(aside)}")
        found.loose += level.files
    else:
        _collect(level, None, found)
    _require_classes(level, found)
    return _read(where, found)


def _descend(level: _Level, found: _Found) -> _Level:
    """Go below folders that hold nothing but one folder of folders: what unpacked archives look like."""
    while len(level.folders) == 1 and not level.files:
        inside = _look(level.folders[0])
        if not inside.folders or inside.files:
            break
        level = inside
    if level.path != found.root:
        found.notes.append(f"the class folders are in {found.name(level.path)}, which was opened")
    return level


def _split_folders(level: _Level) -> dict[SplitName, Path]:
    """Split → folder where the level is divided by folders; empty where its folders are classes."""
    named: dict[SplitName, Path] = {}
    for folder in level.folders:
        split = split_named(folder.name)
        if split in named:
            raise DataError(
                f"{level.path} holds two folders for {split}: {named[split].name} and {folder.name}. "
                "Merge them, or move one away"
            )
        if split:
            named[split] = folder
    divided = [split for split, folder in named.items() if _look(folder).folders]
    others = [folder for folder in level.folders if folder not in named.values()]
    if not divided:
        if named and not others:
            files = ", ".join(folder.name for folder in named.values())
            raise DataError(
                f"{level.path} holds {files}, but no class folders inside. Make one folder for each class in each "
                "of them, as in train/cat and train/dog"
            )
        return {}  # a class may be called train
    if len(divided) == 1 and others:
        raise DataError(
            f"{level.path} has two readings: {named[divided[0]].name} may be a split or a class, next to "
            f"{listing(folder.name for folder in others)}. Move the others away, or rename the class"
        )
    if "train" not in divided:
        raise DataError(
            f"{level.path} has {' and '.join(folder.name for folder in named.values())}, but no class folders in "
            "train. Add train with one folder for each class, or give the path of one folder to have it divided"
        )
    return {split: named[split] for split in SPLIT_NAMES if split in named}


def _without_classes(inside: _Level, found: _Found) -> str:
    name = found.name(inside.path)
    if not inside.files:
        return f"{name} is empty"
    return f"{name} holds no class folders, so its {len(inside.files)} files have no label and are left out"


def _collect(level: _Level, split: SplitName | None, found: _Found) -> None:
    """Add the files of each class folder of a level."""
    for folder in level.folders:
        # macOS stores é as two characters, others as one; both are the same class.
        name = unicodedata.normalize("NFC", shown(folder.name))
        found.classes.add(name)
        walked = {os.path.realpath(found.root), os.path.realpath(level.path)}
        found.files += [(name, split, path) for path in _walk(folder, walked, found)]
    if level.folders:
        found.loose += level.files


def _walk(folder: Path, walked: set[str], found: _Found) -> list[Path]:
    """All files below a folder, in order of name; each folder once, so that links cannot go round."""
    files: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in walked:
            continue
        walked.add(real)
        try:
            level = _look(here)
        except DataError as error:
            found.unreadable.append(Unreadable(found.name(here), str(error)))
            continue
        files += level.files
        waiting += reversed(level.folders)
    return sorted(files, key=str)  # much faster than by path


def _look(path: Path) -> _Level:
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _LITTER:
                    continue
                (folders if _leads_to_folder(entry) else files).append(path / entry.name)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be listed: {(error.strerror or str(error)).lower()}") from None
    return _Level(path, tuple(sorted(folders, key=str)), tuple(sorted(files, key=str)))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Links are followed. One that leads nowhere counts as a file, and is named when that is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _require_classes(level: _Level, found: _Found) -> None:
    if found.classes:
        return
    if level.files:
        raise DataError(
            f"{level.path} holds {len(level.files)} files but no class folders. Make one folder for each class and "
            "put its images inside, or list the images in a CSV with the columns image and label"
        )
    raise DataError(f"{level.path} holds no images. Put one folder of images for each class inside")


def _read(where: str | Path, found: _Found) -> Source:
    classes = tuple(sorted(found.classes))
    labels = {name: number for number, name in enumerate(classes)}
    prefix = len(str(found.root)) + 1  # a slice is much faster than relpath, and every file lies below the root
    listed = [
        Listed(shown(str(path)[prefix:].replace(os.sep, "/")), labels[name], path, split)
        for name, split, path in found.files
    ]
    samples, unreadable = read_listed(listed)
    unreadable = sorted([*found.unreadable, *unreadable, *_loose_images(found.loose, found)], key=lambda u: u.name)
    flat = samples.pop(None, ())
    given: dict[SplitName, tuple[Sample, ...]] = {split: samples[split] for split in SPLIT_NAMES if split in samples}
    return Source(str(where), classes, flat, given, tuple(unreadable), tuple(found.notes))


def _loose_images(loose: Sequence[Path], found: _Found) -> Iterable[Unreadable]:
    """Images next to class folders. A file there that is not an image, as a README, is ignored."""
    results = digest_files(loose, preprocess.probe) if loose else []
    return [
        Unreadable(found.name(path), "lies in no class folder")
        for path, result in zip(loose, results, strict=True)
        if isinstance(result, str)
    ]
