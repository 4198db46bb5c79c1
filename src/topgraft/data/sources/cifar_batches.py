"""Read labels, images and class names from the files of a CIFAR archive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.data.hashing import digest_array
from topgraft.errors import DataError
from topgraft.system.cores import usable_cores

from .cifar_archive import ArchiveLayout
from .cifar_pickles import read_pickle

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE  # values of one image: all red ones row by row, then green, then blue
_LARGEST = 256 << 20  # bytes of one file in an archive; the largest published one has 155 MB

_Batch = tuple[list[int], NDArray[np.uint8], list[str]]  # labels, images N×32×32×3, digests


@dataclass(frozen=True)
class LabelFields:
    """Where the labels of a data set are.

    Attributes:
        key: entry of the pickles that holds the labels.
        names_key: entry of the pickles that holds the class names.
        names_file: file of the binary form that holds the class names.
        offset: byte of the label among those before an image of the binary form.
        size: bytes before an image of the binary form.
    """

    key: str
    names_key: str
    names_file: str
    offset: int
    size: int


LABEL_FIELDS = {
    "cifar10": LabelFields("labels", "label_names", "batches.meta.txt", 0, 1),
    "cifar100": LabelFields("fine_labels", "fine_label_names", "fine_label_names.txt", 1, 2),
    "cifar100_coarse": LabelFields("coarse_labels", "coarse_label_names", "coarse_label_names.txt", 0, 2),
}


def read_archive(path: Path, layout: ArchiveLayout, fields: LabelFields) -> tuple[dict[str, _Batch], tuple[str, ...]]:
    """Each batch in its published order, and the class names. Archives are read in one pass, without unpacking."""
    names_file = layout.class_names if layout.pickled else fields.names_file
    needed = {*layout.train, layout.test, names_file}
    classes: tuple[str, ...] = ()
    pending: dict[str, tuple[list[int], Future[tuple[NDArray[np.uint8], list[str]]]]] = {}
    with ThreadPoolExecutor(min(4, usable_cores())) as pool:
        for member, data in _members(path, needed):
            if member == names_file:
                classes = _class_names(data, layout, fields, f"{path}: {member}")
            else:
                labels, planes = _batch(data, layout, fields, f"{path}: {member}")
                pending[member] = labels, pool.submit(_images, planes)
    missing = sorted(needed - {*pending, *([names_file] if classes else [])})
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}. Delete it and get it again")
    members = (*layout.train, layout.test)
    return {member: (pending[member][0], *pending[member][1].result()) for member in members}, classes


def _members(path: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of those files that are there."""
    if path.is_dir():
        for name in sorted(names):
            if (path / name).is_file():
                yield name, (path / name).read_bytes()
        return
    with tarfile.open(path, "r:*") as archive:
        for entry in archive:
            name = entry.name.rsplit("/", 1)[-1]
            if name in names and entry.isfile() and entry.size <= _LARGEST:
                file = archive.extractfile(entry)
                if file is not None:
                    yield name, file.read()
        # The checksum of a gzip file is at its end, after the padding that tar does not read.
        while archive.fileobj is not None and archive.fileobj.read(1 << 20):
            pass


def _class_names(data: bytes, layout: ArchiveLayout, fields: LabelFields, file: str) -> tuple[str, ...]:
    if not layout.pickled:
        return tuple(line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip())
    (names,) = _entries(data, file, fields.names_key)
    if not isinstance(names, list) or not names:
        raise DataError(f"{file} has no list of class names. Delete the archive and get it again")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def _batch(data: bytes, layout: ArchiveLayout, fields: LabelFields, file: str) -> tuple[list[int], NDArray[np.uint8]]:
    """Labels, and pixels N×3072, of one file."""
    if not layout.pickled:
        size = fields.size + _PIXELS
        if len(data) % size:
            raise DataError(
                f"{file} has {len(data)} bytes, not a multiple of {size}. Delete the archive and get it again"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, size)
        return records[:, fields.offset].tolist(), records[:, fields.size :]
    planes, labels = _entries(data, file, "data", fields.key)
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    is_array = isinstance(planes, np.ndarray) and planes.dtype == np.uint8 and planes.ndim == 2
    if not is_array or planes.shape[1] != _PIXELS or not isinstance(labels, list) or len(labels) != len(planes):
        raise DataError(
            f"{file} does not hold images of {_SIDE}×{_SIDE} with one label each. Get the published archive"
        )
    return labels, planes


def _entries(data: bytes, file: str, *keys: str) -> list[Any]:
    """Entries of a pickled dict by their names, which Python 2 wrote as bytes."""
    table = read_pickle(data, file)
    if not isinstance(table, dict):
        raise DataError(f"{file} does not hold a dict. Get the published archive")
    missing = [key for key in keys if key not in table and key.encode() not in table]
    if missing:
        raise DataError(f"{file} has no entry {missing[0]}. Get the published archive")
    return [table[key.encode() if key.encode() in table else key] for key in keys]


def _images(planes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[str]]:
    """Images N×32×32×3 and their digests from N×3072."""
    images = np.ascontiguousarray(planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
    return images, [digest_array(image) for image in images]
