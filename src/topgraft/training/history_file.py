"""Write ``history.jsonl``, and say how each epoch went, while a fit runs."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from topgraft.strategies.history import EpochRecord, line_of
from topgraft.system import formatting, progress
from topgraft.system.files import atomic_write
from topgraft.system.formatting import share


def described(record: EpochRecord, val_images: int) -> str | None:
    """How one epoch went, or what solving the head chose, in one line; None of a strength that was not chosen.

    About 75 characters: ``full, epoch 1/20: loss 0.712, val. 89.5 % of 153, lr 0.0003, 12 s``.

    Args:
        record: of the epoch or solve.
        val_images: how many validation images there are; where others judged it, they did so out of fold.
    """
    if record.val_top1 is None or not (record.epoch or record.chosen):
        return None
    judged = "val." if record.val_top1.n == val_images else "out of fold"
    right = f"{judged} {share(record.val_top1.value)} of {record.val_top1.n:,}"
    if not record.epoch:
        strength = "" if record.strength is None else f", C = {record.strength:.3g}"
        return f"{record.name}: solved{strength}, loss {record.val_loss:.3f}, {right}"
    return (
        f"{record.name}, epoch {record.epoch}/{record.epochs}: loss {record.train_loss:.3f}, {right}, "
        f"lr {record.lr:.3g}, {formatting.duration(record.seconds)}"
    )


class GrowingHistory:
    """The history of a fit that runs: each record is said as it comes, and appended to a file as one whole line.

    A disk that does not take a line ends the file, not the fit: the artifact has all records in the end.
    """

    def __init__(self, path: Path | None, val_images: int, earlier: Sequence[EpochRecord] = ()) -> None:
        """Begin the file again.

        Args:
            path: of the file; None for none.
            val_images: how many validation images there are.
            earlier: records of the run that is resumed; an epoch that it began and did not keep is done again.
        """
        self._path, self._val_images, self._repeated = path, val_images, len(earlier)
        if path is None:
            return
        try:
            if earlier:
                with atomic_write(path) as file:
                    file.writelines(line_of(record).encode() for record in earlier)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def add(self, record: EpochRecord) -> None:
        """Say how it went, and append it; those of the run that is resumed come first, and are there already."""
        text = described(record, self._val_images)
        if text is not None:
            progress.note(text)
        if self._repeated:
            self._repeated -= 1
        elif self._path is not None:
            try:
                _append(self._path, line_of(record).encode())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        progress.note(f"{self._path} is not written any further ({error}); the fit continues")
        self._path = None


def _append(path: Path, line: bytes) -> None:
    """Append a whole line or nothing: one unbuffered write, which a kill does not divide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if file.write(line) != len(line):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
