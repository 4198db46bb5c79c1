"""Many regularised multinomial logistic regressions on the same features at once: L-BFGS with a diagonal start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

ROWS = 8192  # rows handled at a time: bounds what a product of many classes and strengths needs
_MEMORY = 12  # pairs that L-BFGS keeps (Nocedal and Wright, Numerical Optimization, 7.2, name 3 to 20)
_ITERATIONS = 400
# Bound on the Newton decrement estimate g·H₀⁻¹g / n. Measured against scikit-learn at tol=1e-10: below this,
# probabilities agree to better than 1e-3 at every strength (tests/test_head.py).
_TOLERANCE_DOUBLE = 1e-11
_TOLERANCE_SINGLE = 1e-9


@dataclass(frozen=True, eq=False)
class Solved:
    """Minima: weight problems×classes×r, bias problems×classes, and how far each may still be from its minimum."""

    weight: torch.Tensor
    bias: torch.Tensor
    decrement: torch.Tensor
    converged: torch.Tensor
    iterations: int


def _tolerance(penalty: torch.Tensor) -> torch.Tensor:
    """Largest decrement of each problem. With little penalty the true curvature falls below the start's."""
    base = _TOLERANCE_DOUBLE if penalty.dtype is torch.float64 else _TOLERANCE_SINGLE
    return base * (penalty / 10).clamp(max=1.0)


def minimise(
    x: torch.Tensor, labels: torch.Tensor, classes: int, penalty: torch.Tensor, sample_weight: torch.Tensor | None
) -> Solved:
    """L-BFGS for every penalty side by side; those that are done leave.

    Args:
        x: n×r; its columns are orthogonal, so that their squared norms are the Hessian's scale.
        labels: n, below `classes`.
        penalty: of each problem: sum of losses + penalty·‖W‖²/2.
        sample_weight: n, or None for ones.
    """
    n, rank = x.shape
    count = len(penalty)
    ones = torch.ones(n, dtype=x.dtype) if sample_weight is None else sample_weight
    total = ones.sum()
    target = torch.nn.functional.one_hot(labels, classes).to(x.dtype)
    share = (target * ones[:, None]).sum(0) / total
    variance = (share * (1 - share)).clamp_min(1e-12)
    squares = (x * x * ones[:, None]).sum(0)
    # Diagonal of the Hessian where every prediction is the classes' share; the last column is the bias.
    start = torch.empty(count, classes, rank + 1, dtype=x.dtype)
    start[..., :rank] = variance[None, :, None] * squares[None, None, :] + penalty[:, None, None]
    start[..., rank] = variance[None, :] * total
    ridge = torch.zeros(count, 1, rank + 1, dtype=x.dtype)
    ridge[..., :rank] = penalty[:, None, None]

    point = torch.zeros(count, classes, rank + 1, dtype=x.dtype)
    point[..., rank] = share.clamp_min(1e-12).log()
    logits = point[..., rank].expand(n, count, classes).clone()
    decrement = torch.full((count,), float("inf"), dtype=x.dtype)
    tolerance = _tolerance(penalty)

    active = torch.arange(count)
    gradient = _gradient(x, logits, target, ones) + ridge * point
    steps: list[torch.Tensor] = []
    changes: list[torch.Tensor] = []
    stalled = torch.zeros(count, dtype=torch.bool)
    done = 0
    for done in range(1, _ITERATIONS + 1):  # noqa: B007  # counted for the record
        decrement[active] = (gradient * gradient / start[active]).sum((1, 2)) / total
        going = (decrement[active] > tolerance[active]) & ~stalled[active]
        if not going.all():
            active, gradient, logits = active[going], gradient[going], logits[:, going]
            steps, changes = [s[going] for s in steps], [c[going] for c in changes]
            if not len(active):
                break
        direction = -_two_loop(gradient, steps, changes, start[active])
        moved = _product(x, direction)
        rate, failed = _line_search(logits, moved, target, ones, point[active], gradient, direction, ridge[active])
        step = rate[:, None, None] * direction
        point[active] += step
        logits += rate[None, :, None] * moved
        before = gradient
        gradient = _gradient(x, logits, target, ones) + ridge[active] * point[active]
        steps, changes = [*steps[1 - _MEMORY :], step], [*changes[1 - _MEMORY :], gradient - before]
        stalled[active[failed]] = True  # no step lowers the objective any more: this is what the precision gives
    return Solved(point[..., :rank], point[..., rank], decrement, decrement <= tolerance, done)


