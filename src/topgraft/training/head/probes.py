"""Linear heads on what each group gives: where the features of the published layers stop helping."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.strategies.defaults import FOLDS, SELECTION_MINIMUM
from topgraft.system.threads import torch_threads
from topgraft.training.head import ONE_THREAD, Labeled

from .logistic import folds, solve_path

IMAGES = 2000
"""Images that a probe is fitted to at most: it need not be exact."""

STRENGTHS = (1e-2, 1e-1)
"""C of the probes: the ends of what heads on some hundred to some thousand images come to."""


def probe(
    pooled: Mapping[str, NDArray[np.float32]],
    pair: tuple[Labeled, Labeled],
    classes: int,
    seed: int,
    patience: float = float("inf"),
) -> tuple[dict[str, float], int]:
    """Accuracy of a linear head on the pooled activations after each group.

    With 200 validation images or more they answer, else each image by a head that has not seen it.

    Args:
        pooled: group → n×channels, train and then validation; nothing is probed if it is empty.
        pair: labels of both.
        classes: how many.
        seed: of folds, and of the 2,000 training images that are taken where there are more.
        patience: seconds after which no further group is begun; the last ones come first.

    Returns:
        the share of right answers after each group, in the network's order, and how many images answered.
    """
    began = time.perf_counter()
    train, val = (part.labels for part in pair)
    labels = np.concatenate([train, val])
    if len(val) >= SELECTION_MINIMUM:
        chosen = np.random.default_rng(seed).permutation(len(train))[:IMAGES]
        splits = [(np.sort(chosen), np.arange(len(train), len(labels)))]
    else:
        assigned = folds(labels, FOLDS, seed)
        splits = [(np.flatnonzero(assigned != at), np.flatnonzero(assigned == at)) for at in np.unique(assigned)]
    answered = sum(len(judged) for _, judged in splits)
    found: dict[str, float] = {}
    for name in reversed(list(pooled)):
        if found and time.perf_counter() - began > patience:
            break
        rows = np.ascontiguousarray(pooled[name])
        right = np.zeros(len(STRENGTHS))
        with torch_threads(1 if rows.size <= ONE_THREAD else torch.get_num_threads()):
            for fitted, judged in splits:
                if len(np.unique(labels[fitted])) < 2:
                    continue
                path = solve_path(rows[fitted], labels[fitted], classes, STRENGTHS)
                right += (path.logits(rows[judged]).argmax(2) == labels[judged]).sum(1)
        found[name] = float(right.max() / answered)
    return {name: found[name] for name in pooled if name in found}, answered if found else 0
