"""The head equals scikit-learn's LogisticRegression at every strength."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from topgraft import head, metrics, solver
from topgraft.defaults import STRENGTHS

Data = tuple[np.ndarray, np.ndarray]


def make(n: int, d: int, classes: int, seed: int = 0, noise: float = 3.0) -> Data:
    """Correlated features with a mean and a scale of their own, one of them constant; every class occurs."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, n - classes)])
    centres = generator.normal(size=(classes, d))
    mixed = (centres[labels] + noise * generator.normal(size=(n, d))) @ generator.normal(size=(d, d)) / np.sqrt(d)
    features = mixed * generator.uniform(0.1, 10, d) + generator.normal(size=d)
    features[:, 0] = 0.25
    return features.astype(np.float32), labels


def reference(data: Data, new: np.ndarray, c: float, weight: str | None = None) -> np.ndarray:
    features, labels = data
    wide = features.astype(np.float64)
    mean, scale = wide.mean(0), wide.std(0)
    scale[scale < 1e-12] = 1.0
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


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("name", CASES)
def test_probabilities_equal_scikit_learn_at_every_strength(name: str, weight: str | None) -> None:
    data = CASES[name]
    classes = int(data[1].max()) + 1
    new = make(50, data[0].shape[1], 2, seed=9)[0]
    path = head.solve_path(*data, classes, STRENGTHS, class_weight=weight)
    assert all(path.converged)
    for c, logits in zip(STRENGTHS, path.logits(new), strict=True):
        assert np.abs(metrics.softmax(logits) - reference(data, new, c, weight)).max() < 1e-3, c


def test_single_precision_holds_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_DOUBLE", 0)
    monkeypatch.setattr(solver, "ROWS", 100)  # several blocks of rows
    data = CASES["tall"]
    path = head.solve_path(*data, 5, STRENGTHS)
    assert all(path.converged)
    for c, logits in zip(STRENGTHS, path.logits(data[0]), strict=True):
        assert np.abs(metrics.softmax(logits) - reference(data, data[0], c)).max() < 1e-3, c


def test_the_same_input_gives_the_same_bits() -> None:
    one, two = (head.solve_path(*CASES["tall"], 5) for _ in range(2))
    assert np.array_equal(one.weight, two.weight)
    assert np.array_equal(one.bias, two.bias)


def test_a_class_without_images_is_never_the_answer() -> None:
    features, labels = CASES["tall"]
    path = head.solve_path(features, labels * 2, 10)
    assert set(path.logits(features)[5].argmax(1)) <= {0, 2, 4, 6, 8}


def test_many_validation_images_select_by_log_loss() -> None:
    train, val = make(300, 40, 3), make(260, 40, 3, seed=0)
    chosen = head.choose_head(*train, *val, 3)
    assert chosen.selected_by == "validation"
    assert chosen.selection_images == 260
    path = head.solve_path(*train, 3)
    losses = [metrics.log_loss(logits, val[1]) for logits in path.logits(val[0])]
    assert chosen.strength == STRENGTHS[int(np.argmin(losses))]
    assert np.allclose([r.log_loss for r in chosen.records], losses)
    assert np.array_equal(chosen.weight, path.weight[int(np.argmin(losses))].astype(np.float32))


def test_few_validation_images_select_out_of_fold_and_the_head_is_solved_on_train() -> None:
    train, val = make(90, 40, 3), make(50, 40, 3, seed=4)
    chosen = head.choose_head(*train, *val, 3)
    assert (chosen.selected_by, chosen.selection_images) == ("out-of-fold", 140)
    path = head.solve_path(*train, 3)
    assert np.array_equal(chosen.weight, path.weight[STRENGTHS.index(chosen.strength)].astype(np.float32))
    refitted = head.choose_head(*train, *val, 3, refit=True)
    assert refitted.strength == chosen.strength
    assert not np.array_equal(refitted.weight, chosen.weight)


def test_out_of_fold_predictions_have_not_seen_their_image() -> None:
    # Labels without any relation to the features: whoever has seen the images predicts them nearly perfectly.
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 300)).astype(np.float32)
    labels = generator.integers(0, 2, 120)
    chosen = head.choose_head(features[:100], labels[:100], features[100:], labels[100:], 2)
    assert chosen.records[-1].train_log_loss < 0.05
    assert chosen.records[-1].log_loss > 0.6


def test_one_image_of_a_class_is_enough_to_go_on() -> None:
    features, labels = make(40, 10, 2)
    labels[-1] = 2
    chosen = head.choose_head(features, labels, features[:5], labels[:5], 3)
    assert np.isfinite(chosen.weight).all()


def test_folds_are_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 3])
    assigned = head.folds(labels, 5, 0)
    assert np.array_equal(np.bincount(assigned[labels == 0]), [10] * 5)
    assert np.array_equal(np.bincount(assigned[labels == 1]), [4] * 5)
    assert np.array_equal(assigned, head.folds(labels, 5, 0))
    assert not np.array_equal(assigned, head.folds(labels, 5, 1))


def test_balanced_weights_equal_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(head.class_weights(labels, 3), expected)
