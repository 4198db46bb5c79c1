"""Defaults as pure rules. No torch."""

from __future__ import annotations

STRENGTHS: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-10, 1))
"""Inverse regularisation C of the head, 1e-5 to 1 in half decades, on standardised features with summed losses.

The span holds the best C of a base's 1,280 features from some hundred images up to 50,000, with room at both ends.
"""

SELECTION_MINIMUM = 200
"""Validation images below which out-of-fold predictions choose the strength: at 200 the standard error of an
accuracy of 90 % is two points, and a choice among fewer would follow chance."""

FOLDS = 5
"""Folds of out-of-fold predictions (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10)."""

LEARNING_RATES: dict[str, float] = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.1}
"""Of random weights. Adam's is the one of its paper (https://arxiv.org/abs/1412.6980, section 2) and of Keras; SGD's is
that of ResNet (https://arxiv.org/abs/1512.03385, section 3.4)."""


def learning_rate(optimizer: str, pretrained: bool) -> float:
    """A tenth of the usual rate where the network knows something that it should not forget."""
    return LEARNING_RATES[optimizer] / (10 if pretrained else 1)


def epochs(pretrained: bool) -> int:
    """Passes over the training images where the base trains: few from published weights, more from random ones."""
    return 5 if pretrained else 10


STALL_STEPS = 200
"""Steps after which a loss that is still at chance is looked into. Where the notebook's networks learn at all, the
loss is well below chance by then (benchmarks/notes.py)."""
