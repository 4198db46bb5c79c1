"""Boundary activations on disk, by the content of each image, keyed by all that made them.

A store is a folder of segments. A segment is one file, written once and whole: a header, the digests of its
images, and their rows in float16. Appending adds a segment and touches no other, so a kill or a full disk
leaves the earlier ones whole, and processes that append at the same time do not meet. Where two segments
hold the same image, the newest is used.

    8 bytes   ``TGROWS1\n``
    4 bytes   length of the header, little-endian
    n bytes   the header, JSON: rows, shape, dtype, offset of the rows, CRC-32 of digests and of rows
    32 each   the digests, SHA-256, one after the other
    padding   zeros to a multiple of 64 bytes
    rest      the rows, C order
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.errors import CacheError
from topgraft.system.files import atomic_write

from .cache_key import CacheKey
from .segment_file import BLOCK, DIGEST_BYTES, DTYPE, Segment, read_index, rows_crc, write_segment

_LARGEST = float(np.finfo(np.float16).max)  # 65504


class FeatureStore:
    """Rows of one key, on disk. Reading is memory-mapped; nothing stays open between calls.

    Attributes:
        shape: of one row: ``(1280,)`` for pooled features, ``(112, 14, 14)`` for a feature map.
        boundary: the group that the rows come from.
        folder: where its segments are.
    """

    def __init__(self, folder: Path, key: CacheKey, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.boundary = key.boundary
        self.folder = folder / key.digest
        self._key = key
        # Digest → (segment, row). A digest is 32 bytes.
        self._places: dict[bytes, tuple[Segment, int]] = {}
        self._sound: set[Path] = set()
        self._broken: set[Path] = set()
        self._refresh()

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` (64 hex digits each) that have no row here, in order.

        Segments that hold any of the others are checked whole, the first time. What is damaged is as good as missing.
        """
        wanted = list(digests)
        while True:
            used = {place[0] for digest in wanted if (place := self._places.get(bytes.fromhex(digest)))}
            broken = {segment.path for segment in used if not self._is_sound(segment)}
            if not broken:
                return [digest for digest in wanted if bytes.fromhex(digest) not in self._places]
            self._broken |= broken
            self._refresh()

    def append(self, digests: Sequence[str], rows: NDArray[np.float32], names: Sequence[str] | None = None) -> None:
        """Store one row for each digest, in a new segment, on disk when this returns.

        Args:
            digests: SHA-256 of the images' content, in hex.
            rows: len(digests) × `shape`.
            names: of the images, for errors; the digests if None.

        Raises:
            CacheError: a row does not fit float16 (over 65504, or not a number), or the disk does not take it.
        """
        if rows.shape != (len(digests), *self.shape):
            raise ValueError(f"{len(digests)} digests need rows of {(len(digests), *self.shape)}, not {rows.shape}")
        if not digests:
            return
        self._refuse_overflow(rows, names or digests)
        binary = [bytes.fromhex(digest) for digest in digests]
        # Names sort by time, and no two are equal, in whatever process.
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}.rows"
        try:
            self._write_key()
            segment = write_segment(path, b"".join(binary), rows, self.shape)
        except OSError as error:
            raise CacheError(
                f"cannot write {len(digests)} rows to {self.folder} ({error.strerror or error}); "
                "earlier rows are kept. Make room, or choose another folder with --cache-dir or TOPGRAFT_CACHE"
            ) from None
        self._sound.add(path)
        self._places.update((digest, (segment, row)) for row, digest in enumerate(binary))

    def gather(self, digests: Sequence[str]) -> NDArray[np.float32]:
        """Rows in the order of `digests`: float32, len(digests) × `shape`. No more than the result is held.

        Raises:
            KeyError: a digest has no row; see `missing`.
            CacheError: a segment went away or was damaged since `missing` looked.
        """
        # PyTorch's memory: products of rows at other addresses differ in their last digits.
        result: NDArray[np.float32] = torch.empty((len(digests), *self.shape), dtype=torch.float32).numpy()
        by_segment: dict[Segment, tuple[list[int], list[int]]] = {}
        for position, digest in enumerate(digests):
            segment, row = self._places[bytes.fromhex(digest)]
            positions, rows = by_segment.setdefault(segment, ([], []))
            positions.append(position)
            rows.append(row)
        step = max(1, BLOCK // max(1, DTYPE.itemsize * math.prod(self.shape)))
        for segment, (positions, rows) in by_segment.items():
            mapped = self._mapped(segment)
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                # PyTorch converts with the processor's instruction, several times faster than NumPy does.
                stored = torch.from_numpy(np.array(mapped[_span(rows[part])]))
                result[_span(positions[part])] = stored.float().numpy()
        return result

    def _refresh(self) -> None:
        """Read the index again, without the segments that are known to be broken."""
        self._places.clear()
        for path in sorted(self.folder.glob("*.rows")):
            found = None if path in self._broken else read_index(path, self.shape)
            if found is not None:
                segment, binary = found
                cut = (binary[at : at + DIGEST_BYTES] for at in range(0, len(binary), DIGEST_BYTES))
                self._places.update((digest, (segment, row)) for row, digest in enumerate(cut))

    def _mapped(self, segment: Segment) -> NDArray[np.float16]:
        try:
            if self._is_sound(segment):
                return np.memmap(segment.path, DTYPE, "r", segment.offset, (segment.rows, *self.shape))
        except (OSError, ValueError):  # gone, or cut short
            pass
        raise CacheError(f"{segment.path} was removed or damaged while it was in use; run the same again")

    def _is_sound(self, segment: Segment) -> bool:
        if segment.path not in self._sound and rows_crc(segment, self.shape) == segment.rows_crc:
            self._sound.add(segment.path)
        return segment.path in self._sound

    def _refuse_overflow(self, rows: NDArray[np.float32], names: Sequence[str]) -> None:
        flat = rows.reshape(len(rows), -1)
        # Over a row, NaN spoils both its minimum and its maximum.
        fits = (flat.max(axis=1) <= _LARGEST) & (flat.min(axis=1) >= -_LARGEST)
        if fits.all():
            return
        first = int(np.argmin(fits))
        engine = self._key.engine
        worst = "not a number" if np.isnan(flat[first]).any() else f"{np.abs(flat[first]).max():g}"
        advice = (
            "try --precision fp32"
            if engine["precision"] != "fp32"
            else "leave the image out, or choose another backbone"
        )
        raise CacheError(
            f"{names[first]}: an activation after group {self._key.boundary} is {worst}, which float16 cannot store "
            f"(at most {_LARGEST:g}; engine {engine['name']}, {engine['precision']}); {advice}"
        )

    def _write_key(self) -> None:
        path = self.folder / "key.json"
        if not path.exists():
            with atomic_write(path) as file:
                file.write(self._key.as_json().encode())


def _span(places: list[int]) -> slice | list[int]:
    """Neighbors as a slice, which is copied in one go; rows are mostly asked for in the order they were stored."""
    run = range(places[0], places[0] + len(places))
    return slice(run.start, run.stop) if places == list(run) else places
