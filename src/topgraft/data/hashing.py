"""Hash images by content: SHA-256 of a file's bytes, or of an array's shape and bytes."""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from topgraft.errors import ImageError
from topgraft.system import progress
from topgraft.system.cores import usable_cores
from topgraft.system.formatting import reason_of

T = TypeVar("T")

_CHUNK = 32  # files for one task of a thread: enough for low overhead, few enough for an even load
_LARGEST = 2 << 30  # bytes; no photo is larger, and files are read into memory

_REASONS = {
    errno.ENOENT: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "is a folder, not a file",
    errno.ELOOP: "a link that leads back to itself",
}


def digest_bytes(data: bytes) -> str:
    """SHA-256 of a file's bytes, in hex (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def digest_array(array: NDArray[np.uint8]) -> str:
    """SHA-256 of an array's dtype, shape and bytes in C order, in hex.

    The shape is included, so that 2×8 and 4×4 zeros differ.
    """
    hashed = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def digest_arrays(arrays: Sequence[NDArray[np.uint8]]) -> list[str]:
    """`digest_array` of each, in order, in threads."""
    with ThreadPoolExecutor(_threads(None)) as pool:
        chunks = pool.map(_digest_chunk, _chunks(arrays, 1024))
        return [digest for chunk in chunks for digest in chunk]


def read_file(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        ImageError: it is missing, is not a regular file, may not be read, or is larger than 2 GiB.
    """
    try:
        # Unbuffered: one read of the whole file, without a buffer's copy. A named pipe would wait for ever.
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ImageError("is a folder, not a file" if stat.S_ISDIR(facts.st_mode) else "is not a regular file")
        if facts.st_size > _LARGEST:
            raise ImageError("larger than 2 GiB")
        with path.open("rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ImageError(_reason(error)) from None
    except ValueError:  # a null character in the path
        raise ImageError("the path is not valid") from None


def digest_files(
    paths: Sequence[Path], check: Callable[[bytes], object] | None = None, *, workers: int | None = None
) -> list[str | ImageError]:
    """The digest of each file, in order; or why it cannot be used. Every file is read once, in threads.

    Args:
        paths: the files.
        check: called with each file's bytes; it raises ImageError where they are not an image.
        workers: threads; None is one per usable core, 8 at most.
    """
    results: list[str | ImageError] = []
    with ThreadPoolExecutor(_threads(workers)) as pool, progress.bar("opening", len(paths)) as bar:
        for chunk in pool.map(lambda part: [_digest_file(path, check) for path in part], _chunks(paths, _CHUNK)):
            results += chunk
            bar.advance(len(chunk))
    return results


def _digest_file(path: Path, check: Callable[[bytes], object] | None) -> str | ImageError:
    try:
        data = read_file(path)
        if check is not None:
            check(data)
    except ImageError as error:
        # Only the reason is kept: the traceback would hold the bytes of every bad file.
        return ImageError(str(error))
    return digest_bytes(data)


def _digest_chunk(arrays: Sequence[NDArray[np.uint8]]) -> list[str]:
    return [digest_array(array) for array in arrays]


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _threads(workers: int | None) -> int:
    return max(1, workers) if workers is not None else min(8, usable_cores())


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or reason_of(error)
