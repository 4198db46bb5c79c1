"""Atomic writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from topgraft.folders import atomic_write, cache_folder


def test_a_failed_write_leaves_the_previous_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    with atomic_write(path) as file:
        file.write(b"one")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"tw")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