def _product(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Logits, n×problems×classes, of directions problems×classes×(r+1)."""
    count, classes, wide = direction.shape
    flat = direction.reshape(count * classes, wide)
    return torch.addmm(flat[:, -1], x, flat[:, :-1].T).reshape(len(x), count, classes)


def _gradient(x: torch.Tensor, logits: torch.Tensor, target: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed losses, problems×classes×(r+1)."""
    n, count, classes = logits.shape
    result = torch.zeros(count * classes, x.shape[1] + 1, dtype=x.dtype)
    for i in range(0, n, ROWS):
        part = torch.softmax(logits[i : i + ROWS], dim=2) - target[i : i + ROWS, None, :]
        part = (part * ones[i : i + ROWS, None, None]).reshape(-1, count * classes)
        result[:, :-1].addmm_(part.T, x[i : i + ROWS])
        result[:, -1] += part.sum(0)
    return result.reshape(count, classes, -1)


def _two_loop(
    gradient: torch.Tensor, steps: Sequence[torch.Tensor], changes: Sequence[torch.Tensor], start: torch.Tensor
) -> torch.Tensor:
    """L-BFGS's inverse Hessian times the gradient (Nocedal and Wright, algorithm 7.4), for every problem."""
    q = gradient.clone()
    used: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        curvature = (step * change).sum((1, 2))
        # A pair without curvature is rounding; it is passed over for the problem that it belongs to.
        weight = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-300 if q.dtype is torch.float64 else 1e-30), 0.0)
        alpha = weight * (step * q).sum((1, 2))
        q -= alpha[:, None, None] * change
        used.append((step, change, weight, alpha))
    z = q / start
    if used:
        step, change, weight, _ = used[0]
        size = (change * change / start).sum((1, 2))
        gamma = torch.where((weight > 0) & (size > 0), (step * change).sum((1, 2)) / size, 1.0)
        z *= gamma[:, None, None]
    for step, change, weight, alpha in reversed(used):
        beta = weight * (change * z).sum((1, 2))
        z += (alpha - beta)[:, None, None] * step
    return z


def _line_search(
    logits: torch.Tensor,
    moved: torch.Tensor,
    target: torch.Tensor,
    ones: torch.Tensor,
    point: torch.Tensor,
    gradient: torch.Tensor,
    direction: torch.Tensor,
    ridge: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rates that minimise each objective well enough along its direction, inside a shrinking bracket.

    Newton steps only where a step of 1 leaves too much slope.
    Returns the rates, and which directions do not lead down at all.
    """
    along = (ridge * point * direction).sum((1, 2))
    bend = (ridge * direction * direction).sum((1, 2))
    fixed = torch.einsum("nsk,nk,n->s", moved, target, ones)

    def slope(rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = along + rate * bend - fixed, bend.clone()
        for i in range(0, len(logits), ROWS):
            part = moved[i : i + ROWS]
            p = torch.softmax(logits[i : i + ROWS] + rate[None, :, None] * part, dim=2)
            mean = (p * part).sum(2)
            weight = ones[i : i + ROWS, None]
            first += (mean * weight).sum(0)
            second += (((p * part * part).sum(2) - mean * mean) * weight).sum(0)
        return first, second

    initial = (gradient * direction).sum((1, 2))
    failed = ~(initial < 0)
    low, rate = torch.zeros_like(initial), torch.ones_like(initial)
    high = torch.full_like(initial, float("inf"))
    for _ in range(10):
        first, second = slope(rate)
        low, high = torch.where(first < 0, rate, low), torch.where(first < 0, high, rate)
        # A step of 1 is nearly always good enough; half the slope gone is more than Wolfe's condition asks.
        settled = (first.abs() <= 0.5 * initial.abs()) | failed
        if bool(settled.all()):
            break
        proposed = rate - first / second.clamp_min(1e-30)
        inside = (proposed > low) & (proposed < high)
        middle = torch.where(high.isinf(), 4 * low + 1, (low + high) / 2)
        rate = torch.where(settled, rate, torch.where(inside, proposed, middle))
    return torch.where(failed, 0.0, rate), failed
