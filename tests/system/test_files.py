"""Atomic writes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from topgraft.system.files import (
    CHECKPOINT_FILE,
    atomic_write,
    cache_folder,
    checkpoint_file,
    link,
    remove_stale_drafts,
)


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


def test_a_checkpoint_is_a_file_or_lies_in_a_folder() -> None:
    assert checkpoint_file(Path("runs/a")) == Path("runs/a", CHECKPOINT_FILE)
    assert checkpoint_file(Path("runs/a.safetensors")) == Path("runs/a.safetensors")


def test_old_drafts_of_the_same_name_go_and_all_else_stays(tmp_path: Path) -> None:
    old = time.time() - 7200
    gone = [tmp_path / ".run-abcd_123.tmp", tmp_path / ".run-0123456789ab.tmp"]
    kept = [
        tmp_path / name
        for name in (".run-abcd_124.tmp", ".runs-abcd_123.tmp", ".run.previous", ".run-mine.tmp", "run", ".run-abcd_12")
    ]
    fresh = tmp_path / ".run-abcd_125.tmp"  # an old folder in which something is being written
    for folder in (gone[0], kept[0], fresh):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"")
    for file in (gone[1], *kept[1:]):
        file.write_bytes(b"")
    for path in (gone[0] / "model.safetensors", *gone, *kept[1:], fresh):
        os.utime(path, (old, old))
    remove_stale_drafts(tmp_path / "run")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, fresh])
    remove_stale_drafts(tmp_path / "nowhere" / "run")


def test_a_link_is_a_copy_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"one")
    link(tmp_path / "a", tmp_path / "b")

    def fails(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", fails)
    link(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == b"one"
