"""Logits are the head's, in float32, and metrics are made of them alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from support.fitted import CLASSES, fitted

from topgraft import metrics
from topgraft.data.samples import Sample
from topgraft.evaluation.evaluate import evaluate, head_logits

ROWS = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


def test_logits_are_rows_times_the_heads_weights() -> None:
    model = fitted().classifier
    weight, bias = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()
    logits = head_logits(model, ROWS)
    assert (logits.dtype, logits.shape) == (np.float32, (6, 3))
    np.testing.assert_allclose(logits, ROWS @ weight.T + bias, atol=1e-6)


def test_logits_of_rows_equal_those_of_pixels() -> None:
    model = fitted().classifier
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        rows, whole = model.features(pixels).numpy(), model(pixels).numpy()
    np.testing.assert_allclose(head_logits(model, rows), whole, atol=1e-6)


def test_the_same_rows_give_the_same_bits_wherever_they_lie() -> None:
    head = torch.nn.Linear(1280, 5)
    model = cast(Any, SimpleNamespace(head=head))
    found = []
    for offset in range(16):
        rows = np.empty(48 * 1280 + offset, dtype=np.float32)[offset:].reshape(48, 1280)
        rows[:] = np.random.default_rng(0).normal(size=rows.shape)
        found.append(head_logits(model, rows))
    assert all(np.array_equal(found[0], other) for other in found)


def test_an_evaluation_holds_what_its_numbers_are_made_of() -> None:
    model = fitted().classifier
    samples = [Sample(f"{n}.png", n % 3) for n in range(6)]
    got = evaluate(model, ROWS, samples, CLASSES, "val", used_for_selection=True, seen=("x",), notes=("y",), where="z")
    assert (got.split, got.used_for_selection, got.seen, got.notes, got.where) == ("val", True, ("x",), ("y",), "z")
    assert got.names == tuple(s.name for s in samples)
    assert (got.labels.dtype, got.labels.tolist()) == (np.int64, [0, 1, 2, 0, 1, 2])
    assert got.metrics == metrics.evaluate_logits(got.logits, got.labels, CLASSES)
    right = int((head_logits(model, ROWS).argmax(1) == got.labels).sum())
    assert got.metrics.top1 == metrics.wilson(right, 6)
