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
