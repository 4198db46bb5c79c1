"""What a source hands over, and what the sources of files share: reading each file once, names of splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topgraft.data import preprocess
from topgraft.data.hashing import digest_files
from topgraft.data.samples import Sample, SplitName, Unreadable
from topgraft.errors import ImageError


@dataclass(frozen=True)
class Source:
    """Labeled images, not yet divided. Exactly one of `flat` and `given` holds samples.

    Attributes:
        where: what the user gave, as a string.
        classes: class names, in label order; also those that have no image.
        flat: the samples, where the source has no splits of its own.
        given: split → samples, where it has; only the splits that it has.
        unreadable: files that were left out, and why.
        notes: what a user should be told about how the images were found, one sentence each.
    """

    where: str
    classes: tuple[str, ...]
    flat: tuple[Sample, ...] = ()
    given: Mapping[SplitName, tuple[Sample, ...]] = field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them, in order."""
        return self.flat or tuple(sample for samples in self.given.values() for sample in samples)


@dataclass(frozen=True)
class SourceKind:
    """A row of `topgraft.data.sources.SOURCES`.

    Attributes:
        form: what a user writes for it, for help texts.
        takes: ``takes(where)`` says whether this source opens it; it reads no image.
        open: ``open(where, data_dir)``; `data_dir` is the folder of downloaded archives, or None.
    """

    form: str
    takes: Callable[[Any], bool]
    open: Callable[[Any, Path | None], Source]


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that a source has found and not yet read; `split` is None where the source gives none."""

    name: str
    label: int
    path: Path
    split: SplitName | None = None


_SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_named(word: str) -> SplitName | None:
    """The split that a folder's name or a table's entry means, in any case of letters; None if none."""
    return _SPLIT_WORDS.get(word.strip().lower())


def read_listed(listed: Sequence[Listed]) -> tuple[dict[SplitName | None, tuple[Sample, ...]], list[Unreadable]]:
    """Read each file once: its digest, and whether its header is an image's. No pixel is decoded.

    Returns:
        Samples by split, in the order given, and the files that are not images with the reason.
    """
    samples: dict[SplitName | None, list[Sample]] = {entry.split: [] for entry in listed}
    unreadable: list[Unreadable] = []
    results = digest_files([entry.path for entry in listed], preprocess.probe)
    for entry, result in zip(listed, results, strict=True):
        if isinstance(result, ImageError):
            unreadable.append(Unreadable(entry.name, str(result)))
        else:
            samples[entry.split].append(Sample(entry.name, entry.label, entry.path, digest=result))
    return {split: tuple(found) for split, found in samples.items()}, unreadable


def local_path(where: Any) -> Path | None:
    """The path that a user means, with ``~`` expanded; None where it is neither a string nor a path."""
    if not isinstance(where, (str, os.PathLike)):
        return None
    try:
        return Path(where).expanduser()
    except RuntimeError:  # there is no user of that name
        return Path(where)


def absolute(where: str | Path) -> Path:
    """`local_path` from the root, so that samples stay right when the working folder changes."""
    return (local_path(where) or Path()).absolute()


def is_folder(path: Path) -> bool:
    """Whether a folder is there; False for what can be no path, where `Path.is_dir` may raise."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether a file is there; False for what can be no path, where `Path.is_file` may raise."""
    return os.path.isfile(path)  # noqa: PTH113
