"""The freeze table, and what the stations hand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.fitted import fitted

from topgraft.data.samples import Sample
from topgraft.features.engines.base import EngineChoice
from topgraft.strategies import STRATEGIES
from topgraft.strategies.defaults import FALL
from topgraft.strategies.facts import Facts
from topgraft.strategies.plan import Phase, Rule
from topgraft.training.inspection import TableRow, inspect_line, place, planned, planned_phases


def test_every_station_is_shown_with_its_range() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[..., 0], image[..., 2] = 255, 51
    samples = [Sample(f"{n}.png", 0, array=image) for n in range(10)]
    got = inspect_line(
        fitted().classifier,
        samples,
        {"stem": None, "head": 1.0},
        backbone="tiny",
        strategy="head",
        updates_batchnorm=False,
    )
    assert (got.backbone, got.strategy) == ("tiny", "head")
    assert got.table == (
        TableRow("stem", 3 * 8 * 25 + 8 + 8 + 8, None, "keeps its statistics"),
        TableRow("head", 8 * 3 + 3, 1.0, "–"),
    )
    assert [(s.name, s.shape, s.dtype) for s in got.stations] == [
        ("pixels", (8, 32, 32, 3), "uint8"),
        ("normalize", (8, 3, 32, 32), "float32"),
        ("stem", (8, 8), "float32"),
        ("logits", (8, 3), "float32"),
    ]
    assert (got.stations[0].low, got.stations[0].high) == (0, 255)
    # BGR: blue 0.2 by (0.5, 0.2), green 0 by (0.4, 0.3), red 1 by (0.3, 0.4)
    np.testing.assert_allclose((got.stations[1].low, got.stations[1].high), (-1.5, 1.75), atol=1e-6)
    assert got.images == tuple(f"{n}.png" for n in range(8))


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    bad = Sample("gone.png", 0, path=tmp_path / "gone.png")
    good = Sample("good", 0, array=np.zeros((9, 9), np.uint8))
    table = {"stem": None, "head": 1.0}
    got = inspect_line(
        fitted().classifier, [bad, good], table, backbone="tiny", strategy="head", updates_batchnorm=False
    )
    assert (got.images, [u.name for u in got.unreadable]) == (("good",), ["gone.png"])
    assert got.stations[0].shape == (1, 32, 32, 3)
    nothing = inspect_line(fitted().classifier, [bad], table, backbone="tiny", strategy="head", updates_batchnorm=False)
    assert (nothing.images, nothing.stations, len(nothing.table)) == ((), (), 2)


def test_batchnorm_of_random_weights_takes_its_statistics_from_the_batches() -> None:
    got = inspect_line(
        fitted().classifier,
        [Sample("a", 0, array=np.zeros((9, 9), np.uint8))],
        {"stem": 1.0, "head": 1.0},
        backbone="tiny",
        strategy="full",
        updates_batchnorm=True,
    )
    assert [row.batchnorm for row in got.table] == ["takes its statistics from the batches", "–"]


def test_each_group_is_placed_where_it_runs() -> None:
    engine = EngineChoice("openvino", "bf16", "cpu", 4, 2)
    head = Phase("head", (Rule("head", 1.0), Rule("*", None)))
    placed = place({"stem": None, "head": 1.0}, head, engine, "fp32")
    assert [(p.group, p.device, p.engine) for p in placed] == [("stem", "cpu", "openvino"), ("head", "cpu", "solver")]
    full = Phase("full", (Rule("*", 1.0),), 1, 0.1)
    placed = place({"stem": 1.0, "head": 1.0}, full, engine, "bf16")
    assert {(p.engine, p.dtype) for p in placed} == {("torch", "bf16, weights and loss fp32")}


def test_all_rungs_of_auto_are_foreseen_and_those_tried_in_folds_are_shown_once() -> None:
    groups = ("stem", "stage1", "head")
    few = Facts(60, 20, 2, epochs=4, lr=1e-3, budget=0.1, spent=1.0)
    shown = planned(planned_phases(STRATEGIES["auto"], few, groups), groups)
    assert [(phase.name, phase.epochs, phase.lr) for phase in shown] == [
        ("head", 0, 0.0), ("from stage1", 4, 1e-3), ("from stem", 4, 1e-3),
    ]  # fmt: skip
    assert [phase.multipliers["stage1"] for phase in shown] == [None, 1.0, 1.0]
    assert [phase.multipliers["stem"] for phase in shown] == [None, None, pytest.approx(FALL)]
