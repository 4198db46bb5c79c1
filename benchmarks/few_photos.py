"""The head on few photos: against the nearest class mean, the head before, and that head with a floor.

    TOPGRAFT_DATA=… python -m benchmarks.few_photos                       # all sets, 1 to all photos a class, ten draws
    TOPGRAFT_DATA=… python -m benchmarks.few_photos --sets hymenoptera --photos 4 8 --draws 3

Each draw takes test images and so many training photos of a class at random, the same for every method. Features are
those of EfficientNet-Lite0. From 1,000 photos on a fifth of them validates, as in a fit; else predictions out of fold
select. Cells show means, and paired differences with their standard errors over the draws, in points.

- mean: nearest class mean of the features as they are.
- before: logistic regression on standardized features, its strength chosen by log loss, as it was.
- floor: the same, no deviation below a tenth of the typical one.
- head: `topgraft.training.head.selection.choose_head`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import topgraft as tg
from benchmarks import common
from topgraft.metrics.probabilities import log_loss
from topgraft.strategies.defaults import FOLDS, SELECTION_MINIMUM, STRENGTHS
from topgraft.training.head.lbfgs import minimize
from topgraft.training.head.logistic import folds
from topgraft.training.head.selection import choose_head

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Set:
    """Photos to draw from: the archive and the folder in it, the classes, and the test images of a draw.

    `most` is what "all" takes of a class: 50,000 images of CIFAR-10 take hours, and have a row of their own.
    """

    archive: str
    folder: str
    classes: tuple[int, ...] | None = None
    test: int = 250
    most: int | None = None


SETS = {
    "hymenoptera": Set("hymenoptera", "hymenoptera", test=153),
    "sign-digits": Set("sign-digits", "sign-digits/Dataset"),
    "cifar10": Set("cifar10", "cifar10", most=500),
    "cifar10, 0 to 4": Set("cifar10", "cifar10", (0, 1, 2, 3, 4), most=500),
    "cifar10, 5 to 9": Set("cifar10", "cifar10", (5, 6, 7, 8, 9), most=500),
}
PHOTOS = (1, 2, 4, 8, 16, 32, 64, 0)
_VALIDATES = 1000  # photos from which a fifth of them validates


@dataclass(frozen=True)
class Draw:
    """One draw: training, validation (which may be empty) and test images."""

    train: tuple[Floats, Labels]
    val: tuple[Floats, Labels]
    test: tuple[Floats, Labels]
    classes: int


def draw(features: tg.Features, source: Set, photos: int, seed: int) -> Draw:
    """Training photos of each class, all if `photos` is 0, and test images: the set's own where it has some."""
    random = np.random.default_rng([seed, 77])
    x, y, split = features.features, features.labels, np.array(features.splits)
    if source.classes is not None:
        inside = np.isin(y, source.classes)
        x, y, split = x[inside], np.searchsorted(source.classes, y[inside]), split[inside]
    own = source.archive == "cifar10"  # the only one of these with a test split
    classes, order = int(y.max()) + 1, random.permutation(len(y))
    pool = order[split[order] == "test"] if own else order
    sizes = np.bincount(y) if not own else np.full(classes, len(y) / classes)
    test = np.concatenate([pool[y[pool] == c][: round(source.test * sizes[c] / sizes.sum())] for c in range(classes)])
    rest = order[split[order] != "test"] if own else np.setdiff1d(order, test)
    rest = random.permutation(rest)
    each = photos or source.most or len(rest)
    train = np.concatenate([rest[y[rest] == c][:each] for c in range(classes)])
    val = train[:0]
    if len(train) >= _VALIDATES:
        fold = folds(y[train], 5, seed)
        train, val = train[fold > 0], train[fold == 0]
    parts = [(x[part], y[part]) for part in (train, val, test)]
    return Draw(parts[0], parts[1], parts[2], classes)


def nearest_mean(one: Draw) -> Labels:
    """Answers of the nearest class mean."""
    (x, y), new = one.train, one.test[0].astype(np.float64)
    means = np.stack([x[y == c].mean(0, dtype=np.float64) for c in range(one.classes)])
    answers: Labels = (2 * new @ means.T - (means**2).sum(1)).argmax(1)
    return answers


def standardized(one: Draw, floor: float) -> Labels:
    """Answers of the head as it was, or with a floor for deviations, as a share of the typical one."""
    if len(one.val[1]) >= SELECTION_MINIMUM:
        losses = _losses(_path(*one.train, one.val[0], one.classes, floor), one.val[1])
    else:
        x, y = one.train
        assigned, logits = folds(y, FOLDS, 0), np.zeros((len(STRENGTHS), len(y), one.classes))
        for fold in np.unique(assigned):
            out = assigned == fold
            if len(np.unique(y[~out])) > 1:
                logits[:, out] = _path(x[~out], y[~out], x[out], one.classes, floor)
        losses = _losses(logits, y)
    answers: Labels = _path(*one.train, one.test[0], one.classes, floor)[int(np.argmin(losses))].argmax(1)
    return answers


def _losses(logits: NDArray[np.float64], labels: Labels) -> list[float]:
    return [log_loss(each, labels) for each in logits]


