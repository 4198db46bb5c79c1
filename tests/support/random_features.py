"""Random features of classes, for tests of heads."""

from __future__ import annotations

import numpy as np

Data = tuple[np.ndarray, np.ndarray]


def make(n: int, d: int, classes: int, seed: int = 0, noise: float = 3.0) -> Data:
    """Correlated features with a mean and a scale of their own, one of them constant; every class occurs."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, n - classes)])
    centers = generator.normal(size=(classes, d))
    mixed = (centers[labels] + noise * generator.normal(size=(n, d))) @ generator.normal(size=(d, d)) / np.sqrt(d)
    features = mixed * generator.uniform(0.1, 10, d) + generator.normal(size=d)
    features[:, 0] = 0.25
    return features.astype(np.float32), labels
