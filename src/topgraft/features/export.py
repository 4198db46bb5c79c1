"""Features as a file: ``.npz`` for NumPy, ``.parquet`` for data frames."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topgraft.data.overviews import by_class, images_of, unreadable
from topgraft.data.samples import Unreadable
from topgraft.errors import UsageError
from topgraft.system.files import atomic_write
from topgraft.system.reprs import Overview, Shown


def features(this: Features) -> Overview:
    """How many, and of what."""
    labels = Counter(zip(this.splits, this.labels.tolist(), strict=True))
    counts = {s: [labels[s, label] for label in range(len(this.classes))] for s in dict.fromkeys(this.splits)}
    rows, width = this.features.shape
    facts = {"unreadable": unreadable(this.unreadable), "notes": "; ".join(this.notes)}
    title = f"Features by {this.backbone}: {width:,} of each of {images_of(rows, this.classes)}"
    return Overview(title, facts, (by_class(this.classes, counts),))


def check_suffix(path: Path) -> None:
    """Whether a file of that name can be written; asked before the work.

    Raises:
        UsageError: another suffix than .npz or .parquet, or .parquet without pyarrow.
    """
    if path.suffix not in (".npz", ".parquet"):
        raise UsageError(f"{path} must end in .npz or .parquet")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError("writing .parquet needs pyarrow: pip install 'topgraft[parquet]', or use .npz") from error


def write_features(features: Features, path: Path) -> None:
    """Write features with names, labels and splits, whole or not at all.

    ``.npz`` holds the arrays ``features`` (float32 n×width), ``labels`` (int64; -1 unlabeled), ``names``,
    ``splits`` and ``classes``. ``.parquet`` holds the columns name, split, label (the class's name) and
    features (a list of float32).
    """
    check_suffix(path)
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(
            buffer,
            features=features.features,
            labels=features.labels,
            names=np.array(features.names, dtype=np.str_),
            splits=np.array(features.splits, dtype=np.str_),
            classes=np.array(features.classes, dtype=np.str_),
        )
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = features.features
        values = pa.array(np.ascontiguousarray(rows).reshape(-1))
        columns = {
            "name": pa.array(features.names),
            "split": pa.array(features.splits),
            "label": pa.array([features.classes[k] if k >= 0 else None for k in features.labels], pa.string()),
            "features": pa.FixedSizeListArray.from_arrays(values, rows.shape[1]),
        }
        pq.write_table(pa.table(columns), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


@dataclass(frozen=True, repr=False)
class Features(Shown, overview=features):
    """What `extract_features` returns: one row of pooled features for each image.

    Attributes:
        names: image names, in order.
        features: float32, n × feature width.
        labels: int64, n; -1 where unlabeled.
        splits: the split of each image; ``undivided`` where the source has none and is too small to be divided.
        classes: class names, in label order.
        backbone: name of the backbone that made the features.
        unreadable: files that were left out, and why.
        notes: about how the images were found and divided.
    """

    names: tuple[str, ...]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    backbone: str
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[str, ...] = ()
