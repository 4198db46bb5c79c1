"""The result of a fit as lines of text: for the command line, and for the end of a fit in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topgraft.evaluation.chance import warned
from topgraft.evaluation.headline import headline
from topgraft.evaluation.results import Cost, FittedClassifier
from topgraft.system.formatting import image_counts, in_points, share

from .wise_ft import Trade, trade_from_json

_BAR = 12  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def lines(model: FittedClassifier, seconds: Mapping[str, float], out: Path | None = None) -> list[str]:
    """One line for each fact; the headline is last.

    Args:
        model: from `topgraft.fit`.
        seconds: of each part, and ``total``.
        out: the folder where it was saved; None where it was not.
    """
    config = model.config
    untried = (config.get("auto") or {}).get("untried")
    parts = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items() if name != "total")
    return [
        *([config["kept"]] if config.get("kept") else []),
        f"{len(model.classes)} classes; {image_counts(config['data']['images'], len(model.unreadable))}",
        _base(model),
        *([] if config.get("kept") and "epoch" in config["selection"] else [_selected(config["selection"])]),
        *(traded(trade_from_json(config["trade"])) if config.get("trade") else []),
        *(config[part]["short"] for part in ("trade", "forgetting") if config.get(part)),
        *([f"with more time it would also train from {untried}: --budget"] if untried else []),
        f"seconds: {parts}; total {seconds['total']:.2f} s",
        *([] if out is None else [f"saved: {out}"]),
        *warned((config.get("largest_class") or {}).get("message", "")),
        *headline(model.validation),
    ]


def _base(model: FittedClassifier) -> str:
    """What computed the base, or trained it, and where."""
    resolved, backbone = model.config["resolved"], model.config["backbone"]["name"]
    engine, why = resolved["engine"], resolved.get("engine_why")
    if "epoch" in model.config["selection"]:
        return f"trained: {backbone} on {engine['device']} ({resolved['training']})"
    return (
        f"base: {backbone} on {engine['name']} ({engine['precision']}{f': {why}' if why else ''}); "
        f"{_origins(model.cost)}"
    )


def _origins(cost: Cost) -> str:
    """Where the features came from: computed, cached, or those of an equal image."""
    computed = "1 image" if cost.images_decoded == 1 else f"{cost.images_decoded:,} images"
    copies = "1 exact copy" if cost.images_copied == 1 else f"{cost.images_copied:,} exact copies"
    return f"{computed} computed, {cost.images_from_cache:,} from the cache" + (
        f", {copies} of these" if cost.images_copied else ""
    )


def _selected(selection: Mapping[str, Any]) -> str:
    """What chose the kept state."""
    if "epoch" in selection:
        judged = "validation images" if selection["by"] == "validation" else "images, each judged out of fold"
        return (
            f"kept: epoch {selection['epoch']} of {selection.get('phase', 'full')}, "
            f"the best on {selection['images']:,} {judged}"
        )
    how = {
        "validation": f"chosen by log loss on {selection['images']:,} validation images",
        "out-of-fold": f"chosen by out-of-fold log loss over {selection['images']:,} train and validation images",
        "default": "the default, as there are too few images to choose by",
    }[selection["by"]]
    return f"head: {solved(selection)}, {how}"


def solved(selection: Mapping[str, Any]) -> str:
    """How a head was solved, in words; see `topgraft.training.head.logistic.HeadSettings`."""
    if selection.get("shrinkage") is not None:
        way = f"discriminant, covariance shrunken by {selection['shrinkage']:g}"
    else:
        way = f"strength C = {selection['strength']:g}"
    return way + (_NORMALIZED.get(selection.get("normalization", "")) or "")


_NORMALIZED = {
    "standard": ", on standardized features",
    "length": ", on features of unit length",
    "root": ", on square roots of features, of unit length",
}


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
