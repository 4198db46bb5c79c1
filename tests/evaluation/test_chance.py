"""Whether a model is clearly better than always answering the largest class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from support.fitted import fitted

from topgraft.evaluation import chance
from topgraft.strategies import history
from topgraft.strategies.history import EpochRecord

CLASSES = ("ant", "bee")


def against(right: list[int], labels: list[int], where: str = "my photos") -> chance.LargestClass:
    answers = np.array(right, dtype=bool)
    return chance.against_largest_class(answers, np.array(labels, dtype=np.int64), CLASSES, "test images", where)


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (5, 0), (6, 0), (9, 2), (2, 9), (7, 7), (600, 500), (3000, 0), (5100, 4900)]
)
def test_the_p_value_is_that_of_the_exact_binomial_test(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert chance.mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_a_model_that_is_clearly_better_says_nothing() -> None:
    found = against([1] * 20, [0] * 12 + [1] * 8)
    assert (found.name, found.share, found.n, found.gained, found.lost) == ("ant", 0.6, 20, 8, 0)
    assert found.better is True
    assert found.message == ""


def test_a_model_that_is_not_says_so_and_where_to_look() -> None:
    found = against([1] * 10 + [0] * 5 + [1] * 6 + [0] * 4, [0] * 15 + [1] * 10)
    assert found.better is False
    assert "always answering ant" in found.message
    assert "right for 64.0 % of 25 test images, and 60.0 % are ant" in found.message
    assert f"p = {found.p:.2g}" in found.message
    assert found.message.endswith("topgraft data 'my photos'")


def test_a_model_that_is_worse_is_not_better_however_clearly() -> None:
    assert against([0] * 30 + [1] * 10, [0] * 30 + [1] * 10).better is False


def test_where_even_a_perfect_model_could_not_be_clearly_better_nothing_can_be_told() -> None:
    five = against([1] * 100, [0] * 95 + [1] * 5)
    assert five.better is None
    assert five.message.startswith("100 test images, 5 of them not ant, are too few to tell")
    assert against([1] * 100, [0] * 94 + [1] * 6).better is True


def test_without_images_nothing_judges() -> None:
    found = against([], [])
    assert (found.n, found.share, found.p, found.better) == (0, 0.0, 1.0, None)
    assert found.message.startswith("there are no test images to judge the model by")


def test_images_that_have_no_folder_are_looked_at_in_python() -> None:
    assert against([1, 1], [0, 1], where="arrays").message.endswith("tg.survey")


def test_an_evaluation_is_judged_by_its_own_logits() -> None:
    result = fitted().validation
    found = chance.judged(result)
    right = result.logits.argmax(1) == result.labels
    assert (found.n, found.name, found.better) == (5, "ant", None)
    assert found.gained - found.lost == right.sum() - 2
    assert "validation images" in found.message


def test_what_was_judged_out_of_fold_is_that_of_the_kept_record() -> None:
    labels = np.r_[np.zeros(10, dtype=np.int64), np.ones(10, dtype=np.int64)]
    heads = [EpochRecord(0, "head", 0, 1.0, chosen=at == 1, hits=history.pack(labels == 0)) for at in range(2)]
    folds = [
        EpochRecord(1, "from a", epoch, 1.0, folds=5, hits=history.pack(np.arange(20) < 9 * epoch)) for epoch in (1, 2)
    ]
    trained = EpochRecord(2, "from a", 2, 1.0, hits=history.pack(np.ones(4, dtype=bool)))
    records = [*heads, *folds, trained]

    def gained(**selection: object) -> int | None:
        found = chance.judged_out_of_fold(records, {"by": "out-of-fold", **selection}, labels, CLASSES, "photos")
        return None if found is None else found.gained

    assert gained(phase="head") == 0
    assert gained(phase="from a", epoch=2) == 8
    assert gained(by="validation", phase="from a", epoch=2) is None
    only = chance.judged_out_of_fold(heads, {"by": "out-of-fold", "phase": "head"}, labels, CLASSES, "photos")
    assert only is not None
    assert "each judged out of fold" in only.message
