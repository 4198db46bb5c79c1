"""CIFAR-10 and CIFAR-100 from the published archives, in their Python and their binary form.

The archives, their layout and their checksums are those of https://www.cs.toronto.edu/~kriz/cifar.html
(A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).
"""

from __future__ import annotations

import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.data.hashing import digest_array
from topgraft.data.samples import Sample, SplitName
from topgraft.errors import DataError, DownloadError
from topgraft.system import download
from topgraft.system.cores import usable_cores
from topgraft.system.files import cache_folder

from .base import Source, absolute, is_file, is_folder, local_path
from .cifar_pickles import read_pickle

BASE_URL = "https://www.cs.toronto.edu/~kriz/"
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE  # one image: all red values in rows, then green, then blue
_LARGEST = 256 << 20  # bytes of one file in an archive; the largest published one has 155 MB


@dataclass(frozen=True)
class _Form:
    """One published archive: its name, checksum, the folder inside, and the files that are read."""

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str  # the file of class names
    pickled: bool


@dataclass(frozen=True)
class _Labeling:
    """Where a data set's labels are: keys of the pickles, and bytes before each image of the binary form."""

    key: str
    names_key: str
    names_file: str
    byte: int
    bytes: int


_FORMS: dict[str, tuple[_Form, ...]] = {
    "cifar10": (
        _Form(
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            "cifar-10-batches-py",
            tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test_batch",
            "batches.meta",
            True,
        ),
        _Form(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin",
            tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test_batch.bin",
            "batches.meta.txt",
            False,
        ),
    ),
    "cifar100": (
        _Form(
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-python",
            ("train",),
            "test",
            "meta",
            True,
        ),
        _Form(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary",
            ("train.bin",),
            "test.bin",
            "fine_label_names.txt",
            False,
        ),
    ),
}
_LABELINGS = {
    "cifar10": _Labeling("labels", "label_names", "batches.meta.txt", 0, 1),
    "cifar100": _Labeling("fine_labels", "fine_label_names", "fine_label_names.txt", 1, 2),
    "cifar100_coarse": _Labeling("coarse_labels", "coarse_label_names", "coarse_label_names.txt", 0, 2),
}


def takes_cifar10(where: Any) -> bool:
    """The word ``cifar10``, or the path of an archive of it, packed or unpacked."""
    return _takes("cifar10", where)


def takes_cifar100(where: Any) -> bool:
    """The word ``cifar100``, or the path of an archive of it, packed or unpacked."""
    return _takes("cifar100", where)


def takes_cifar100_coarse(where: Any) -> bool:
    """The word ``cifar100_coarse``."""
    return isinstance(where, str) and where == "cifar100_coarse"


def open_cifar10(where: str | Path = "cifar10", data_dir: Path | None = None) -> Source:
    """CIFAR-10: 50,000 + 10,000 color images of 32×32, 10 classes. See `_open`."""
    return _open("cifar10", where, data_dir)


def open_cifar100(where: str | Path = "cifar100", data_dir: Path | None = None) -> Source:
    """CIFAR-100 with its fine labels: 50,000 + 10,000 color images of 32×32, 100 classes. See `_open`."""
    return _open("cifar100", where, data_dir)


def open_cifar100_coarse(where: str | Path = "cifar100_coarse", data_dir: Path | None = None) -> Source:
    """CIFAR-100 with its coarse labels: the same images in 20 classes. See `_open`."""
    return _open("cifar100_coarse", where, data_dir)


def _open(name: str, where: str | Path, data_dir: Path | None) -> Source:
    """Read a data set from the first place that has it: the given path, `data_dir`, Keras's cache, Topgraft's
    own cache; else download it there. Images are views of a few large arrays, named as ``cifar10/test/17``.

    Raises:
        DataError: the archive is damaged, or holds something else.
        DownloadError: it is nowhere here and cannot be downloaded.
    """
    dataset = name.removesuffix("_coarse")
    path, form = _place(dataset, where) if where != name else _find(dataset, data_dir)
    labeling = _LABELINGS[name]
    try:
        batches, classes = _read(path, form, labeling)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Delete it, and get it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    train: list[Sample] = []
    test: list[Sample] = []
    for member, (labels, images, digests) in batches.items():
        split, samples = ("test", test) if member == form.test else ("train", train)
        _check_labels(labels, len(classes), f"{path}: {member}")
        for label, image, digest in zip(labels, images, digests, strict=True):
            samples.append(Sample(f"{name}/{split}/{len(samples)}", label, array=image, digest=digest))
    given: dict[SplitName, tuple[Sample, ...]] = {"train": tuple(train), "test": tuple(test)}
    return Source(str(where), classes, given=given)


def _takes(dataset: str, where: Any) -> bool:
    if where == dataset:
        return True
    path = local_path(where)
    return path is not None and _form_at(dataset, path) is not None


def _place(dataset: str, where: str | Path) -> tuple[Path, _Form]:
    path = absolute(where)
    form = _form_at(dataset, path)
    if form is None:
        raise DataError(
            f"{path} is not an archive of {dataset}; give the published archive, or the folder it unpacks to"
        )
    return path, form


def _form_at(dataset: str, path: Path) -> _Form | None:
    """The form of the archive at a path, packed or unpacked; None where there is none."""
    if is_folder(path):
        return next((form for form in _FORMS[dataset] if _unpacked(path, form)), None)
    if not is_file(path):
        return None
    try:
        with tarfile.open(path, "r:*") as archive:
            first = archive.next()  # only the first header is unpacked here
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return next((form for form in _FORMS[dataset] if form.archive == path.name), None)
    top = first.name.removeprefix("./").split("/")[0] if first else ""
    return next((form for form in _FORMS[dataset] if form.folder == top), None)


