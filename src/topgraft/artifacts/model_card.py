"""The model card: what the model is, how good it is and for what, and how to load it. Pure text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topgraft.system.formatting import SPLIT_LABELS, image_counts, percent, split_label


def _origin(backbone: Mapping[str, Any]) -> str:
    if backbone["weights"] == "learnt":
        return f"with the baseline **{backbone['name']}**, learned from these images alone,"
    return (
        f"from the published network **{backbone['name']}** "
        f"(weights `{backbone['weights']}`, license: {backbone['licence']})"
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
        f"central {spec['input_size']} × {spec['input_size']} pixels, normalized with mean {spec['mean']} and "
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
