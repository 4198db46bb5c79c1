"""What evaluations, predictions and fitted models show of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topgraft.data.overviews import unreadable
from topgraft.metrics import metrics_overview
from topgraft.strategies.history import history
from topgraft.system.formatting import counted, image_counts, listed, share, split_label
from topgraft.system.reprs import Grid, Overview

if TYPE_CHECKING:
    from .results import Evaluation, FittedClassifier, Prediction, Predictions


def evaluation(this: Evaluation) -> Overview:
    """Its metrics, and what was left out."""
    numbers = metrics_overview(this.metrics)
    label = split_label(this.split, this.used_for_selection, this.before_refit)
    facts = {
        **numbers.facts,
        "left out": f"{counted(len(this.seen), 'image')} that fitting or selection has used" if this.seen else "",
        "unreadable": unreadable(this.unreadable),
        "source": this.where,
        "notes": "; ".join(this.notes),
    }
    return Overview(f"Evaluation on {counted(this.metrics.n, 'image')} ({label})", facts, numbers.grids)


def _answers(this: Prediction) -> list[str]:
    return [f"{name} {share(p)}" for name, p in zip(this.classes, this.probabilities, strict=True)]


def prediction(this: Prediction) -> Overview:
    """The best class, and the three after it."""
    best, *others = _answers(this)
    return Overview("Prediction", {"name": this.name, "best": best, "then": ", ".join(others[:3])}, one_line=True)


def predictions(this: Predictions) -> Overview:
    """A row for each image."""
    grid = Grid(
        ("image", "class", "probability", "then"),
        this.predictions,
        lambda p: (p.name, p.classes[0], share(p.probabilities[0]), ", ".join(_answers(p)[1:4])),
        "images",
    )
    return Overview(
        f"Predictions for {counted(len(this), 'image')}", {"unreadable": unreadable(this.unreadable)}, (grid,)
    )


def fitted(this: FittedClassifier) -> Overview:
    """How good it is, what it was made of, and what it has taken."""
    backbone, config, spec = this.config["backbone"], this.config, this.spec
    judged, numbers = this.validation, Overview("")
    changed = config.get("changed_after_fit")
    label = f"nothing, as {'the weights were changed after the fit' if changed else 'there are no validation images'}"
    if judged is not None:
        label = split_label(judged.split, judged.used_for_selection, judged.before_refit)
        numbers = metrics_overview(judged.metrics)
    chosen = config["selection"]
    kept = f"epoch {chosen['epoch']} of {chosen.get('phase', 'full')}" if "epoch" in chosen else "the solved head"
    facts = {
        "top-1": numbers.facts.get("top-1", ""),
        "top-5": numbers.facts.get("top-5", ""),
        "judged by": label,
        "warning": (config.get("largest_class") or {}).get("message", ""),
        "classes": listed(this.classes),
        "images": f"{image_counts(config['data']['images'], 0)}; {config['data']['where']}",
        "weights": f"{backbone['weights']} (license: {backbone['licence']})",
        "strategy": f"{config['strategy']}; kept: {kept}",
        "input": f"{spec.input_size} × {spec.input_size} pixels, {spec.channel_order}",
        "seconds": f"{this.cost.seconds['total']:.2f}" if "total" in this.cost.seconds else "",
        "unreadable": unreadable(this.unreadable),
        "notes": "; ".join(config["notes"]),
    }
    title = f"Classifier of {counted(len(this.classes), 'class', 'classes')} on {backbone['name']}"
    return Overview(title, facts, (*numbers.grids, *history(this.history).grids))
