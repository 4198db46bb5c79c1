"""Proportions and their differences with 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson(k: int, n: int) -> Interval:
    """The proportion k/n with its 95 % score interval.

    Source: Wilson (1927), as written in Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion
    (Statistical Science, 2001), equation 4. With n = 0 the value is 0 and the interval 0 to 1.

    Raises:
        ValueError: k is negative or larger than n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a proportion")
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    p, z2 = k / n, Z_95 * Z_95
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # For k = 0 and k = n the formula gives 0 and 1 only up to rounding; the interval must contain the value.
    return Interval(p, 0.0 if k == 0 else max(0.0, center - half), 1.0 if k == n else min(1.0, center + half), n)


def paired_loss(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Difference:
    """Loss of a proportion from `before` to `after`: whether each image was correct, before and after.

    The interval is the 95 % adjusted Wald interval for matched pairs, which adds half an image to each of the four
    cells: Wald+2 of Agresti and Min, Simple improved confidence intervals for comparing matched proportions (Statistics
    in Medicine, 2005), as in http://users.stat.ufl.edu/~aa/cda/R/matched/R2_matched/index.html. Without images
    the value is 0 and the interval -1 to 1.

    Raises:
        ValueError: arrays of different lengths.
    """
    if before.shape != after.shape:
        raise ValueError(f"{len(before)} and {len(after)} answers are not pairs")
    n = len(before)
    if n == 0:
        return Difference(0.0, -1.0, 1.0, 0)
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    total = n + 2
    center = (lost - gained) / total
    half = Z_95 * math.sqrt((lost + gained + 1) / total - center * center) / math.sqrt(total)
    return Difference((lost - gained) / n, max(-1.0, center - half), min(1.0, center + half), n)


@dataclass(frozen=True, slots=True)
class Interval:
    """A proportion with its 95 % Wilson score interval, as fractions of 1. `n` is the number of images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two proportions of the same `n` images with its 95 % interval, as fractions of 1."""

    value: float
    low: float
    high: float
    n: int
