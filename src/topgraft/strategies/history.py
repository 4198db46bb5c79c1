"""Records of training: one for each epoch or head solve, and how two of them compare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topgraft.data import overviews
from topgraft.metrics import Interval
from topgraft.system.reprs import Shown


@dataclass(frozen=True, repr=False)
class EpochRecord(Shown, overview=overviews.epoch):
    """One line of ``history.jsonl``: what one epoch, or one solve of the head, did.

    For a solve, `epoch` is 0, and each head tried has a record: `normalization`, and C as `strength` or γ as
    `shrinkage`, as in `topgraft.head.HeadSettings`; `chosen` marks the one that was kept. For an epoch, one of the
    `epochs` of the phase's schedule, `train_loss` is the mean over its steps with the penalty on weights, `val_loss`
    is without, and `curve` has pairs of step and mean loss of the steps before it. `seconds` of the epochs of a phase
    add up to its wall time, preparation included.

    `hits` says which of the images that judge were answered right: one bit each, in order, as packed by
    ``numpy.packbits``, in hex. They are the validation images, or train and validation where a phase was tried in
    `folds`. `scaled_loss` is their log loss at the temperature that makes it least: two networks are compared by what
    they know, not by how sure they are.
    """

    phase: int
    name: str
    epoch: int
    seconds: float
    train_loss: float | None = None
    val_loss: float | None = None
    val_top1: Interval | None = None
    lr: float | None = None
    strength: float | None = None
    chosen: bool = False
    train_top1: Interval | None = None
    curve: tuple[tuple[int, float], ...] = ()
    hits: str = ""
    scaled_loss: float | None = None
    folds: int = 0
    epochs: int = 0
    normalization: str = ""
    shrinkage: float | None = None


def pack(right: NDArray[np.bool_]) -> str:
    """One bit for each image, in hex: `topgraft.records.EpochRecord.hits`."""
    return np.packbits(right).tobytes().hex()


def unpack(hits: str, n: int) -> NDArray[np.bool_]:
    """What `pack` has packed of n images."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(hits), dtype=np.uint8), count=n).astype(bool)


def standing(record: EpochRecord) -> tuple[int, float]:
    """What makes one record better than another on the same images: more right answers, on ties the lower log loss at
    the best temperature."""
    return int(record.hits or "0", 16).bit_count(), -math.inf if record.scaled_loss is None else -record.scaled_loss


def paired_difference(hits: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much the first accuracy is above the second on the same images, and the standard error of that.

    Only images that one answers right and the other wrong count: with b and c of them among n the difference is
    (b - c)/n, and its standard error, if the two were equally good, √(b + c)/n (McNemar, Psychometrika, 1947, as in
    Agresti, Categorical Data Analysis, section 10.1.1).
    """
    n = len(hits)
    b, c = int((hits & ~others).sum()), int((others & ~hits).sum())
    return (b - c) / n, math.sqrt(b + c) / n
