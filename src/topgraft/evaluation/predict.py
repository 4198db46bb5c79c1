"""Answers for images without labels. Uses a model; needs no training code."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topgraft import metrics
from topgraft.data.samples import Sample
from topgraft.errors import DataError, UsageError
from topgraft.features.extract import run
from topgraft.features.frozen_base import Base

from .evaluate import head_logits
from .results import FittedClassifier, Prediction, Predictions

# What a folder is searched for. A file that is named outright may be called anything.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "ico", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pbm", "pgm", "png", "pnm"),
        *("ppm", "tif", "tiff", "webp"),
    )
)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files, folders (searched through, by image suffix) and glob patterns, in the order given, each file once.

    What names nothing is kept at the end, so that it is reported with what cannot be read. Hidden files and folders
    are skipped where a folder is searched.

    Raises:
        DataError: nothing was found.
    """
    found: dict[Path, None] = {}
    empty: list[Path] = []
    asked = [os.fspath(path) for path in paths]
    for text in asked:
        path = Path(text).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_image(p.relative_to(path)) and p.is_file())
            found.update(dict.fromkeys(inside))
            empty += [] if inside else [path]
        elif path.exists() or not glob.has_magic(text):
            found[path] = None  # also where it does not exist: it is named with the unreadable ones
        else:
            matched = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  # absolute patterns too
            found.update((Path(name), None) for name in matched)
            empty += [] if matched else [path]
    if not found:
        raise DataError(f"no images in {', '.join(asked) or 'an empty list'}; give image files, folders or patterns")
    return [*found, *empty]


def unlabeled(images: Any) -> list[Sample]:
    """Paths, folders, patterns, or uint8 arrays H×W×3 or H×W, one or a sequence, as samples without labels.

    Raises:
        UsageError: arrays of another kind, or mixed with paths.
        DataError: no images were found.
    """
    if isinstance(images, str | os.PathLike):
        images = [images]
    if isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3)):
        images = [images]
    given: Iterable[Any] = list(images)
    arrays = [image for image in given if isinstance(image, np.ndarray)]
    if arrays:
        wrong = [image for image in arrays if image.dtype != np.uint8 or image.ndim not in (2, 3)]
        if wrong or len(arrays) != len(list(given)):
            raise UsageError("arrays to predict must be uint8, H×W×3 or H×W, and not mixed with paths")
        return [Sample(f"image {number}", None, array=array) for number, array in enumerate(arrays)]
    return [Sample(path.as_posix(), None, path=path) for path in find_images(given)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def predict(fitted: FittedClassifier, samples: Sequence[Sample], base: Base, top_k: int) -> Predictions:
    """The `top_k` best classes of each image with their probabilities, best first.

    Args:
        fitted: the model.
        samples: images; labels are not looked at.
        base: the model's frozen base, see `topgraft.features.frozen_base.open_base`.
        top_k: at least 1; no more than there are classes are given.
    """
    computed = run(samples, base, description="predict")
    probabilities = metrics.softmax(head_logits(fitted.classifier, computed.rows))
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    answers = tuple(
        Prediction(
            samples[index].name,
            tuple(fitted.classes[k] for k in order),
            tuple(float(row[k]) for k in order),
        )
        for index, row, order in zip(computed.kept, probabilities, best, strict=True)
    )
    return Predictions(answers, computed.unreadable)