def _path(x: Floats, y: Labels, new: Floats, classes: int, floor: float) -> NDArray[np.float64]:
    """Logits of new images at every strength."""
    wide = x.astype(np.float64)
    mean, deviation = wide.mean(0), wide.std(0)
    constant = deviation <= 10 * np.finfo(np.float32).eps * np.abs(mean)
    scale = np.where(constant, 1.0, deviation)
    if floor:
        scale = np.maximum(deviation, floor * np.sqrt((deviation**2).mean()))
    z, fresh = (torch.from_numpy((part - mean) / scale) for part in (wide, new))
    if len(z) < z.shape[1]:
        values, vectors = torch.linalg.eigh(z @ z.T)
        kept = values > 1e-10 * values[-1]
        axes = z.T @ (vectors[:, kept] / values[kept].sqrt())
    else:
        axes = torch.linalg.eigh(z.T @ z)[1]
    rows = (z @ axes).to(torch.float64 if x.size <= 1_000_000 else torch.float32)
    present, place = np.unique(y, return_inverse=True)
    penalty = [(2.0 if len(present) == 2 else 1.0) / c for c in STRENGTHS]
    solved = minimize(rows, torch.from_numpy(place), len(present), penalty, None)
    logits = np.full((len(STRENGTHS), len(new), classes), -30.0)
    found = torch.einsum("nr,scr->snc", fresh @ axes, solved.weight.double()) + solved.bias.double()[:, None]
    logits[:, :, present] = found.numpy()
    return logits


def chosen(one: Draw) -> Labels:
    """Answers of the package's head."""
    answers: Labels = choose_head(*one.train, *one.val, one.classes).head.logits(one.test[0]).argmax(1)
    return answers


METHODS: dict[str, Callable[[Draw], Labels]] = {
    "mean": nearest_mean,
    "before": lambda one: standardized(one, 0.0),
    "floor": lambda one: standardized(one, 0.1),
    "head": chosen,
}


@cache
def features_of(archive: str, folder: str, scratch: Path) -> tg.Features:
    """Features of all images of a set."""
    with zipfile.ZipFile(Path(os.environ["TOPGRAFT_DATA"], "data", f"{archive}.zip")) as packed:
        packed.extractall(scratch)
    return tg.extract_features(scratch / folder, backbone="efficientnet_lite0")


def cell(draws: Sequence[Draw]) -> NDArray[np.float64]:
    """Accuracy in %, methods×draws."""
    rows = [[100 * (answer(one) == one.test[1]).mean() for one in draws] for answer in METHODS.values()]
    return np.array(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print one row for each set and number of photos, and the mean over all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--photos", nargs="+", type=int, default=list(PHOTOS), help="of a class; 0 for all")
    parser.add_argument("--draws", type=int, default=10)
    asked = parser.parse_args(arguments)
    if "TOPGRAFT_DATA" not in os.environ:
        print("skipped: set TOPGRAFT_DATA to a folder that holds data/*.zip")
        return
    print(common.machine())
    print(f"{asked.draws} draws; accuracy in %, then head less each other: difference ± standard error", flush=True)
    torch.set_num_threads(1)
    cells: list[NDArray[np.float64]] = []
    worst: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.sets:
            source = SETS[name]
            features = features_of(source.archive, source.folder, Path(scratch))
            for photos in asked.photos:
                draws = [draw(features, source, photos, seed) for seed in range(asked.draws)]
                found = cell(draws)
                cells.append(found.mean(1))
                shown, low = row(found, draws)
                each = (len(draws[0].train[1]) + len(draws[0].val[1])) / draws[0].classes
                label = f"{name}, {each:.0f} a class"
                worst += [f"{label}: {text}" for text in low]
                print(f"{label:<28} {shown}", flush=True)
    mean = np.mean(cells, axis=0)
    print("mean over the cells: " + ", ".join(f"{name} {x:.2f}" for name, x in zip(METHODS, mean, strict=True)))
    print("more than 2 standard errors below, or a fit at chance: " + ("; ".join(worst) or "none"))


def row(found: NDArray[np.float64], draws: Sequence[Draw]) -> tuple[str, list[str]]:
    """A cell as text, and what in it should not be."""
    shown = [", ".join(f"{name} {x:.1f}" for name, x in zip(METHODS, found.mean(1), strict=True))]
    low = []
    for name, other in zip(METHODS, found[:-1], strict=False):
        difference = found[-1] - other
        error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else float("nan")
        shown.append(f"{name} {difference.mean():+.2f} ± {error:.2f}")
        if difference.mean() < -2 * error:
            low.append(f"below {name} by {-difference.mean():.2f} ± {error:.2f}")
    n, classes = len(draws[0].test[1]), draws[0].classes
    chance = 100 * (1 / classes + 2 * (1 / classes * (1 - 1 / classes) / n) ** 0.5)
    lost = ((found[-1] <= chance) & (found[0] > chance)).sum()
    if lost:
        low.append(f"{lost} fits at chance, where the nearest mean is not")
    return "; ".join(shown), low


if __name__ == "__main__":
    main()
