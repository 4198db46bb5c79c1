"""Scanned handwritten digits that come with scikit-learn: real images that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from topgraft.data.hashing import digest_arrays
from topgraft.data.samples import Sample

from .base import Source

_WHITE = 16  # load_digits counts the inked pixels of 4×4 blocks, 0…16


def takes(where: Any) -> bool:
    """The word ``digits``."""
    return isinstance(where, str) and where == "digits"


def open_digits(where: str = "digits", data_dir: Path | None = None) -> Source:
    """1,797 digits of 8×8 gray pixels, ten classes, without splits.

    Source: `sklearn.datasets.load_digits`, which is the test part of "Optical Recognition of Handwritten Digits"
    (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998). Its 0…16 are scaled to 0…255.
    """
    from sklearn.datasets import load_digits  # imported here: it takes a second

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / _WHITE)).astype(np.uint8)
    digests = digest_arrays(list(images))
    samples = tuple(
        Sample(f"digits/{number}", int(label), array=image, digest=digest)
        for number, (image, label, digest) in enumerate(zip(images, bunch.target, digests, strict=True))
    )
    return Source(where, tuple(str(name) for name in bunch.target_names), flat=samples)
