"""The moment that a budget is counted from."""

from __future__ import annotations

import time

import pytest

from topgraft import clock


def test_it_is_now_unless_somebody_has_said() -> None:
    before = time.perf_counter()
    assert before <= clock.began() <= time.perf_counter()
    with clock.counting_from(12.5):
        assert clock.began() == 12.5
        with clock.counting_from(3.0):
            assert clock.began() == 3.0
        assert clock.began() == 12.5
    assert clock.began() > before


def test_an_error_ends_the_counting() -> None:
    with pytest.raises(ZeroDivisionError), clock.counting_from(1.0):
        raise ZeroDivisionError
    assert clock.began() != 1.0
