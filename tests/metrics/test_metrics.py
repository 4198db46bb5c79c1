"""Metrics against scikit-learn, and against values worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from topgraft import metrics
from topgraft.metrics import Difference, Interval


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 7, 500)
    logits = generator.normal(size=(500, 7)).astype(np.float32)
    logits[np.arange(500), labels] += 1.0
    return logits, labels


def test_all_numbers_equal_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    found = metrics.evaluate_logits(logits, labels, list("abcdefg"))
    p = metrics.softmax(logits)
    best = logits.argmax(1)
    assert found.top1.value == reference.accuracy_score(labels, best)
    assert found.top5 is not None
    assert found.top5.value == reference.top_k_accuracy_score(labels, logits, k=5)
    assert found.log_loss == pytest.approx(reference.log_loss(labels, p), abs=1e-12)
    assert np.array_equal(found.confusion, reference.confusion_matrix(labels, best))
    expected = np.array(reference.precision_recall_fscore_support(labels, best)).T
    assert np.allclose([[c.precision, c.recall, c.f1, c.n] for c in found.classes], expected)
    json.dumps(asdict(found), allow_nan=False)


def test_wilson_equals_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for k, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = metrics.wilson(k, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_mirrors(pair: tuple[int, int]) -> None:
    k, n = pair
    found, other = metrics.wilson(k, n), metrics.wilson(n - k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - other.high, abs=1e-12)


def test_nothing_seen_is_nothing_known() -> None:
    assert metrics.wilson(0, 0) == Interval(0.0, 0.0, 1.0, 0)
    with pytest.raises(ValueError, match="3 of 2"):
        metrics.wilson(3, 2)


def test_top5_is_none_with_five_classes_and_a_missing_class_is_undefined() -> None:
    found = metrics.evaluate_logits(np.eye(5, dtype=np.float32)[[0, 1, 1]], np.array([0, 1, 2]), list("abcde"))
    assert found.top5 is None
    assert (found.classes[4].precision, found.classes[4].recall, found.classes[4].f1) == (None, None, None)
    assert (found.classes[2].recall, found.classes[2].f1) == (0.0, 0.0)


def test_calibration_by_hand() -> None:
    # Two in the bin of 0.9 with one right (gap 0.4), two at 0.6 both right (gap 0.4).
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(p, np.array([0, 1, 0, 0])) == pytest.approx(0.4)


def test_ties_go_to_the_lower_class() -> None:
    logits = np.zeros((3, 6), dtype=np.float32)
    assert [metrics.hits(logits, np.array([0, 4, 5]), k) for k in (1, 5, 6)] == [1, 2, 3]


@pytest.mark.parametrize("bad", [np.full((2, 3), np.nan), np.zeros((2, 4)), np.zeros((0, 3))])
def test_what_cannot_be_measured_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"finite|do not fit"):
        metrics.evaluate_logits(bad, np.zeros(min(2, len(bad)), dtype=np.int64), list("abc"))


def test_a_paired_loss_counts_what_was_lost_and_gained() -> None:
    before = np.array([True] * 40 + [False] * 20)
    after = np.array([True] * 30 + [False] * 10 + [True] * 3 + [False] * 17)
    found = metrics.paired_loss(before, after)
    assert found.value == pytest.approx(7 / 60)
    # Agresti and Min's formula by hand: 10.5 and 3.5 of 62.
    half = metrics.Z_95 * math.sqrt(14 - 49 / 62) / 62
    assert (found.low, found.high, found.n) == (pytest.approx(7 / 62 - half), pytest.approx(7 / 62 + half), 60)
    back = metrics.paired_loss(after, before)
    assert (back.value, back.low, back.high) == (-found.value, -found.high, -found.low)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_a_paired_loss_lies_in_its_interval_also_at_the_ends(n: int) -> None:
    true, false = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for before, after, value in ((true, true, 0.0), (true, false, 1.0), (false, true, -1.0)):
        found = metrics.paired_loss(before, after)
        assert found.value == value
        assert -1 <= found.low <= value <= found.high <= 1
        assert found.low < found.high


def test_a_paired_loss_of_no_images_says_nothing_and_of_unequal_lengths_is_refused() -> None:
    none = np.array([], dtype=bool)
    assert metrics.paired_loss(none, none) == Difference(0.0, -1.0, 1.0, 0)
    with pytest.raises(ValueError, match="not pairs"):
        metrics.paired_loss(none, np.array([True]))


def test_a_cautious_temperature_does_not_take_a_few_right_answers_for_certain() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    labels = np.array([0, 1, 0])
    assert metrics.inverse_temperature(logits, labels) > 10  # with all right, more is always better
    factor = metrics.inverse_temperature(logits, labels, cautious=True)
    # Platt: each true class counts as 4/5, so that the mean probability of the true class is near it.
    assert metrics.softmax(factor * logits).max(1).mean() == pytest.approx(0.8, abs=0.02)
    many = np.concatenate([logits] * 200), np.concatenate([labels] * 200)
    assert metrics.inverse_temperature(*many, cautious=True) > 1.5 * factor