def _unpacked(folder: Path, form: _Form) -> bool:
    return all(is_file(folder / name) for name in (*form.train, form.test, form.names))


def _find(dataset: str, data_dir: Path | None) -> tuple[Path, _Form]:
    own = cache_folder() / "datasets"
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser() / "datasets"
    if data_dir is not None and _form_at(dataset, data_dir):
        return _place(dataset, data_dir)
    for folder in (keras, own) if data_dir is None else (absolute(data_dir), keras, own):
        for form in _FORMS[dataset]:
            for path in _candidates(folder, form):
                if _unpacked(path, form) or path.is_file():
                    return path, form
    form = _FORMS[dataset][0]
    try:
        path = download.fetch(BASE_URL + form.archive, known_hash=f"md5:{form.md5}", folder=own, file_name=form.archive)
    except DownloadError as error:
        hint = f" A folder named {dataset} is here; write ./{dataset} to open it." if Path(dataset).is_dir() else ""
        raise DownloadError(f"{error} Or name the folder that holds the archive with --data-dir.{hint}") from None
    return path, form


def _candidates(folder: Path, form: _Form) -> Iterator[Path]:
    """Where the data set may be below a folder: as published, and as Keras 2 and Keras 3 name it."""
    for name in (form.folder, f"{form.folder}-target"):
        yield folder / name
        yield folder / name / form.folder
    yield folder / form.archive
    for name in (form.folder, f"{form.folder}-target"):
        yield folder / f"{name}.tar.gz"
        yield folder / f"{name}_archive"


_Batch = tuple[list[int], NDArray[np.uint8], list[str]]  # labels, images N×32×32×3, digests


def _read(path: Path, form: _Form, labeling: _Labeling) -> tuple[dict[str, _Batch], tuple[str, ...]]:
    """Each batch in its published order, and the class names. Archives are read in one pass, without unpacking."""
    names_file = form.names if form.pickled else labeling.names_file
    wanted = {*form.train, form.test, names_file}
    classes: tuple[str, ...] = ()
    pending: dict[str, tuple[list[int], Future[tuple[NDArray[np.uint8], list[str]]]]] = {}
    with ThreadPoolExecutor(min(4, usable_cores())) as pool:
        for member, data in _members(path, wanted):
            if member == names_file:
                classes = _class_names(data, form, labeling, f"{path}: {member}")
            else:
                labels, planes = _batch(data, form, labeling, f"{path}: {member}")
                pending[member] = labels, pool.submit(_arrange, planes)
    missing = sorted(wanted - {*pending, *([names_file] if classes else [])})
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}. Delete it, and get it again")
    return {member: (pending[member][0], *pending[member][1].result()) for member in (*form.train, form.test)}, classes


def _members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for name in sorted(wanted):
            if (path / name).is_file():
                yield name, (path / name).read_bytes()
        return
    with tarfile.open(path, "r:*") as archive:
        for entry in archive:
            name = entry.name.rsplit("/", 1)[-1]
            if name in wanted and entry.isfile() and entry.size <= _LARGEST:
                file = archive.extractfile(entry)
                if file is not None:
                    yield name, file.read()
        # The checksum of a gzip file is at its end, behind the padding that tar does not look at.
        while archive.fileobj is not None and archive.fileobj.read(1 << 20):
            pass


def _class_names(data: bytes, form: _Form, labeling: _Labeling, of: str) -> tuple[str, ...]:
    if not form.pickled:
        return tuple(line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip())
    names = _entry(_table(data, of), labeling.names_key, of)
    if not isinstance(names, list) or not names:
        raise DataError(f"{of} holds no list of class names. Delete the archive, and get it again")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def _batch(data: bytes, form: _Form, labeling: _Labeling, of: str) -> tuple[list[int], NDArray[np.uint8]]:
    """Labels, and pixels N×3072, of one file."""
    if not form.pickled:
        row = labeling.bytes + _PIXELS
        if len(data) % row:
            raise DataError(f"{of} has {len(data)} bytes, no multiple of {row}. Delete the archive, and get it again")
        rows = np.frombuffer(data, np.uint8).reshape(-1, row)
        return rows[:, labeling.byte].tolist(), rows[:, labeling.bytes :]
    table = _table(data, of)
    planes = _entry(table, "data", of)
    labels = _entry(table, labeling.key, of)
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    fits = isinstance(planes, np.ndarray) and planes.dtype == np.uint8 and planes.ndim == 2
    if not fits or planes.shape[1] != _PIXELS or not isinstance(labels, list) or len(labels) != len(planes):
        raise DataError(f"{of} holds no images of {_SIDE}×{_SIDE} with a label each. Get the published archive")
    return labels, planes


def _table(data: bytes, of: str) -> Mapping[Any, Any]:
    table = read_pickle(data, of)
    if not isinstance(table, dict):
        raise DataError(f"{of} holds no dict. Get the published archive")
    return table


def _entry(table: Mapping[Any, Any], key: str, of: str) -> Any:
    """An entry by its name, which Python 2 wrote as bytes."""
    for form in (key.encode(), key):
        if form in table:
            return table[form]
    raise DataError(f"{of} has no entry {key}. Get the published archive")


def _check_labels(labels: list[Any], classes: int, of: str) -> None:
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < classes]
    if wrong:
        raise DataError(
            f"{of} has {len(wrong)} labels that are not a class, as {wrong[0]!r}. Get the published archive"
        )


def _arrange(planes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[str]]:
    """Images N×32×32×3 and their digests from N×3072."""
    images = np.ascontiguousarray(planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
    return images, [digest_array(image) for image in images]
