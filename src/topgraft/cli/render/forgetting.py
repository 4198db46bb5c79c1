"""What is forgotten, as lines of text: numbers with their n, and the trade as a small chart. Nothing here computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from topgraft.system.formatting import in_points, percent, share

if TYPE_CHECKING:
    from topgraft.evaluation.forgetting import Forgetting
    from topgraft.metrics import Difference, Interval
    from topgraft.training.wise_ft import Trade

_BAR = 12  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def forgotten(found: Forgetting) -> list[str]:
    """The result of the verb, one line for each number; the headline is last."""
    lines = [f"original network: {found.backbone}, weights {found.weights}"]
    if found.cannot:
        lines.append(f"not measured: {found.cannot}")
    if found.untouched:
        lines.append("forgotten: 0 points; the base is the original one, bit for bit, so nothing else was computed")
        return lines
    if found.own is not None:
        own = found.own
        lines.append(
            f"on {own.n:,} of your own images, under the original classifier. This says how far the base has moved, "
            "not how well it does the original task: the original network's answers may be wrong"
        )
        cka = "" if own.cka is None else f", linear CKA {own.cka:.3f} (too high where images are few)"
        lines.append(
            f"features, tuned against original: mean cosine {own.cosine:.3f}{cka}; no intervals, n = {own.n:,}"
        )
        if own.agreement is not None:
            lines.append(f"same answer as the original network: {_percent(own.agreement)}")
    if found.source is not None:
        source = found.source
        lines.append(f"on {source.n:,} labeled images of the original task ({source.where})")
        if source.top5_before is not None and source.top5_after is not None:
            lines.append(f"top-5 before: {_percent(source.top5_before)}")
            lines.append(f"top-5 after:  {_percent(source.top5_after)}")
        lines.append(f"top-1 before: {_percent(source.top1_before)}")
        lines.append(f"top-1 after:  {_percent(source.top1_after)}")
        lines.append(f"forgotten: {_points(source.lost)}")
    return lines


def traded(trade: Trade) -> list[str]:
    """The curve: a row for each share. Bars go from the lowest value of their column to the highest."""
    what = "source top-1" if trade.judged_by == "source" else "same answers"
    lines = [
        f"{'tuned':>5}  {'validation top-1':<{_BAR + 8}}  {what:<{_BAR + 8}}  {'lost (95 %)':<20}",
    ]
    columns = [[point.target.value for point in trade.points], [point.reported.value for point in trade.points]]
    for point, target, kept in zip(trade.points, *columns, strict=True):
        bars = "  ".join(
            f"{share(value):>7} {_bar(value, column)}" for value, column in ((target, columns[0]), (kept, columns[1]))
        )
        mark = " ← kept" if point.share == trade.share else ""
        lost = point.lost_reported
        spread = f"{in_points(lost.value)} ({in_points(lost.low)} to {in_points(lost.high)})"
        lines.append(f"{share(point.share, 0):>5}  {bars}  {spread}{mark}")
    chosen = trade.chosen
    lines.append(
        f"{what} and points lost: of n = {chosen.reported.n:,} images that did not choose; "
        f"{trade.at_most:g} points allowed, on n = {chosen.choosing.n:,} others {in_points(chosen.lost.value)} lost"
    )
    lines.append(f"validation top-1: n = {chosen.target.n:,}, used for selection; bars run from lowest to highest")
    return lines


def _bar(value: float, column: Sequence[float]) -> str:
    low, high = min(column), max(column)
    eighths = round(8 * _BAR * (value - low) / (high - low)) if high > low else 8 * _BAR
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def _percent(interval: Interval) -> str:
    return percent({"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n})


def _points(lost: Difference) -> str:
    value, low, high = (in_points(share) for share in (lost.value, lost.low, lost.high))
    return f"{value} points of top-1 (95 % interval {low} to {high}, n = {lost.n:,}, the same images before and after)"
