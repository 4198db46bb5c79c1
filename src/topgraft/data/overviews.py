"""What each record shows of itself: see `topgraft.reprs`. Nothing here computes; every accuracy comes with its n."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from heapq import nlargest
from typing import TYPE_CHECKING

from topgraft.artifacts.model_card import SPLIT_LABELS, image_counts, percent, share, split_label
from topgraft.system.reprs import Grid, Overview, Shown

if TYPE_CHECKING:
    from topgraft.evaluation.results import Evaluation, Fitted, Prediction, Predictions
    from topgraft.features.export import Features
    from topgraft.metrics import Metrics
    from topgraft.strategies.history import EpochRecord
    from topgraft.training.inspection import Inspection, PlannedPhase

    from .samples import Duplicate, Sample, Splits, Unreadable

_NAMES = 8  # of a list in one line


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``1,024 images``, ``2 classes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    return ", ".join(names[:_NAMES]) + (f" … ({len(names):,} in all)" if len(names) > _NAMES else "")


def shape(sides: Sequence[int]) -> str:
    """``32×112×112``."""
    return "×".join(map(str, sides))


def unreadable(entries: Sequence[Unreadable]) -> str:
    """How many files were left out, and why the first two; empty where none was."""
    reasons = "; ".join(f"{entry.name} {entry.reason}" for entry in entries[:2])
    return f"{counted(len(entries), 'file')}: {reasons}{' …' if len(entries) > 2 else ''}" if entries else ""


def duplicates(groups: Sequence[Duplicate]) -> str:
    """How many groups of equal images there are; empty where there is none."""
    return counted(len(groups), "group") if groups else ""


def confused(metrics: Metrics) -> list[str]:
    """The three most frequent confusions: ``ant taken for bee (3)``."""
    names = [row.name for row in metrics.classes]
    pairs = (
        (count, names[truth], names[answer])
        for truth, row in enumerate(metrics.confusion)
        for answer, count in enumerate(row)
        if count and truth != answer
    )
    return [f"{truth} taken for {answer} ({count:,})" for count, truth, answer in nlargest(3, pairs)]


def rate(phase: PlannedPhase, group: str) -> str:
    """A group's learning rate in a phase; ``frozen``, ``solved``, or ``trains`` where the rate is not known yet."""
    multiplier = phase.multipliers[group]
    if multiplier is None:
        return "frozen"
    return f"{multiplier * phase.lr:.2g}" if phase.epochs and phase.lr else "solved" if not phase.epochs else "trains"


