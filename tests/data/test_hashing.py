import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from topgraft.data import hashing
from topgraft.data.hashing import digest_array, digest_arrays, digest_bytes, digest_files, read_file
from topgraft.errors import ImageError


def test_bytes_are_hashed_with_sha256():
    assert digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_array_is_hashed_with_its_shape():
    assert digest_array(np.zeros((2, 8), np.uint8)) != digest_array(np.zeros((4, 4), np.uint8))


def test_an_array_is_hashed_in_row_order_however_it_lies_in_memory():
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    turned = np.asfortranarray(array)
    assert digest_array(turned) == digest_array(array)
    assert digest_array(array.transpose(1, 0, 2)) != digest_array(array)


def test_many_arrays_are_hashed_in_order():
    arrays = [np.full((2, 2), number % 256, np.uint8) for number in range(3000)]
    assert digest_arrays(arrays) == [digest_array(array) for array in arrays]


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_files_are_hashed_in_order(tmp_path: Path, workers: int | None):
    paths = [tmp_path / f"{number}" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
    expected = [hashlib.sha256(b"x" * number).hexdigest() for number in range(100)]
    assert digest_files(paths, workers=workers) == expected


def test_the_check_sees_the_bytes_and_its_reason_is_returned(tmp_path: Path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")

    def check(data: bytes) -> None:
        if data == b"bad":
            raise ImageError("is bad")

    first, second = digest_files([bad, good], check)
    assert isinstance(first, ImageError)
    assert str(first) == "is bad"
    assert first.__traceback__ is None
    assert second == digest_bytes(b"good")


def test_what_cannot_be_read_has_a_reason(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    missing, folder, null = digest_files([tmp_path / "missing", tmp_path / "folder", Path("a\0b")])
    assert (str(missing), str(folder), str(null)) == (
        "no such file",
        "is a folder, not a file",
        "the path is not valid",
    )


def test_a_file_too_large_to_be_a_photo_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hashing, "_LARGEST", 10)
    (tmp_path / "ten").write_bytes(b"x" * 10)
    (tmp_path / "eleven").write_bytes(b"x" * 11)
    ten, eleven = digest_files([tmp_path / "ten", tmp_path / "eleven"])
    assert ten == digest_bytes(b"x" * 10)
    assert str(eleven) == "larger than 2 GiB"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_named_pipe_is_named_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=r"^is not a regular file$"):
        read_file(tmp_path / "pipe")
