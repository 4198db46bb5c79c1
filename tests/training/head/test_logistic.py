"""The head equals scikit-learn's LogisticRegression at every strength."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import Normalizer
from support.random_features import Data, make

from topgraft import metrics
from topgraft.models import normalization
from topgraft.models.normalization import NORMALIZATIONS
from topgraft.strategies.defaults import STRENGTHS
from topgraft.training.head import lbfgs, logistic
from topgraft.training.head.discriminant import SHRINKAGES
from topgraft.training.head.logistic import HeadSettings


def reference(data: Data, new: np.ndarray, c: float, name: str, weight: str | None = None) -> np.ndarray:
    """scikit-learn's logistic regression on its own preprocessing."""
    features, labels = data
    wide, new = features.astype(np.float64), new.astype(np.float64)
    if name == "root":
        offset = 0.01 * np.abs(wide).mean()
        wide, new = (x / np.sqrt(np.abs(x) + offset) for x in (wide, new))
    if name == "standard":
        variance = wide.var(0)
        scale = np.sqrt(0.9 * variance + 0.1 * variance.mean())
    else:
        wide, new = Normalizer().transform(wide), Normalizer().transform(new)
        scale = np.sqrt(wide.var(0).mean())
    mean = wide.mean(0)
    model = LogisticRegression(C=c, tol=1e-10, max_iter=20000, class_weight=weight).fit((wide - mean) / scale, labels)
    return model.predict_proba((new - mean) / scale)


CASES = {
    "two classes": make(120, 40, 2),
    "fewer images than features": make(60, 150, 4),
    "separable": make(80, 100, 3, noise=0.2),
    "many classes": make(400, 30, 25),
    "tall": make(900, 20, 5),
    "two classes, wide": make(40, 90, 2),
}


@pytest.mark.parametrize("chosen", NORMALIZATIONS)
@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("name", CASES)
def test_probabilities_equal_scikit_learn_at_every_strength(name: str, weight: str | None, chosen: str) -> None:
    data = CASES[name]
    classes = int(data[1].max()) + 1
    new = make(50, data[0].shape[1], 2, seed=9)[0]
    new *= 0.99 * np.linalg.norm(data[0], axis=1).max() / np.linalg.norm(new, axis=1).max()  # else they are shortened
    path = logistic.solve_path(*data, classes, STRENGTHS, normalization=chosen, class_weight=weight)
    assert all(path.converged)
    for c, logits in list(zip(STRENGTHS, path.logits(new), strict=True))[::2]:
        assert np.abs(metrics.softmax(logits) - reference(data, new, c, chosen, weight)).max() < 1e-3, c


def test_single_precision_holds_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "DOUBLE", 0)
    monkeypatch.setattr(lbfgs, "ROWS", 100)  # several blocks of rows
    monkeypatch.setattr(normalization, "ROWS", 100)
    data = CASES["tall"]
    path = logistic.solve_path(*data, 5, STRENGTHS)
    assert all(path.converged)
    for c, logits in zip(STRENGTHS, path.logits(data[0]), strict=True):
        assert np.abs(metrics.softmax(logits) - reference(data, data[0], c, "standard")).max() < 1e-3, c


@pytest.mark.parametrize("name", ["tall", "fewer images than features"])
@pytest.mark.parametrize("settings", [HeadSettings("root", strength=0.1), HeadSettings("length", shrinkage=0.5)])
def test_a_head_is_solved_as_another_one_was(name: str, settings: HeadSettings) -> None:
    features, labels = CASES[name]
    classes = int(labels.max()) + 1
    if settings.strength is None:
        heads = logistic.solve_discriminant_heads(features, labels, classes, normalization="length")
        expected = heads.logits(features)[SHRINKAGES.index(0.5)]
    else:
        expected = logistic.solve_path(features, labels, classes, (0.1,), normalization="root").logits(features)[0]
    again = logistic.solve_head(replace(settings, temperature=2.0), features, labels, classes)
    np.testing.assert_allclose(again.logits(features), expected / 2, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("chosen", NORMALIZATIONS)
def test_discriminants_take_priors_and_weights_as_scikit_learn_does(chosen: str, weight: str | None) -> None:
    features, labels = CASES["separable"]
    labels = np.where(np.arange(80) % 4 == 0, labels, 0)  # classes of different sizes
    normalized = normalization.fit_normalization(chosen, features)
    z = np.concatenate([block.numpy() for block in normalized.blocks(features)])
    heads = logistic.solve_discriminant_heads(features, labels, 3, normalization=chosen, class_weight=weight)
    for shrinkage, logits in zip(SHRINKAGES, heads.logits(features), strict=True):
        priors = None if weight is None else np.full(3, 1 / 3)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors).fit(z, labels)
        expected = model.decision_function(z)
        found = logits - logits.mean(1, keepdims=True)
        np.testing.assert_allclose(found, expected - expected.mean(1, keepdims=True), atol=1e-3 * np.abs(found).max())


def test_the_same_input_gives_the_same_bits() -> None:
    one, two = (logistic.solve_path(*CASES["tall"], 5) for _ in range(2))
    assert np.array_equal(one.weight, two.weight)
    assert np.array_equal(one.bias, two.bias)


def test_a_class_without_images_is_never_the_answer() -> None:
    features, labels = CASES["tall"]
    path = logistic.solve_path(features, labels * 2, 10)
    assert set(path.logits(features)[5].argmax(1)) <= {0, 2, 4, 6, 8}


def test_folds_are_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 3])
    assigned = logistic.folds(labels, 5, 0)
    assert np.array_equal(np.bincount(assigned[labels == 0]), [10] * 5)
    assert np.array_equal(np.bincount(assigned[labels == 1]), [4] * 5)
    assert np.array_equal(assigned, logistic.folds(labels, 5, 0))
    assert not np.array_equal(assigned, logistic.folds(labels, 5, 1))


def test_balanced_weights_equal_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(logistic.class_weights(labels, 3), expected)
