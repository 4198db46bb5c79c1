"""Open a folder of class folders, with or without train, val and test folders above them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from topgraft.data import preprocess
from topgraft.data.hashing import digest_files
from topgraft.data.samples import SPLIT_NAMES, Sample, SplitName, Unreadable
from topgraft.errors import DataError
from topgraft.system.formatting import listing, shown

from .base import Listed, Source, absolute, is_folder, local_path, read_listed, split_named
from .folder_walk import Folder, Walk, files_below, list_folder


def takes(where: Any) -> bool:
    """Whether it is the path of a folder."""
    path = local_path(where)
    return path is not None and is_folder(path)


def open_folder(where: str | Path, data_dir: Path | None = None) -> Source:
    """Open the images below a folder, labeled by their class folder.

    The layout is ``CLASS/**/image``, or ``train/CLASS/**/image`` with ``val`` (or ``valid``, ``validation``)
    and ``test`` next to ``train``. Links are followed; each folder is read once for a class. The content of a file
    decides whether it is an image, not its name. Hidden and system files are skipped. A folder whose only content is
    one folder of folders is opened one level deeper, with a note.

    Raises:
        DataError: there are no class folders, or the layout is ambiguous.
    """
    root = absolute(where)
    walk = Walk(root)
    level = _descend(list_folder(root), walk)
    splits = _split_folders(level)
    if splits:
        for split, folder in splits.items():
            inside = list_folder(folder)
            if not inside.folders:
                walk.notes.append(_without_classes(inside, walk))
            _collect(inside, split, walk)
        unused = [path.name for path in level.folders if path not in splits.values()]
        if unused:
            walk.notes.append(f"not used, because they are neither train, val nor test: {listing(unused)}")
        walk.loose += level.files
    else:
        _collect(level, None, walk)
    _require_classes(level, walk)
    return _read(where, walk)


def _descend(level: Folder, walk: Walk) -> Folder:
    """Descend while the only content is one folder of folders, as in unpacked archives."""
    while len(level.folders) == 1 and not level.files:
        inside = list_folder(level.folders[0])
        if not inside.folders or inside.files:
            break
        level = inside
    if level.path != walk.root:
        walk.notes.append(f"the class folders are in {walk.name(level.path)}, which was opened")
    return level


def _split_folders(level: Folder) -> dict[SplitName, Path]:
    """Split → folder where the folders are splits; empty where they are classes."""
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
    divided = [split for split, folder in named.items() if list_folder(folder).folders]
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
            f"{level.path} is ambiguous: {named[divided[0]].name} may be a split or a class, next to "
            f"{listing(folder.name for folder in others)}. Move the others away, or rename the class"
        )
    if "train" not in divided:
        raise DataError(
            f"{level.path} has {' and '.join(folder.name for folder in named.values())}, but no class folders in "
            "train. Add train with one folder for each class, or give the path of one of these folders to divide it"
        )
    return {split: named[split] for split in SPLIT_NAMES if split in named}


def _without_classes(inside: Folder, walk: Walk) -> str:
    name = walk.name(inside.path)
    if not inside.files:
        return f"{name} is empty"
    return f"{name} holds no class folders, so its {len(inside.files)} files have no label and are not used"


def _collect(level: Folder, split: SplitName | None, walk: Walk) -> None:
    """Add the files of each class folder of a level."""
    for folder in level.folders:
        # macOS stores é as two characters, others as one; both are the same class.
        name = unicodedata.normalize("NFC", shown(folder.name))
        walk.classes.add(name)
        visited = {os.path.realpath(walk.root), os.path.realpath(level.path)}
        walk.files += [(name, split, path) for path in files_below(folder, visited, walk)]
    if level.folders:
        walk.loose += level.files


def _require_classes(level: Folder, walk: Walk) -> None:
    if walk.classes:
        return
    if level.files:
        raise DataError(
            f"{level.path} holds {len(level.files)} files but no class folders. Make one folder for each class and "
            "put its images inside, or list the images in a CSV with the columns image and label"
        )
    raise DataError(f"{level.path} holds no images. Put one folder of images for each class inside")


def _read(where: str | Path, walk: Walk) -> Source:
    classes = tuple(sorted(walk.classes))
    labels = {name: label for label, name in enumerate(classes)}
    prefix = len(str(walk.root)) + 1  # a slice is much faster than relpath, and every file lies below the root
    listed = [
        Listed(shown(str(path)[prefix:].replace(os.sep, "/")), labels[name], path, split)
        for name, split, path in walk.files
    ]
    samples, unreadable = read_listed(listed)
    unreadable = sorted([*walk.unreadable, *unreadable, *_loose_images(walk.loose, walk)], key=lambda u: u.name)
    flat = samples.pop(None, ())
    given: dict[SplitName, tuple[Sample, ...]] = {split: samples[split] for split in SPLIT_NAMES if split in samples}
    return Source(str(where), classes, flat, given, tuple(unreadable), tuple(walk.notes))


def _loose_images(loose: Sequence[Path], walk: Walk) -> Iterable[Unreadable]:
    """Images next to class folders. Other files, such as a README, are not reported."""
    results = digest_files(loose, preprocess.probe) if loose else []
    return [
        Unreadable(walk.name(path), "is not in a class folder")
        for path, result in zip(loose, results, strict=True)
        if isinstance(result, str)
    ]
