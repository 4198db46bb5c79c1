"""A path of regularized multinomial logistic regressions on the same features: L-BFGS from strong to weak penalties.

Three things make it quick. Each problem starts where a parabola through the solutions before it points. L-BFGS starts
from the curvature at hand: a matrix between the classes times a diagonal over the features, which are orthogonal. And
the pairs of steps and gradient changes are handed on: the penalty's part of a change is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

ROWS = 8192  # rows handled at a time: bounds what a copy of features needs
_MEMORY = 20  # pairs that L-BFGS keeps (Nocedal and Wright, Numerical Optimization, 7.2, name 3 to 20)
_ITERATIONS = 400  # for each penalty
_REFRESH = 8  # iterations after which the curvature is looked at again
# Bound on the Newton decrement estimate g·H⁻¹g / n. Measured against scikit-learn at tol=1e-10: below this,
# probabilities agree to better than 1e-3 at every strength, in float32 as well (tests/test_head.py).
_TOLERANCE = 2e-9

_Pair = tuple[torch.Tensor, torch.Tensor]  # a step and the change of the gradient along it, classes×(r+1)


@dataclass(frozen=True, eq=False)
class Solved:
    """Minima: weight problems×classes×r, bias problems×classes, and how far each may still be from its minimum."""

    weight: torch.Tensor
    bias: torch.Tensor
    decrement: torch.Tensor
    converged: torch.Tensor
    iterations: int


@dataclass(frozen=True, eq=False)
class _Problem:
    """What all penalties share: features n×r, one-hot labels and weights n×classes, and the sum of the weights."""

    x: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    total: float


@dataclass(frozen=True, eq=False)
class _Curvature:
    """An approximate Hessian: `turn` are orthonormal directions between classes, `scale` classes×(r+1) is diagonal."""

    turn: torch.Tensor
    scale: torch.Tensor

    def solve(self, gradient: torch.Tensor) -> torch.Tensor:
        """Its inverse times a gradient."""
        return self.turn @ ((self.turn.T @ gradient) / self.scale)


def minimize(
    x: torch.Tensor, labels: torch.Tensor, classes: int, penalty: Sequence[float], sample_weight: torch.Tensor | None
) -> Solved:
    """Solve for every penalty, one after the other.

    Args:
        x: n×r; its columns are orthogonal, or nearly so: the better they are, the fewer iterations it takes.
        labels: n, below `classes`; every class occurs.
        penalty: descending, no two equal: sum of losses + penalty·‖W‖²/2.
        sample_weight: n, or None for ones.
    """
    target = torch.nn.functional.one_hot(labels, classes).to(x.dtype)
    weight = torch.ones(len(x), 1, dtype=x.dtype) if sample_weight is None else sample_weight[:, None]
    problem = _Problem(x, target, weight, float(weight.sum()))
    point = torch.zeros(classes, x.shape[1] + 1, dtype=x.dtype)
    point[:, -1] = ((target * weight).sum(0) / problem.total).log()
    points: list[torch.Tensor] = []
    decrements: list[float] = []
    pairs: list[_Pair] = []
    done = 0
    for number, value in enumerate(penalty):
        if points:
            point = _extrapolated(points[-3:], penalty[max(0, number - 3) : number], value)
            for step, change in pairs:
                change[:, :-1] += (value - penalty[number - 1]) * step[:, :-1]
        point, decrement, iterations = _descend(problem, point, value, pairs)
        points.append(point)
        decrements.append(decrement)
        done += iterations
    found, decrement_of = torch.stack(points), torch.tensor(decrements, dtype=torch.float64)
    return Solved(found[..., :-1], found[..., -1], decrement_of, decrement_of <= _TOLERANCE, done)


def _extrapolated(points: Sequence[torch.Tensor], penalties: Sequence[float], penalty: float) -> torch.Tensor:
    """Lagrange's polynomial through the points over the logarithm of the penalty, at a new one."""
    at = [math.log(p) for p in penalties]
    result = torch.zeros_like(points[0])
    for here, point in zip(at, points, strict=True):
        factor = math.prod((math.log(penalty) - other) / (here - other) for other in at if other != here)
        result += factor * point
    return result


def _descend(
    problem: _Problem, point: torch.Tensor, penalty: float, pairs: list[_Pair]
) -> tuple[torch.Tensor, float, int]:
    """L-BFGS from a point: the minimum, its decrement and the iterations. The pairs are used and renewed in place."""
    ridge = torch.full((point.shape[1],), penalty, dtype=point.dtype)
    ridge[-1] = 0.0
    logits = _product(problem.x, point)
    residual = (torch.softmax(logits, dim=1) - problem.target) * problem.weight
    gradient = _gradient(problem.x, residual) + ridge * point
    curvature = _curvature(problem, residual, penalty)
    for done in range(_ITERATIONS):
        if done and done % _REFRESH == 0:
            curvature = _curvature(problem, residual, penalty)
        decrement = _dot(gradient, curvature.solve(gradient)) / problem.total
        if decrement <= _TOLERANCE:
            break
        direction = -_two_loop(gradient, pairs, curvature)
        slope = _dot(gradient, direction)
        if not slope < 0:  # no step lowers the objective any more: this is what the precision gives
            break
        moved = _product(problem.x, direction)
        along, bend = _dot(ridge * point, direction), _dot(ridge * direction, direction)
        rate, residual = _line_search(problem, logits, moved, along, bend, slope)
        step, before = rate * direction, gradient
        point, logits = point + step, logits.add_(moved, alpha=rate)
        gradient = _gradient(problem.x, residual) + ridge * point
        pairs.append((step, gradient - before))
        del pairs[:-_MEMORY]
    return point, decrement, done


