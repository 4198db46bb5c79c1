"""Numbers with their n, the headline last, and a chart that fits 80 columns."""

from __future__ import annotations

from topgraft.cli.render.forgetting import forgotten
from topgraft.evaluation.forgetting import Forgetting, Kept
from topgraft.evaluation.similarity import Similarity
from topgraft.metrics import Difference, Interval
from topgraft.training.summary import traded
from topgraft.training.wise_ft import Trade, TradePoint

AT = Interval(0.734, 0.706, 0.76, 1000)
LOST = Difference(0.124, -0.0001, 0.146, 1000)


def test_an_untouched_base_has_lost_0() -> None:
    assert forgotten(Forgetting("b", "w", True, 0.0))[-1].startswith("forgotten: 0 points;")


def test_a_source_ends_with_the_points_lost() -> None:
    lines = forgotten(Forgetting("b", "w", False, 12.4, None, Kept(1000, "here", AT, AT, AT, AT, LOST)))
    assert lines[-1] == (
        "forgotten: 12.4 points of top-1 (95 % interval 0.0 to 14.6, n = 1,000, the same images before and after)"
    )
    assert "top-5 before: 73.4 % (95 % interval 70.6 to 76.0, n = 1,000)" in lines
    few = forgotten(Forgetting("b", "w", False, 12.4, None, Kept(1000, "here", AT, AT, None, None, LOST)))
    assert not any("top-5" in line for line in few)


def test_own_images_say_what_they_can_say() -> None:
    lines = forgotten(Forgetting("b", "w", False, 20.0, Similarity(1000, AT, 0.9, 0.8)))
    assert "not how well it does the original task" in lines[1]
    assert "mean cosine 0.900, linear CKA 0.800" in lines[2]
    assert lines[-1] == "same answer as the original network: 73.4 % (95 % interval 70.6 to 76.0, n = 1,000)"
    headless = forgotten(Forgetting("b", "w", False, None, Similarity(1, None, 0.9, None), cannot="no top"))
    assert "not measured: no top" in headless
    assert not any("CKA" in line or "same answer" in line for line in headless)


def test_the_trade_is_a_chart_of_80_columns() -> None:
    def point(share: float, target: float, kept: float, lost: float) -> TradePoint:
        at = [Interval(value, value, value, 1000) for value in (target, kept, kept)]
        return TradePoint(share, at[0], at[1], at[2], Difference(lost, -1.0, 1.0, 9), Difference(lost, -1.0, 1.0, 9))

    trade = Trade(5, "source", (point(0, 0.5, 1.0, 0), point(0.5, 0.75, 0.5, 0.05), point(1, 1.0, 0.0, 1)), 0.5, 0.1)
    lines = traded(trade)
    assert max(map(len, lines[:4])) <= 80
    assert [line.count("█") for line in lines[1:4]] == [12, 12, 12]
    assert [("← kept" in line) for line in lines[1:4]] == [False, True, False]
    assert "5 points allowed, on n = 1,000 others 5.0 lost" in lines[4]
    flat = traded(Trade(5, "agreement", (point(0, 0.5, 1.0, 0),), 0.0, 0.1))
    assert flat[1].count("█") == 24
    assert "same answers" in flat[0]
