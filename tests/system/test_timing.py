"""The moment that a budget is counted from."""

from __future__ import annotations

import time

import pytest

from topgraft.system import timing


def test_it_is_now_unless_somebody_has_said() -> None:
    before = time.perf_counter()
    assert before <= timing.began() <= time.perf_counter()
    with timing.counting_from(12.5):
        assert timing.began() == 12.5
        with timing.counting_from(3.0):
            assert timing.began() == 3.0
        assert timing.began() == 12.5
    assert timing.began() > before


def test_an_error_ends_the_counting() -> None:
    with pytest.raises(ZeroDivisionError), timing.counting_from(1.0):
        raise ZeroDivisionError
    assert timing.began() != 1.0
