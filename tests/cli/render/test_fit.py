"""The short result of a fit, as lines of text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.fitted import fitted

from topgraft.evaluation.results import Cost
from topgraft.training import summary


def test_a_solved_head_is_told_in_five_lines_and_its_folder_in_one_more() -> None:
    lines = summary.lines(fitted(), {"open": 0.5, "total": 1.5})
    assert lines == [
        "3 classes; train 3, validation 5, test 1 (not decoded by the fit); left out 1 file that cannot be read",
        "base: tiny on torch (fp32); 9 images computed, 0 from the cache",
        "head: strength C = 0.1, chosen by log loss on 5 validation images",
        "seconds: open 0.50 s; total 1.50 s",
        lines[-1],
    ]
    assert lines[-1].startswith("top-1 (validation, used for selection): ")
    assert summary.lines(fitted(), {"total": 1.5}, Path("runs/[a]"))[-2] == "saved: runs/[a]"


@pytest.mark.parametrize(
    ("selection", "line"),
    [
        (
            {"by": "out-of-fold", "images": 40, "normalization": "root", "shrinkage": 0.5},
            "head: discriminant, covariance shrunken by 0.5, on square roots of features, of unit length, chosen by "
            "out-of-fold log loss over 40 train and validation images",
        ),
        (
            {"by": "validation", "images": 250, "normalization": "standard", "strength": 0.01},
            "head: strength C = 0.01, on standardized features, chosen by log loss on 250 validation images",
        ),
        (
            {"by": "default", "images": 0, "normalization": "length", "shrinkage": 0.96},
            "head: discriminant, covariance shrunken by 0.96, on features of unit length, the default, as there are "
            "too few images to choose by",
        ),
    ],
)
def test_the_normalization_and_what_chose_it_are_told(selection: dict[str, object], line: str) -> None:
    model = fitted()
    assert line in summary.lines(replace(model, config={**model.config, "selection": selection}), {"total": 1.5})


def test_a_trained_network_is_told_by_the_epoch_that_was_kept() -> None:
    model = fitted()
    selection = {"epoch": 2, "phase": "top", "by": "out-of-fold", "images": 8}
    resolved = {**model.config["resolved"], "training": "bf16"}
    auto = {"untried": "stage2"}
    trained = replace(model, config={**model.config, "selection": selection, "resolved": resolved, "auto": auto})
    assert summary.lines(trained, {"total": 1.5})[1:4] == [
        "trained: tiny on cpu (bf16)",
        "kept: epoch 2 of top, the best on 8 images, each judged out of fold",
        "with more time it would also train from stage2: --budget",
    ]


def test_what_auto_kept_comes_first() -> None:
    kept = "kept: the head alone, right for 80.0 % of 5 validation images, as no time was left to train more"
    model = fitted()
    assert summary.lines(replace(model, config={**model.config, "kept": kept}), {"total": 1.5})[0] == kept


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (Cost({}, 9, 0, 0), "9 images computed, 0 from the cache"),
        (Cost({}, 1, 7, 1), "1 image computed, 7 from the cache, 1 exact copy of these"),
        (Cost({}, 0, 1_200, 4), "0 images computed, 1,200 from the cache, 4 exact copies of these"),
    ],
)
def test_copies_are_not_said_to_be_from_the_cache(cost: Cost, expected: str) -> None:
    assert summary.lines(replace(fitted(), cost=cost), {"total": 1.5})[1].endswith(f"; {expected}")
