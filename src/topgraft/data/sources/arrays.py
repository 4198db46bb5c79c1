"""NumPy arrays from Python: ``(images, labels)``, or a mapping of splits to such pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.data.hashing import digest_arrays
from topgraft.data.samples import SPLIT_NAMES, Sample, SplitName
from topgraft.errors import DataError
from topgraft.system.formatting import listing

from .base import Source, split_named

_CLASSES = "classes"


def takes(where: Any) -> bool:
    """A tuple or a list of images and labels, or a mapping."""
    return isinstance(where, (tuple, list, Mapping))


def open_arrays(where: Any, data_dir: Path | None = None) -> Source:
    """Images that are in memory already.

    Args:
        where: ``(images, labels)`` or ``(images, labels, classes)``, or a mapping of train, val (or valid,
            validation) and test to ``(images, labels)``, with the class names under ``classes`` if given.
            Images are uint8, N×H×W×3 (RGB), N×H×W or N×H×W×1 (gray), or a list of arrays H×W×3 or H×W of any
            sizes; they are not copied. Labels are N integers or N strings. With class names, integers count
            into them and strings are among them; without, the classes are the labels that occur, in order.
        data_dir: not used.

    Raises:
        DataError: anything else. The message says how to convert it.
    """
    pairs, names = _parts(where)
    labels = {split: _labels(given, split) for split, (_, given) in pairs.items()}
    classes = _classes(labels, names)
    numbers = {name: number for number, name in enumerate(classes)}
    samples: dict[SplitName | None, tuple[Sample, ...]] = {}
    for split, (images, _) in pairs.items():
        arrays = _images(images, split)
        if len(arrays) != len(labels[split]):
            raise DataError(f"{_of(split)}: {len(arrays)} images but {len(labels[split])} labels; give one label each")
        samples[split] = tuple(
            Sample(f"{split}/{at}" if split else str(at), numbers[_name(label, names)], array=array, digest=digest)
            for at, (array, label, digest) in enumerate(zip(arrays, labels[split], digest_arrays(arrays), strict=True))
        )
    flat = samples.pop(None, ())
    given = {split: samples[split] for split in SPLIT_NAMES if split in samples}
    return Source("arrays", classes, flat, given)


def _parts(where: Any) -> tuple[dict[SplitName | None, tuple[Any, Any]], tuple[str, ...] | None]:
    """The pairs by split (None where flat), and the class names if given."""
    if not isinstance(where, Mapping):
        if len(where) not in (2, 3):
            raise DataError(f"{len(where)} things were given; give (images, labels) or (images, labels, classes)")
        return {None: (where[0], where[1])}, _names(where[2]) if len(where) == 3 else None
    pairs: dict[SplitName | None, tuple[Any, Any]] = {}
    for key, value in where.items():
        if key == _CLASSES:
            continue
        split = split_named(str(key))
        if split is None:
            raise DataError(f"there is no split named {key!r}; the keys are train, val, test and classes")
        if split in pairs:
            raise DataError(f"{split} is given twice")
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise DataError(f"{split}: give a pair (images, labels)")
        pairs[split] = (value[0], value[1])
    if not pairs:
        raise DataError("the mapping has none of train, val and test; give {'train': (images, labels), …}")
    if "train" not in pairs:
        raise DataError(f"there is no train, only {', '.join(map(str, pairs))}; add 'train': (images, labels)")
    if len(pairs) == 1:  # nothing to keep apart from: it is divided as if no split had been named
        pairs = {None: pairs["train"]}
    return pairs, _names(where[_CLASSES]) if _CLASSES in where else None


def _names(given: Any) -> tuple[str, ...]:
    names = tuple(str(name) for name in given)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"class names are given twice: {listing(twice)}")
    return names


def _of(split: SplitName | None) -> str:
    return split or "the arrays"


def _labels(given: Any, split: SplitName | None) -> list[int | str]:
    labels = np.asarray(given)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras's data sets have them
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{_of(split)}: the labels have the shape {labels.shape}; give one label for each image"
            + ("; for one-hot rows use labels.argmax(axis=1)" if labels.ndim == 2 else "")
        )
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    if labels.dtype.kind == "U":
        return [str(label) for label in labels]
    if labels.dtype.kind in "iub":
        return [int(label) for label in labels]
    if not labels.size:
        return []
    raise DataError(f"{_of(split)}: the labels are {labels.dtype}; give integers, labels.astype(int), or strings")


def _classes(labels: Mapping[SplitName | None, list[int | str]], names: tuple[str, ...] | None) -> tuple[str, ...]:
    found = {label for part in labels.values() for label in part}
    if len({type(label) for label in found}) > 1:
        raise DataError("the labels of one split are integers and those of another are strings; give one kind")
    if names is None:
        numbers = sorted(label for label in found if isinstance(label, int))
        return tuple(map(str, numbers)) or tuple(sorted(map(str, found)))
    unknown = [label for label in found if not _known(label, names)]
    if unknown:
        raise DataError(
            f"labels that are not a class: {listing(sorted(map(str, unknown)))}. There are {len(names)} classes, "
            f"{listing(names)}; integers count from 0 to {len(names) - 1}"
        )
    return names


def _known(label: int | str, names: tuple[str, ...]) -> bool:
    return label in names if isinstance(label, str) else 0 <= label < len(names)


def _name(label: int | str, names: tuple[str, ...] | None) -> str:
    return names[label] if names is not None and isinstance(label, int) else str(label)


def _images(given: Any, split: SplitName | None) -> list[NDArray[np.uint8]]:
    """One array H×W×3 or H×W for each image, in C order, without a copy where it is so already."""
    if isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and given.dtype.kind == "O"):
        return [_image(image, f"{_of(split)}, image {at}") for at, image in enumerate(given)]
    images = np.asarray(given)
    if images.ndim not in (3, 4):
        raise DataError(f"{_of(split)}: the images have the shape {images.shape}; give N×H×W×3, or N×H×W for gray")
    images = np.ascontiguousarray(_checked(images, _of(split), images.shape[1:]))
    return list(images)


def _image(given: Any, of: str) -> NDArray[np.uint8]:
    if not isinstance(given, np.ndarray):
        raise DataError(f"{of} is a {type(given).__name__}; give arrays, such as np.asarray(image.convert('RGB'))")
    return np.ascontiguousarray(_checked(given, of, given.shape))


def _checked(images: NDArray[Any], of: str, shape: Sequence[int]) -> NDArray[np.uint8]:
    """`images`, a single trailing channel taken off. `shape` is that of one image."""
    if images.dtype != np.uint8:
        raise DataError(f"{of}: the images are {images.dtype}, and Topgraft takes uint8, 0…255. {_advice(images)}")
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(f"{of}: an image has the shape {tuple(shape)}; give H×W×3, or H×W for gray")
    if len(shape) == 2 or shape[2] == 3:
        return images
    if shape[2] == 1:
        return images[..., 0]
    if shape[0] in (1, 3):
        axes = tuple(range(images.ndim - 3))
        order = (*axes, *(len(axes) + axis for axis in (1, 2, 0)))
        raise DataError(f"{of}: an image has its channels first, {tuple(shape)}; use images.transpose{order}")
    raise DataError(f"{of}: an image has {shape[2]} channels; give RGB, H×W×3, or gray, H×W")


def _advice(images: NDArray[Any]) -> str:
    if images.dtype.kind == "f":
        return "For values of 0…1 use (images * 255).round().astype('uint8')"
    if images.dtype == np.uint16:
        return "For 16-bit values use (images >> 8).astype('uint8')"
    if images.dtype == np.bool_:
        return "Use images.astype('uint8') * 255"
    return "Where the values are 0…255 use images.astype('uint8')"
