"""Quantities as users write them."""

from __future__ import annotations

from typing import Any

import pytest

import topgraft as tg
from topgraft import cli
from topgraft.errors import UsageError
from topgraft.quantities import as_seconds, time_limit


@pytest.mark.parametrize(("given", "expected"), [("5s", 5.0), ("5m", 300.0), ("1h", 3600.0), ("1.5h", 5400.0)])
def test_a_time_has_its_unit(given: str, expected: float) -> None:
    assert (time_limit(given), as_seconds(given)) == (given, expected)


@pytest.mark.parametrize("given", ["300", 300, 2.5, "1e3", "0"])
def test_a_bare_number_is_refused_with_examples(given: Any) -> None:
    with pytest.raises(UsageError, match="needs its unit, as 5s, 5m or 1h; "):
        time_limit(given)


@pytest.mark.parametrize("given", ["", "m", "fast", "-5m", "0s", "nans", "infh", "5d", "5 minutes", True])
def test_what_is_not_a_time_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="a number above 0 with s, m or h"):
        time_limit(given)


def test_a_budget_needs_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="needs its unit"):
        tg.fit("digits", budget=300)
    assert cli.main(["fit", "digits", "--budget", "300"]) == 2
    assert "a time needs its unit, as 5s, 5m or 1h; 300 has none" in capsys.readouterr().err
