"""Records of training: one for each epoch or head solve, and how two of them compare."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.metrics import Interval
from topgraft.system.formatting import counted, share
from topgraft.system.reprs import Grid, Overview, Shown
from topgraft.system.tabular import Tabular


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def epoch(this: EpochRecord) -> Overview:
    """What it did; the numbers that a solve does not have are left out."""
    facts = {
        "name": this.name,
        "epoch": str(this.epoch) if this.epoch else "",
        "strength": "" if this.strength is None else f"{this.strength:.3g}",
        "val_top1": "" if this.val_top1 is None else f"{share(this.val_top1.value)} (n = {this.val_top1.n:,})",
        "chosen": "True" if this.chosen else "",
        "val_loss": "" if this.val_loss is None else _loss(this.val_loss),
        "train_loss": "" if this.train_loss is None else _loss(this.train_loss),
        "lr": "" if this.lr is None else f"{this.lr:.3g}",
        "seconds": f"{this.seconds:.2f}",
    }
    return Overview("EpochRecord", facts, one_line=True)


def history(these: Sequence[EpochRecord]) -> Overview:
    """A row for each epoch and for each strength that was tried."""
    grid = Grid(
        ("phase", "epoch", "rate or C", "train loss", "val. loss", "val. top-1", "n", "seconds", "chosen"),
        these,
        lambda r: (
            f"{r.name}, {r.folds} folds" if r.folds else r.name,
            str(r.epoch) if r.epoch else "–",
            "–" if (step := r.strength if r.lr is None else r.lr) is None else f"{step:.3g}",
            _loss(r.train_loss),
            _loss(r.val_loss),
            *(("–", "–") if r.val_top1 is None else (share(r.val_top1.value), f"{r.val_top1.n:,}")),
            f"{r.seconds:.2f}",
            "yes" if r.chosen else "",
        ),
        "records",
    )
    epochs = sum(1 for record in these if record.epoch)
    solves = len(these) - epochs
    parts = [counted(solves, "solve of the head", "solves of the head")] if solves else []
    parts += [counted(epochs, "epoch")] if epochs else []
    return Overview("History: " + ", ".join(parts or ["empty"]), grids=(grid,))


class History(Shown, Tabular, tuple["EpochRecord", ...], overview=history):
    """What a fit did, in order: a tuple that is shown as a table."""

    __slots__ = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """The fields of each record."""
        return [asdict(record) for record in self]


@dataclass(frozen=True, repr=False)
class EpochRecord(Shown, overview=epoch):
    """One line of ``history.jsonl``: what one epoch, or one solve of the head, did.

    For a solve, `epoch` is 0, and each head tried has a record: `normalization`, and C as `strength` or γ as
    `shrinkage`, as in `topgraft.training.head.logistic.HeadSettings`; `chosen` marks the one that was kept. For an
    epoch, one of the
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
    """One bit for each image, in hex: `topgraft.strategies.history.EpochRecord.hits`."""
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


def line_of(record: EpochRecord) -> str:
    """One record as its line of ``history.jsonl``."""
    return json.dumps(asdict(record)) + "\n"


def epoch_from_json(entry: Mapping[str, Any]) -> EpochRecord:
    """One record from its line's JSON, or from what ``dataclasses.asdict`` made of it."""
    tops = {name: None if entry[name] is None else Interval(**entry[name]) for name in ("val_top1", "train_top1")}
    curve = tuple((int(step), float(loss)) for step, loss in entry["curve"])
    return EpochRecord(**{**entry, **tops, "curve": curve})