def _product(x: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Logits, n×classes, of weights and biases classes×(r+1)."""
    return torch.addmm(point[:, -1], x, point[:, :-1].T)


def _gradient(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed losses, classes×(r+1)."""
    return torch.cat([residual.T @ x, residual.sum(0)[:, None]], dim=1)


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum())


def _curvature(problem: _Problem, residual: torch.Tensor, penalty: float) -> _Curvature:
    """The Hessian Σ (diag pᵢ - pᵢpᵢᵀ) ⊗ xᵢxᵢᵀ + penalty, taken as (mean of the left) ⊗ (diagonal of the right).

    Exact where all predictions are equal and the features orthogonal. As in Martens and Grosse, Optimizing Neural
    Networks with Kronecker-factored Approximate Curvature (2015), section 3, with one layer and a diagonal.
    """
    x, weight = problem.x, problem.weight
    p = residual / weight.clamp_min(torch.finfo(x.dtype).tiny) + problem.target
    spread = (p * (1 - p)).clamp_min(0.0).mean(1, keepdim=True) * weight
    diagonal = torch.zeros(x.shape[1] + 1, dtype=x.dtype)
    for i in range(0, len(x), ROWS):
        part = x[i : i + ROWS]
        diagonal[:-1] += (spread[i : i + ROWS].T @ (part * part))[0]
    diagonal[-1] = spread.sum()
    # Rows sum to zero; the diagonal made of the others keeps that true where p is nearly 0 or 1.
    between = -((p * weight).T @ p).double()
    between.fill_diagonal_(0.0)
    between -= torch.diag(between.sum(1))
    values, turn = torch.linalg.eigh(between / diagonal[-1].double().clamp_min(1e-30))
    scale = values.clamp_min(0.0).to(x.dtype)[:, None] * diagonal
    scale[:, :-1] += penalty
    scale[:, -1].clamp_min_(torch.finfo(x.dtype).tiny)
    scale[0, -1] = math.inf  # the same bias for every class changes nothing
    return _Curvature(turn.to(x.dtype), scale)


def _two_loop(gradient: torch.Tensor, pairs: Sequence[_Pair], curvature: _Curvature) -> torch.Tensor:
    """L-BFGS's inverse Hessian times the gradient (Nocedal and Wright, algorithm 7.4)."""
    q = gradient.clone()
    used: list[tuple[torch.Tensor, torch.Tensor, float, float]] = []
    for step, change in reversed(pairs):
        bend = _dot(step, change)
        if bend > 0:  # a pair without curvature is rounding
            alpha = _dot(step, q) / bend
            q.add_(change, alpha=-alpha)
            used.append((step, change, bend, alpha))
    z = curvature.solve(q)
    if used:
        _, change, bend, _ = used[0]
        size = _dot(change, curvature.solve(change))
        z *= bend / size if size > 0 else 1.0
    for step, change, bend, alpha in reversed(used):
        z.add_(step, alpha=alpha - _dot(change, z) / bend)
    return z


def _line_search(
    problem: _Problem, logits: torch.Tensor, moved: torch.Tensor, along: float, bend: float, initial: float
) -> tuple[float, torch.Tensor]:
    """A rate that minimizes the objective well enough along a direction, inside a shrinking bracket.

    Newton steps only where a step of 1 leaves too much slope. Logits are linear in the weights: no product is needed.

    Args:
        moved: what the direction adds to the logits.
        along, bend: slope of the penalty at rate 0, and its curvature.
        initial: slope of the objective at rate 0, below 0.

    Returns:
        the rate, and there the weighted predictions less labels, n×classes.
    """
    low, rate, high = 0.0, 1.0, math.inf
    for _ in range(10):
        p = torch.softmax(torch.add(logits, moved, alpha=rate), dim=1)
        residual = (p - problem.target) * problem.weight
        first = along + rate * bend + _dot(residual, moved)
        # A step of 1 is nearly always good enough; half the slope gone is more than Wolfe's condition asks.
        if abs(first) <= 0.5 * abs(initial):
            return rate, residual
        low, high = (rate, high) if first < 0 else (low, rate)
        mean = (p * moved).sum(1, keepdim=True)
        second = bend + _dot(p * (moved - mean) ** 2, problem.weight)
        proposed = rate - first / max(second, 1e-30)
        middle = 4 * low + 1 if math.isinf(high) else (low + high) / 2
        rate = proposed if low < proposed < high else middle
    p = torch.softmax(torch.add(logits, moved, alpha=rate), dim=1)
    return rate, (p - problem.target) * problem.weight
