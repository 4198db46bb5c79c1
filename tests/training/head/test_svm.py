"""The machines are scikit-learn's LinearSVC; the temperature is the best one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.svm import LinearSVC

from topgraft import metrics
from topgraft.training.head import svm

Data = tuple[np.ndarray, np.ndarray]


def make(n: int, d: int, classes: int, seed: int = 0, noise: float = 1.5) -> Data:
    """Rows of length 1; every class occurs."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, d))
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, n - classes)])
    features = centers[labels] + noise * generator.normal(size=(n, d))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


CASES = {
    "two classes, wide": make(60, 200, 2),
    "wide": make(90, 300, 4, noise=4.0),
    "two classes, tall": make(300, 20, 2),
    "tall": make(400, 30, 5),
}


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_scikit_learns(name: str, weight: str | None) -> None:
    features, labels = CASES[name]
    classes = int(labels.max()) + 1
    new = make(50, features.shape[1], classes, seed=5)[0]
    for strength in (0.1, 1.0, 10.0):
        found = svm.solve_svm(features, labels, classes, [strength], class_weight=weight)[0].scores(new)
        model = LinearSVC(C=strength, dual=False, tol=1e-9, max_iter=20000, class_weight=weight)
        expected = model.fit(features.astype(np.float64), labels).decision_function(new)
        if classes == 2:
            assert np.array_equal(found[:, 0], -found[:, 1])
            found = found[:, 1] - found[:, 0]
        np.testing.assert_allclose(found, expected, atol=2e-2)


def test_equal_images_are_no_trouble() -> None:
    features, labels = CASES["wide"]
    doubled = np.concatenate([features, features])
    found = svm.solve_svm(doubled, np.concatenate([labels, labels]), 4, [1.0])[0]
    expected = LinearSVC(C=2.0, dual=False, tol=1e-9).fit(features.astype(np.float64), labels)
    np.testing.assert_allclose(found.weight, expected.coef_, atol=2e-2)


def test_the_same_seed_gives_the_same_bits() -> None:
    one, two = (svm.choose_svm(*CASES["wide"], *make(40, 300, 4, seed=2, noise=4.0), 4, seed=7) for _ in range(2))
    assert np.array_equal(one.head.weight, two.head.weight)
    assert np.array_equal(one.head.bias, two.head.bias)
    assert one.records == two.records


def test_a_class_without_images_is_never_the_answer() -> None:
    features, labels = CASES["tall"]
    scores = svm.solve_svm(features, labels * 2, 10, [1.0])[0].scores(features)
    assert set(scores.argmax(1)) <= {0, 2, 4, 6, 8}


def test_the_temperature_has_the_lowest_log_loss() -> None:
    features, labels = CASES["tall"]
    new, truth = make(300, 30, 5, seed=5)
    scores = svm.solve_svm(features, labels, 5, [1.0])[0].scores(new)
    found = svm.best_temperature(scores, truth)
    best = minimize_scalar(lambda log_t: metrics.log_loss(scores / np.exp(log_t), truth), bounds=(-6, 4))
    assert metrics.log_loss(scores / found, truth) < best.fun + 0.002
    assert found == pytest.approx(float(np.exp(best.x)), rel=0.1)
    assert metrics.log_loss(scores / found, truth) < metrics.log_loss(scores, truth) - 0.01


def test_right_answers_make_it_no_surer_than_their_number_allows() -> None:
    truth = np.array([0, 1, 0, 1])
    wrong = np.array([[-1.0, 1.0], [1.0, -1.0]] * 2)
    assert svm.best_temperature(wrong, truth) == pytest.approx(100)
    # Four of four: (4 + 1) / (4 + 2), which is a score of ln 5 between the two.
    assert svm.best_temperature(-wrong, truth) == pytest.approx(2 / np.log(5))
    assert np.isfinite(svm.best_temperature(np.zeros((4, 2)), truth))


def test_many_validation_images_select_by_scaled_log_loss() -> None:
    train, val = CASES["tall"], make(260, 30, 5, seed=3)
    choice = svm.choose_svm(*train, *val, 5)
    assert (choice.selected_by, choice.selection_images) == ("validation", 260)
    logits = val[0] @ choice.head.weight.T + choice.head.bias
    chosen = next(record for record in choice.records if record.settings == choice.settings)
    assert metrics.log_loss(logits, val[1]) == pytest.approx(chosen.log_loss, abs=1e-5)
    assert chosen.log_loss == min(record.log_loss for record in choice.records)
    assert chosen.correct == metrics.hits(logits, val[1], 1)
    assert svm.best_temperature(logits.astype(np.float64), val[1]) == pytest.approx(1.0, rel=1e-3)


def test_few_validation_images_leave_it_to_folds() -> None:
    train, val = CASES["wide"], make(40, 300, 4, seed=2, noise=4.0)
    choice = svm.choose_svm(*train, *val, 4)
    assert (choice.selected_by, choice.selection_images) == ("out-of-fold", 130)
    assert [record.settings.strength for record in choice.records] == list(svm.STRENGTHS)
    alone = svm.solve_svm(*train, 4, [choice.settings.strength])[0]
    ratio = alone.weight / choice.head.weight
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)  # one temperature for all


def test_refit_uses_validation_too() -> None:
    train, val = CASES["wide"], make(40, 300, 4, seed=2, noise=4.0)
    one, other = (svm.choose_svm(*train, *val, 4, refit=refit) for refit in (False, True))
    assert one.settings.strength == other.settings.strength
    truth = val[1]
    assert (val[0] @ other.head.weight.T + other.head.bias).argmax(1).tolist() == truth.tolist()
    assert metrics.hits(val[0] @ one.head.weight.T + one.head.bias, truth, 1) < len(truth)


def test_a_class_with_one_image_does_not_stop_the_folds() -> None:
    features, labels = CASES["wide"]
    labels = np.where(np.arange(len(labels)) == 0, 4, labels)
    choice = svm.choose_svm(features, labels, features[:10], labels[:10], 5)
    assert np.isfinite([record.log_loss for record in choice.records]).all()