def by_class(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Grid:
    """Images of each class in each split; `counts` has one number for each class."""
    return Grid(
        ("class", *(SPLIT_LABELS.get(split, "images") for split in counts)),
        range(len(classes)),
        lambda label: (classes[label], *(f"{numbers[label]:,}" for numbers in counts.values())),
        "classes",
    )


def images_of(number: int, classes: Sequence[str]) -> str:
    """``398 images of 2 classes``."""
    return f"{counted(number, 'image')} of {counted(len(classes), 'class', 'classes')}"


def splits(this: Splits) -> Overview:
    """Counts by class and split, and what is odd."""
    found = {name: Counter(sample.label for sample in part) for name, part in this.parts.items()}
    made = ", ".join(SPLIT_LABELS[name] for name in SPLIT_LABELS if name in this.made)
    return Overview(
        images_of(sum(len(part) for part in this.parts.values()), this.classes),
        {
            "source": this.where,
            "split by content": f"{made} (seed {this.split_seed})" if made else "",
            "unreadable": unreadable(this.unreadable),
            "duplicates": duplicates(this.duplicates),
            "notes": "; ".join(this.notes),
            "cannot be fitted": this.problem or "",
        },
        (by_class(this.classes, {n: [c[label] for label in range(len(this.classes))] for n, c in found.items()}),),
    )


def _content(sample: Sample) -> str:
    """What an image is before it is decoded."""
    if sample.array is None:
        return str(sample.path)
    return f"{shape(sample.array.shape)} {sample.array.dtype}"


def sample(this: Sample) -> Overview:
    """Its name, label, content and digest."""
    facts = {"name": this.name, "label": str(this.label), "path" if this.array is None else "array": _content(this)}
    return Overview("Sample", facts | {"sha256": this.digest[:12]}, one_line=True)


def samples(these: Sequence[Sample]) -> Overview:
    """A row for each."""
    grid = Grid(("name", "label", "content"), these, lambda s: (s.name, str(s.label), _content(s)), "samples")
    return Overview(counted(len(these), "sample"), grids=(grid,))


def duplicate(this: Duplicate) -> Overview:
    """The names of equal images."""
    facts = {"images": str(len(this.names)), "names": " = ".join(this.names[:_NAMES])}
    return Overview("Duplicate", facts, one_line=True)


def metrics(this: Metrics, label: str = "") -> Overview:
    """Accuracies with their intervals, and a row for each class."""
    grid = Grid(
        ("class", "precision", "recall", "F1", "images"),
        this.classes,
        lambda r: (r.name, *("–" if v is None else share(v) for v in (r.precision, r.recall, r.f1)), f"{r.n:,}"),
        "classes",
    )
    facts = {
        "top-1": percent(asdict(this.top1)),
        "top-5": "" if this.top5 is None else percent(asdict(this.top5)),
        "log loss": f"{this.log_loss:.3f}, expected calibration error {this.ece:.3f} ({this.ece_bins} bins)",
        "confused": "; ".join(confused(this)),
    }
    return Overview(f"Metrics on {counted(this.n, 'image')}{label}", facts, (grid,))


def evaluation(this: Evaluation) -> Overview:
    """Its metrics, and what was left out."""
    numbers = metrics(this.metrics)
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


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def epoch(this: EpochRecord) -> Overview:
    """What it did; the numbers that a solve does not have are left out."""
    facts = {
        "name": this.name,
        "epoch": str(this.epoch) if this.epoch else "",
        "strength": "" if this.strength is None else f"{this.strength:.3g}",
        "val_top1": "" if this.val_top1 is None else f"{share(this.val_top1.value)} (n = {this.val_top1.n:,})",
        "chosen": "True" if this.chosen else "",
        "val_loss": "" if this.val_loss is None else _loss(this.val_loss),
        "train_loss": "" if this.train_loss is None else _loss(this.train_loss),
        "lr": "" if this.lr is None else f"{this.lr:.3g}",
        "seconds": f"{this.seconds:.2f}",
    }
    return Overview("EpochRecord", facts, one_line=True)


def history(these: Sequence[EpochRecord]) -> Overview:
    """A row for each epoch and for each strength that was tried."""
    grid = Grid(
        ("phase", "epoch", "rate or C", "train loss", "val. loss", "val. top-1", "n", "seconds", "chosen"),
        these,
        lambda r: (
            f"{r.name}, {r.folds} folds" if r.folds else r.name,
            str(r.epoch) if r.epoch else "–",
            "–" if (step := r.strength if r.lr is None else r.lr) is None else f"{step:.3g}",
            _loss(r.train_loss),
            _loss(r.val_loss),
            *(("–", "–") if r.val_top1 is None else (share(r.val_top1.value), f"{r.val_top1.n:,}")),
            f"{r.seconds:.2f}",
            "yes" if r.chosen else "",
        ),
        "records",
    )
    epochs = sum(1 for record in these if record.epoch)
    solves = len(these) - epochs
    parts = [counted(solves, "solve of the head", "solves of the head")] if solves else []
    parts += [counted(epochs, "epoch")] if epochs else []
    return Overview("History: " + ", ".join(parts or ["empty"]), grids=(grid,))


def planned_phase(this: PlannedPhase) -> Overview:
    """What it trains, and at which rates."""
    groups = list(this.multipliers)
    trains = [group for group, multiplier in this.multipliers.items() if multiplier is not None]
    top = len(trains) > 2 and trains == groups[-len(trains) :]
    facts = {
        "name": this.name,
        "epochs": str(this.epochs),
        "trains": f"{trains[0]} to {trains[-1]}" if top else ", ".join(trains),
        "lr": f"{this.lr:g}" if this.lr else "",
    }
    grid = Grid(("group", "rate"), groups, lambda group: (group, rate(this, group)), "groups")
    return Overview("PlannedPhase", facts, (grid,), one_line=True)


def inspection(this: Inspection) -> Overview:
    """The freeze table, one batch at each station, and where each group runs."""
    phases = this.phases if len(this.phases) <= 3 else (*this.phases[:2], this.phases[-1])
    freeze = Grid(
        ("group", "parameters", *(phase.name for phase in phases), "BatchNorm"),
        this.table,
        lambda row: (row.group, f"{row.parameters:,}", *(rate(p, row.group) for p in phases), row.batchnorm),
        "groups",
    )
    stations = Grid(
        (f"one batch of {len(this.images)}, after", "shape", "type", "lowest", "highest"),
        this.stations,
        lambda s: (s.name, shape(s.shape), s.dtype, f"{s.low:.4g}", f"{s.high:.4g}"),
        "stations",
    )
    places = Grid(
        ("group", "device", "products in", "engine"),
        this.placement,
        lambda p: (p.group, p.device, p.dtype, p.engine),
        "groups",
    )
    facts = {"phases": listed([phase.name for phase in this.phases]), "unreadable": unreadable(this.unreadable)}
    return Overview(f"{this.backbone}, strategy {this.strategy}", facts, (freeze, stations, places))


def features(this: Features) -> Overview:
    """How many, and of what."""
    labels = Counter(zip(this.splits, this.labels.tolist(), strict=True))
    counts = {s: [labels[s, label] for label in range(len(this.classes))] for s in dict.fromkeys(this.splits)}
    rows, width = this.features.shape
    facts = {"unreadable": unreadable(this.unreadable), "notes": "; ".join(this.notes)}
    title = f"Features by {this.backbone}: {width:,} of each of {images_of(rows, this.classes)}"
    return Overview(title, facts, (by_class(this.classes, counts),))


def fitted(this: Fitted) -> Overview:
    """How good it is, what it was made of, and what it has taken."""
    backbone, config, spec = this.config["backbone"], this.config, this.spec
    judged, numbers = this.validation, Overview("")
    label = "nothing, as the weights were changed after the fit"
    if judged is not None:
        label = split_label(judged.split, judged.used_for_selection, judged.before_refit)
        numbers = metrics(judged.metrics)
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


class Samples(Shown, tuple["Sample", ...], overview=samples):
    """The samples of a split: a tuple that is shown as a table."""

    __slots__ = ()


class History(Shown, tuple["EpochRecord", ...], overview=history):
    """What a fit did, in order: a tuple that is shown as a table."""

    __slots__ = ()
