"""Which head is chosen, by what, and what one photo can do to it."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_features import make

from topgraft import metrics
from topgraft.strategies.defaults import STRENGTHS
from topgraft.training.head import logistic, selection
from topgraft.training.head.discriminant import SHRINKAGES
from topgraft.training.head.logistic import solve_discriminant_heads, solve_path
from topgraft.training.head.selection import choose_head

Split = tuple[np.ndarray, np.ndarray]
NONE = np.zeros((0, 40), np.float32), np.zeros(0, np.int64)


def photos(each: int, classes: int = 5, width: int = 200, seed: int = 0) -> Split:
    """Features as pooled activations have them: not negative, and some of them 0 for nearly every image."""
    means = 0.3 * np.random.default_rng(1).normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), each)
    draw = np.random.default_rng(seed)
    features = np.maximum(0.5 + means[labels] + 0.5 * draw.normal(size=(len(labels), width)), 0)
    rare = draw.uniform(size=(len(labels), width // 4)) < 0.01
    features[:, : width // 4] = np.where(rare, 2.0, 1e-6 * draw.uniform(size=rare.shape))
    return features.astype(np.float32), labels


def nearest_mean(train: Split, new: np.ndarray) -> np.ndarray:
    means = np.stack([train[0][train[1] == label].mean(0) for label in np.unique(train[1])])
    return ((new[:, None] - means) ** 2).sum(2).argmin(1)


@pytest.mark.parametrize("each", [1, 2, 3, 4, 8, 16])
def test_few_photos_are_answered_as_well_as_by_the_nearest_mean(each: int) -> None:
    new, truth = photos(50, seed=99)
    found = []
    for seed in range(4):
        train = photos(each, seed=seed)
        choice = choose_head(*train, train[0][:0], train[1][:0], 5, seed=seed)
        right = metrics.hits(choice.head.logits(new), truth, 1) / len(truth)
        found.append((right, (nearest_mean(train, new) == truth).mean()))
        assert right > 0.3  # chance is 0.2
    ours, theirs = np.mean(found, axis=0)
    assert ours > theirs - 0.05


def test_many_validation_images_select_by_log_loss() -> None:
    train, val = make(300, 40, 3), make(260, 40, 3, seed=0)
    choice = choose_head(*train, *val, 3)
    assert (choice.selected_by, choice.selection_images) == ("validation", 260)
    name = choice.settings.normalization
    regressions = solve_path(*train, 3, normalization=name).logits(val[0])
    losses = [metrics.log_loss(logits, val[1]) for logits in regressions]
    found = {r.settings.strength: r.log_loss for r in choice.records if r.settings.strength is not None}
    assert list(found) == list(STRENGTHS)
    np.testing.assert_allclose(list(found.values()), losses)
    discriminants = solve_discriminant_heads(*train, 3, normalization=name).logits(val[0])
    scaled = [metrics.log_loss(x / selection.temperature(x, val[1]), val[1]) for x in discriminants]
    tried = {r.settings.shrinkage: r.log_loss for r in choice.records if r.settings.shrinkage is not None}
    assert list(tried) == list(SHRINKAGES)
    np.testing.assert_allclose(list(tried.values()), scaled)
    (chosen,) = [r for r in choice.records if r.settings == choice.settings]
    assert chosen.log_loss is not None
    assert min(losses + scaled) <= chosen.log_loss < min(losses + scaled) + 0.02
    assert chosen.correct == choice.right.sum()
    assert metrics.log_loss(choice.head.logits(val[0]), val[1]) == pytest.approx(chosen.log_loss, rel=1e-4)


def test_of_discriminants_that_are_hardly_different_the_strongest_is_chosen() -> None:
    features, labels = make(350, 60, 4, noise=6.0)
    train, val = (features[:90], labels[:90]), (features[90:], labels[90:])
    choice = choose_head(*train, *val, 4)
    heads = solve_discriminant_heads(*train, 4, normalization=choice.settings.normalization).logits(val[0])
    each = []
    for logits in heads:
        scaled = metrics.log_softmax(logits / selection.temperature(logits, val[1]))
        each.append(-scaled[np.arange(260), val[1]])
    losses = np.array(each)
    worse = losses - losses[losses.mean(1).argmin()]
    allowed = worse.mean(1) <= selection.WITHIN * worse.std(1) / np.sqrt(260)
    assert choice.settings.shrinkage == SHRINKAGES[int(np.flatnonzero(allowed)[0])]
    assert int(np.flatnonzero(allowed)[0]) < int(losses.mean(1).argmin())


@pytest.mark.parametrize("clearly", [True, False])
def test_a_logistic_regression_has_to_be_clearly_better(clearly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes on either side of a third: discriminants with one covariance see little of that."""
    draw = np.random.default_rng(0)
    labels = np.arange(900) % 2
    features = (draw.normal(size=(900, 30)) * np.where(labels == 0, 0.2, 3.0)[:, None]).astype(np.float32)
    features[:, 0] += np.where(labels == 0, 1.0, 0.0)
    monkeypatch.setattr(selection, "CLEARLY", 2.0 if clearly else 1e6)
    choice = choose_head(features[:600], labels[:600], features[600:], labels[600:], 2)
    assert (choice.settings.strength is not None) == clearly


