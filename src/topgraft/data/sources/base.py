"""The record that a source returns, and what sources of files share: reading each file once, names of splits."""

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
        where: argument of `open_source`, as a string.
        classes: class names, in label order, including those without images.
        flat: samples of a source without splits.
        given: split → samples of a source with splits.
        unreadable: files that were left out, with the reason.
        notes: sentences for the user about how the images were found.
    """

    where: str
    classes: tuple[str, ...]
    flat: tuple[Sample, ...] = ()
    given: Mapping[SplitName, tuple[Sample, ...]] = field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, in order."""
        return self.flat or tuple(sample for samples in self.given.values() for sample in samples)


@dataclass(frozen=True)
class SourceKind:
    """A row of `topgraft.data.sources.SOURCES`.

    Attributes:
        form: example of the argument, for help texts.
        takes: ``takes(where)`` says whether this source opens it; it reads no image.
        open: ``open(where, data_dir)``; `data_dir` is the folder of downloaded archives, or None.
    """

    form: str
    takes: Callable[[Any], bool]
    open: Callable[[Any, Path | None], Source]


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that is not yet read; `split` is None if the source has no splits."""

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
    """The split that a folder name or a table entry means, ignoring case; None if it is not a split."""
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
    return {split: tuple(part) for split, part in samples.items()}, unreadable


def local_path(where: Any) -> Path | None:
    """The path that a user means, with ``~`` expanded; None where it is neither a string nor a path."""
    if not isinstance(where, (str, os.PathLike)):
        return None
    try:
        return Path(where).expanduser()
    except RuntimeError:  # there is no user of that name
        return Path(where)


def absolute(where: str | Path) -> Path:
    """The absolute `local_path`, so that samples remain valid when the working directory changes."""
    return (local_path(where) or Path()).absolute()


def is_folder(path: Path) -> bool:
    """Whether a folder is there; False for what can be no path, where `Path.is_dir` may raise."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether a file is there; False for what can be no path, where `Path.is_file` may raise."""
    return os.path.isfile(path)  # noqa: PTH113
