"""Quantities as users write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import topgraft as tg
from topgraft.cli import main
from topgraft.errors import UsageError
from topgraft.system.quantities import as_seconds, image_side, time_limit


@pytest.mark.parametrize(("given", "expected"), [("5s", 5.0), ("5m", 300.0), ("1h", 3600.0), ("1.5h", 5400.0)])
def test_a_time_has_its_unit(given: str, expected: float) -> None:
    assert (time_limit(given), as_seconds(given)) == (given, expected)


@pytest.mark.parametrize("given", ["300", 300, 2.5, "1e3", "0"])
def test_a_bare_number_is_refused_with_examples(given: Any) -> None:
    with pytest.raises(UsageError, match="needs a unit, such as 5s, 5m or 1h; "):
        time_limit(given)


@pytest.mark.parametrize("given", ["", "m", "fast", "-5m", "0s", "nans", "infh", "5d", "5 minutes", True])
def test_what_is_not_a_time_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="a number above 0 with s, m or h"):
        time_limit(given)


def test_a_budget_needs_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="needs a unit"):
        tg.fit("digits", budget=300)
    assert main.main(["fit", "digits", "--budget", "300"]) == 2
    assert "a time needs a unit, such as 5s, 5m or 1h; 300 has none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [32, np.int64(32), "32", "32x32", "32×32", " 32 x 32 ", (32, 32), [32, 32], (32, 32, 3), np.array([32, 32]), (32,)],
)
def test_an_image_side_may_be_written_as_a_pair_of_equal_sides(given: Any) -> None:
    side = image_side(given)
    assert (side, type(side)) == (32, int)


@pytest.mark.parametrize(
    "given", [(32, 48), "32x48", (3, 32, 32), (32, 32, 3, 1), (), "", "x", "32x", 32.0, True, (True, 1), None]
)
def test_unequal_sides_and_what_is_none_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="images are square: give input_size as 224"):
        image_side(given)


def test_a_triple_with_other_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="has 1 channels; give the side only: 28"):
        image_side((28, 28, 1))


def test_a_summary_takes_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert tg.summary("efficientnet_lite0", (64, 64)) == tg.summary("efficientnet_lite0", 64)
    assert main.main(["summary", "efficientnet_lite0", "--input-size", "64x64"]) == 0
    assert "64 × 64 pixels" in capsys.readouterr().out
    assert main.main(["summary", "efficientnet_lite0", "--input-size", "64x32"]) == 2
    assert "images are square" in capsys.readouterr().err
