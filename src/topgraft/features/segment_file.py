"""One file of cached rows: header, digests, rows. Written once and whole, and checked by CRC-32."""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.system.files import atomic_write

_MAGIC = b"TGROWS1\n"


DIGEST_BYTES = 32  # bytes of a SHA-256


_ALIGN = 64


DTYPE = np.dtype("<f2")


BYTES = DTYPE.itemsize  # of a number on disk


BLOCK = 1 << 20  # bytes handled at a time: no second copy of a segment is held, and a core keeps them near


@dataclass(frozen=True)
class Segment:
    path: Path
    rows: int
    offset: int  # of the rows, in bytes
    rows_crc: int


def write_segment(path: Path, digests: bytes, rows: NDArray[np.float32], shape: tuple[int, ...]) -> Segment:
    halves = torch.from_numpy(np.ascontiguousarray(rows)).half().numpy()
    data = halves.astype(DTYPE, copy=False).reshape(-1).view(np.uint8).data
    rows_crc = zlib.crc32(data)
    record = {
        "rows": len(rows),
        "shape": shape,
        "dtype": DTYPE.str,
        "digests_crc": zlib.crc32(digests),
        "rows_crc": rows_crc,
    }
    header = json.dumps(record).encode()
    head = _MAGIC + struct.pack("<I", len(header)) + header + digests
    head += bytes(-len(head) % _ALIGN)
    with atomic_write(path) as file:
        file.write(head)
        file.write(data)
    return Segment(path, len(rows), len(head), rows_crc)


def read_index(path: Path, shape: tuple[int, ...]) -> tuple[Segment, bytes] | None:
    """A segment and its digests; None where it is damaged, cut short, or of another shape."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            (length,) = struct.unpack("<I", file.read(4))
            record = json.loads(file.read(min(length, size)))
            digests = file.read(DIGEST_BYTES * int(record["rows"]))
            used = file.tell()
        rows, offset = int(record["rows"]), used + -used % _ALIGN
        whole = (
            tuple(record["shape"]) == shape
            and record["dtype"] == DTYPE.str
            and zlib.crc32(digests) == record["digests_crc"]
            and size == offset + rows * math.prod(shape) * DTYPE.itemsize
        )
        return (Segment(path, rows, offset, int(record["rows_crc"])), digests) if whole else None
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def rows_crc(segment: Segment, shape: tuple[int, ...]) -> int | None:
    """CRC-32 of the rows as they are on disk now; None where they cannot be read."""
    found = 0
    try:
        with segment.path.open("rb") as file:
            file.seek(segment.offset)
            while block := file.read(BLOCK):
                found = zlib.crc32(block, found)
    except OSError:
        return None
    return found