def test_few_images_are_divided_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    real = selection.folds
    monkeypatch.setattr(selection, "folds", lambda y, count, seed: seeds.append(seed) or real(y, count, seed))
    choose_head(*make(60, 40, 3), *NONE, 3, seed=7)
    assert set(seeds) == {7, 8, 9}
    seeds.clear()
    choose_head(*make(301, 20, 3), np.zeros((0, 20), np.float32), NONE[1], 3, seed=7)
    assert set(seeds) == {7}


def test_few_validation_images_select_out_of_fold_and_the_head_is_solved_on_train() -> None:
    train, val = make(90, 40, 3), make(50, 40, 3, seed=4)
    choice = choose_head(*train, *val, 3)
    assert (choice.selected_by, choice.selection_images, len(choice.right)) == ("out-of-fold", 140, 140)
    again = logistic.solve_head(choice.settings, *train, 3)
    np.testing.assert_allclose(choice.head.weight, again.weight, atol=1e-4)
    refitted = choose_head(*train, *val, 3, refit=True)
    assert refitted.settings == choice.settings
    assert not np.allclose(refitted.head.weight, choice.head.weight, atol=1e-3)


def test_out_of_fold_predictions_have_not_seen_their_image() -> None:
    # Labels without any relation to the features: a head that has seen the images predicts them nearly perfectly.
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 300)).astype(np.float32)
    labels = generator.integers(0, 2, 120)
    choice = choose_head(features[:100], labels[:100], features[100:], labels[100:], 2)
    weakest = next(r for r in choice.records if r.settings.strength == STRENGTHS[-1])
    assert weakest.train_log_loss < 0.05
    assert weakest.log_loss is not None
    assert weakest.log_loss > 0.6


def test_no_validation_images_are_needed() -> None:
    choice = choose_head(*make(60, 40, 3), *NONE, 3)
    assert (choice.selected_by, choice.selection_images) == ("out-of-fold", 60)


@pytest.mark.parametrize("each", [1, 2])
def test_with_too_few_to_select_the_default_is_taken_and_nothing_is_claimed(each: int) -> None:
    features, labels = photos(each)
    choice = choose_head(features, labels, features[:0], labels[:0], 5)
    assert choice.selected_by == "default"
    assert choice.settings.normalization == selection.DEFAULT.normalization
    assert choice.settings.shrinkage == selection.DEFAULT.shrinkage
    assert (choice.selection_images, len(choice.right), choice.scaled_loss) == (0, 0, None)
    (record,) = choice.records
    assert record.log_loss is None
    logits = choice.head.logits(features)
    assert (logits.argmax(1) == labels).all()
    probabilities = metrics.softmax(logits).max(1)
    assert ((probabilities > 0.5) & (probabilities < 0.9999)).all()


def test_one_photo_of_one_class_does_not_decide() -> None:
    """It has no answer out of fold: its class is not among those that were trained on."""
    features, labels = make(60, 30, 3, noise=1.0)
    lonely = np.append(labels, 3), np.concatenate([features, features[:1] + 5])
    both = [choose_head(f, y, f[:0], y[:0], 4) for f, y in ((features, labels), (lonely[1], lonely[0]))]
    for choice in both:
        best = min(r.log_loss for r in choice.records if r.log_loss is not None)
        assert best < 0.5
    assert both[1].head.logits(lonely[1])[-1].argmax() == 3


def test_the_normalization_is_selected_on_some_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = logistic.solve_discriminant_heads

    def solve(features: np.ndarray, *given: object, **named: object) -> object:
        sizes.append(len(features))
        return real(features, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(selection, "CHOOSING", 100)  # with more, one solve of each on that many, and one on all
    monkeypatch.setattr(selection, "solve_discriminant_heads", solve)
    choose_head(*make(500, 20, 3), *make(240, 20, 3, seed=0), 3)
    assert sizes == [100, 100, 100, 500]


def test_a_temperature_never_silences_a_head_whose_answers_are_at_chance() -> None:
    logits = np.random.default_rng(0).normal(size=(40, 3))
    wrong = (logits.argmax(1) + 1) % 3
    assert (logits / selection.temperature(logits, wrong)).std() > 0.09
    assert selection.temperature(1e6 * logits, wrong) == pytest.approx(1e6 * selection.temperature(logits, wrong))
    assert selection.temperature(np.zeros((4, 3)), wrong[:4]) == 1.0


def test_the_same_input_gives_the_same_bits() -> None:
    one, two = (choose_head(*make(60, 40, 3), *NONE, 3, seed=3) for _ in range(2))
    assert np.array_equal(one.head.weight, two.head.weight)
    assert np.array_equal(one.head.bias, two.head.bias)
