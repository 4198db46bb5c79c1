"""The model card: what the model is, how good it is and for what, and how to load it. Pure text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .records import Evaluation

SPLIT_LABELS = {"train": "train", "val": "validation", "test": "test"}


def split_label(split: str, used_for_selection: bool, before_refit: bool = False) -> str:
    """``validation, used for selection``: how a split is named wherever its numbers are shown."""
    selected = ", used for selection" if used_for_selection else ""
    return SPLIT_LABELS[split] + selected + (", before the refit" if before_refit else "")


def share(value: float, digits: int = 1) -> str:
    """A fraction of 1 in percent, as it is written everywhere: ``95.4 %``.

    Args:
        value: the fraction.
        digits: decimals.
    """
    return f"{100 * value:.{digits}f} %"


def percent(interval: Mapping[str, Any]) -> str:
    """``95.4 % (95 % interval 90.9 to 97.8, n = 153)``."""
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{share(interval['value'])} (95 % interval {low:.1f} to {high:.1f}, n = {interval['n']:,})"


def headline(result: Evaluation | None) -> list[str]:
    """The accuracies of an evaluation, one line each; the last is top-1, the number that everything is judged by."""
    if result is None:
        return []
    label = split_label(result.split, result.used_for_selection, result.before_refit)
    names = {"top-5": result.metrics.top5, "top-1": result.metrics.top1}
    return [f"{name} ({label}): {percent(asdict(found))}" for name, found in names.items() if found is not None]


def image_counts(images: Mapping[str, int], unreadable: int) -> str:
    """``train 45, validation 13, test 16 (not decoded by the fit); left out 2 files that cannot be read``.

    Args:
        images: split → images that a fit has used; of test those that are there, as a fit does not decode it.
        unreadable: files that were left out.
    """
    counts = [f"{SPLIT_LABELS[split]} {n:,}" for split, n in images.items() if n]
    if images.get("test"):
        counts[-1] += " (not decoded by the fit)"
    files = "1 file" if unreadable == 1 else f"{unreadable:,} files"
    return ", ".join(counts) + (f"; left out {files} that cannot be read" if unreadable else "")


def in_points(share: float) -> str:
    """A fraction of 1 as points with one decimal; never ``-0.0``."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def _origin(backbone: Mapping[str, Any]) -> str:
    if backbone["weights"] == "learnt":
        return f"with the baseline **{backbone['name']}**, learnt from these images alone,"
    return (
        f"from the published network **{backbone['name']}** "
        f"(weights `{backbone['weights']}`, licence: {backbone['licence']})"
    )


_TABLE = ["| images | top-1 | top-5 | log loss | calibration error | n |", "|---|---|---|---|---|---|"]


def model_card(name: str, config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """``README.md`` of an artifact, Markdown.

    Args:
        name: the artifact's.
        config: what its ``config.json`` holds.
        results: what its ``metrics.json`` holds.
    """
    backbone, data, classes = config["backbone"], config["data"], config["classes"]
    spec = config["image_spec"]
    counts = image_counts(data["images"], len(config.get("unreadable", ())))
    shown = ", ".join(classes[:20]) + (f" … ({len(classes)} in all)" if len(classes) > 20 else "")
    lines = [
        f"# {name}",
        "",
        f"An image classifier for {len(classes)} classes: {shown}.",
        "",
        f"Made with Topgraft {config['versions']['topgraft']} {_origin(backbone)} "
        f"by the strategy **{config['strategy']}**.",
        "",
        *([f"{config['kept'][0].upper() + config['kept'][1:]}.", ""] if config.get("kept") else []),
        "## Results",
        "",
        *(_TABLE if results else ["None yet."]),
    ]
    for split, entry in results.items():
        top5 = percent(entry["top5"]) if entry["top5"] else "–"
        label = split_label(split, entry["used_for_selection"], entry.get("before_refit", False))
        if entry["where"] != data["where"]:  # a reader would take it for the data below
            label += f" of `{entry['where']}`" if entry["where"] else " of other images"
        lines.append(
            f"| {label} | {percent(entry['top1'])} | {top5} "
            f"| {entry['log_loss']:.3f} | {entry['ece']:.3f} | {entry['n']:,} |"
        )
    if any(entry["used_for_selection"] for entry in results.values()):
        lines += [
            "",
            "A number used for selection is a little too good; a test split has not chosen anything.",
        ]
    for split, entry in results.items():
        compared = config.get("largest_class") if split == "val" else None  # more images may have judged the fit
        message = (compared or entry.get("largest_class") or {}).get("message")
        lines += ["", f"**Warning** ({SPLIT_LABELS[split]}): {message}"] if message else []
    lines += [
        "",
        "Intervals are 95 % Wilson intervals. Log loss (nats) and expected calibration error have none.",
        "",
        "## Data",
        "",
        f"Source: `{data['where']}`. Images: {counts}.",
        "",
        *(line for note in config["notes"] for line in (f"Note: {note}.", "")),
        "## How pixels are made",
        "",
        f"RGB, EXIF orientation applied, shorter side resized to {spec['resize_size']} ({spec['interpolation']}), "
        f"central {spec['input_size']} × {spec['input_size']} pixels, normalised with mean {spec['mean']} and "
        f"deviation {spec['std']} ({spec['channel_order']}).",
        "",
        "## Use",
        "",
        "```python",
        "import topgraft as tg",
        "",
        f'model = tg.load("{name}")',
        'for answer in tg.predict(model, ["photo.jpg"]):',
        "    print(answer.name, answer.classes[0], answer.probabilities[0])",
        "```",
        "",
        "```",
        f"topgraft predict {name} photo.jpg",
        "```",
        "",
    ]
    return "\n".join(lines)
