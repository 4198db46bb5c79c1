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
from pathlib import Path
from typing import Any

from topgraft.data.samples import Sample, SplitName
from topgraft.errors import DataError, DownloadError
from topgraft.system import download
from topgraft.system.files import cache_folder
from topgraft.system.formatting import reason_of

from .base import Source, absolute, local_path
from .cifar_archive import LAYOUTS, ArchiveLayout, candidate_paths, is_unpacked, layout_of
from .cifar_batches import LABEL_FIELDS, read_archive

BASE_URL = "https://www.cs.toronto.edu/~kriz/"


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
    """Read a data set from the first place that has it, or download it.

    The places are the given path, `data_dir`, Keras's cache and Topgraft's cache; a download goes into the last.
    Images are views of a few large arrays, named as ``cifar10/test/17``.

    Raises:
        DataError: the archive is damaged, or holds something else.
        DownloadError: it is not on this machine and cannot be downloaded.
    """
    dataset = name.removesuffix("_coarse")
    path, layout = _at_path(dataset, where) if where != name else _find(dataset, data_dir)
    try:
        batches, classes = read_archive(path, layout, LABEL_FIELDS[name])
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Delete it and get it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from None
    splits: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    for member, (labels, images, digests) in batches.items():
        split: SplitName = "test" if member == layout.test else "train"
        _check_labels(labels, len(classes), f"{path}: {member}")
        for label, image, digest in zip(labels, images, digests, strict=True):
            sample_name = f"{name}/{split}/{len(splits[split])}"
            splits[split].append(Sample(sample_name, label, array=image, digest=digest))
    return Source(str(where), classes, given={split: tuple(samples) for split, samples in splits.items()})


def _takes(dataset: str, where: Any) -> bool:
    if where == dataset:
        return True
    path = local_path(where)
    return path is not None and layout_of(dataset, path) is not None


def _at_path(dataset: str, where: str | Path) -> tuple[Path, ArchiveLayout]:
    path = absolute(where)
    layout = layout_of(dataset, path)
    if layout is None:
        raise DataError(
            f"{path} is not an archive of {dataset}; give the published archive, or the folder it unpacks to"
        )
    return path, layout


def _find(dataset: str, data_dir: Path | None) -> tuple[Path, ArchiveLayout]:
    """The data set in one of the folders that may have it, or the downloaded archive."""
    downloads = cache_folder() / "datasets"
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser() / "datasets"
    if data_dir is not None and layout_of(dataset, data_dir):
        return _at_path(dataset, data_dir)
    for folder in (keras, downloads) if data_dir is None else (absolute(data_dir), keras, downloads):
        for layout in LAYOUTS[dataset]:
            for path in candidate_paths(folder, layout):
                if is_unpacked(path, layout) or path.is_file():
                    return path, layout
    layout = LAYOUTS[dataset][0]
    name = layout.archive
    try:
        return download.fetch(BASE_URL + name, known_hash=f"md5:{layout.md5}", folder=downloads, file_name=name), layout
    except DownloadError as error:
        namesake = f" To open the folder {dataset}, write ./{dataset}." if Path(dataset).is_dir() else ""
        raise DownloadError(f"{error} Or name the folder that holds the archive with --data-dir.{namesake}") from None


def _check_labels(labels: list[Any], classes: int, file: str) -> None:
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < classes]
    if wrong:
        raise DataError(
            f"{file} has {len(wrong)} labels that are not a class, such as {wrong[0]!r}. Get the published archive"
        )
