"""The published CIFAR archives: their names, checksums and files, and where one lies on this machine."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .base import is_file, is_folder


@dataclass(frozen=True)
class ArchiveLayout:
    """One published archive: its name, its checksum, the folder inside, and the files that are read.

    `class_names` is the file of class names; `pickled` says whether the files are pickles, not the binary form.
    """

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    class_names: str
    pickled: bool


LAYOUTS: dict[str, tuple[ArchiveLayout, ...]] = {
    "cifar10": (
        ArchiveLayout(
            archive="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test="test_batch",
            class_names="batches.meta",
            pickled=True,
        ),
        ArchiveLayout(
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            test="test_batch.bin",
            class_names="batches.meta.txt",
            pickled=False,
        ),
    ),
    "cifar100": (
        ArchiveLayout(
            archive="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train=("train",),
            test="test",
            class_names="meta",
            pickled=True,
        ),
        ArchiveLayout(
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            class_names="fine_label_names.txt",
            pickled=False,
        ),
    ),
}


def layout_of(dataset: str, path: Path) -> ArchiveLayout | None:
    """The layout of the archive at a path, packed or unpacked; None where there is none."""
    if is_folder(path):
        return next((layout for layout in LAYOUTS[dataset] if is_unpacked(path, layout)), None)
    if not is_file(path):
        return None
    try:
        with tarfile.open(path, "r:*") as archive:
            first = archive.next()  # decompresses the first header only
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return next((layout for layout in LAYOUTS[dataset] if layout.archive == path.name), None)
    top = first.name.removeprefix("./").split("/")[0] if first else ""
    return next((layout for layout in LAYOUTS[dataset] if layout.folder == top), None)


def is_unpacked(folder: Path, layout: ArchiveLayout) -> bool:
    """Whether a folder holds all files of an archive."""
    return all(is_file(folder / name) for name in (*layout.train, layout.test, layout.class_names))


def candidate_paths(folder: Path, layout: ArchiveLayout) -> Iterator[Path]:
    """Where the data set may be below a folder: as published, and as Keras 2 and Keras 3 name it."""
    for name in (layout.folder, f"{layout.folder}-target"):
        yield folder / name
        yield folder / name / layout.folder
    yield folder / layout.archive
    for name in (layout.folder, f"{layout.folder}-target"):
        yield folder / f"{name}.tar.gz"
        yield folder / f"{name}_archive"
