from __future__ import annotations

import platform

import pytest
import torch

from topgraft.system import threads
from topgraft.system.threads import ALIGNMENT, aligned, freed_memory_kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told")
def test_the_c_library_is_told_and_told_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it then does depends on where its heap can grow; that it takes each value is what can be tested."""
    told: list[list[int]] = []

    def telling(library, values: dict[int, int]) -> None:  # type: ignore[no-untyped-def]
        told.append([library.mallopt(name, value) for name, value in values.items()])

    monkeypatch.setattr(threads, "_set_options", telling)
    with freed_memory_kept():
        assert torch.ones(16 << 20).sum() == 16 << 20
        assert told == [[1, 1, 1]]
    assert told == [[1, 1, 1]] * 2


def test_it_is_told_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[int, int]] = []
    monkeypatch.setattr(threads, "_set_options", lambda library, values: told.append(values))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda name: type("Library", (), {"malloc_trim": lambda self, n: 1})())
    with pytest.raises(ValueError, match="so"), freed_memory_kept():
        raise ValueError("so")
    assert [values[-1] for values in told] == [1 << 30, 128 * 1024]


def test_elsewhere_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(threads, "_set_options", None)
    with freed_memory_kept():
        assert torch.ones(3).sum() == 3


def test_only_what_lies_otherwise_is_copied() -> None:
    plain = torch.arange(48.0).reshape(6, 8)
    assert aligned(plain) is plain
    for other in (plain[:, :5], plain.T, plain.flatten()[3:]):
        moved = aligned(other)
        assert moved.data_ptr() % ALIGNMENT == 0
        assert moved.is_contiguous()
        assert torch.equal(moved, other)
