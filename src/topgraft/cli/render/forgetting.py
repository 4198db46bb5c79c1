"""What is forgotten, as lines of text: numbers with their n. Nothing here computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topgraft.system.formatting import in_points, percent

if TYPE_CHECKING:
    from topgraft.evaluation.forgetting import Forgetting
    from topgraft.metrics import Difference, Interval


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


def _percent(interval: Interval) -> str:
    return percent({"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n})


def _points(lost: Difference) -> str:
    value, low, high = (in_points(share) for share in (lost.value, lost.low, lost.high))
    return f"{value} points of top-1 (95 % interval {low} to {high}, n = {lost.n:,}, the same images before and after)"
