"""What strategies share: facts, unfrozen tables, and the cut that probes suggest."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from topgraft.errors import UsageError
from topgraft.strategies.defaults import FALL
from topgraft.strategies.facts import HEAD, Facts, done, suggested, unfrozen
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, Rule, table

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")
FACTS = Facts(1000, 400, 10, probe_images=400)


def test_thawed_rates_fall_towards_the_image_and_the_rest_is_frozen() -> None:
    rows = table(GROUPS, unfrozen(GROUPS, "stage2"))
    assert rows == {"stem": None, "stage1": None, "stage2": FALL, "stage3": 1.0, "head": 1.0}
    whole = table(GROUPS, unfrozen(GROUPS, "stem"))
    assert whole == {"stem": FALL**3, "stage1": FALL**2, "stage2": FALL, "stage3": 1.0, "head": 1.0}
    assert table(("base", "head"), unfrozen(("base", "head"), "base")) == {"base": 1.0, "head": 1.0}


@pytest.mark.parametrize("first", ["head", "stage9", ""])
def test_what_is_no_group_below_the_head_is_refused_with_a_list(first: str) -> None:
    with pytest.raises(UsageError, match=f"one of stem, stage1, stage2, stage3, not '{first}'"):
        unfrozen(GROUPS, first)


@pytest.mark.parametrize(
    ("probes", "first"),
    [
        ({"stem": 0.3, "stage1": 0.6, "stage2": 0.8, "stage3": 0.9}, "stage3"),  # they help to the end
        ({"stem": 0.3, "stage1": 0.6, "stage2": 0.9, "stage3": 0.9}, "stage3"),
        ({"stem": 0.3, "stage1": 0.9, "stage2": 0.9, "stage3": 0.8}, "stage2"),
        ({"stem": 0.9, "stage1": 0.9, "stage2": 0.9, "stage3": 0.9}, "stage1"),
        # One standard error of 90 % over 400 images is 1.5 points.
        ({"stem": 0.3, "stage1": 0.886, "stage2": 0.8, "stage3": 0.9}, "stage2"),
        ({"stem": 0.3, "stage1": 0.884, "stage2": 0.8, "stage3": 0.9}, "stage3"),
        # All right: an error of 0 would say that nothing else is as good; one image in 400 still may be chance.
        ({"stem": 0.3, "stage1": 0.9975, "stage2": 0.99, "stage3": 1.0}, "stage2"),
        ({"stem": 0.3, "stage1": 0.9974, "stage2": 0.99, "stage3": 1.0}, "stage3"),
        ({"stage1": 0.9, "stage3": 0.8}, "stage2"),
        ({}, "stage3"),
    ],
)
def test_the_cut_is_above_where_features_stop_helping(probes: dict[str, float], first: str) -> None:
    assert suggested(GROUPS, replace(FACTS, probes=probes)) == first


def test_probes_of_no_images_say_nothing() -> None:
    assert suggested(GROUPS, Facts(10, 10, 2, probes={"stem": 1.0, "stage3": 0.5})) == "stage3"


def test_facts_travel_through_json() -> None:
    facts = replace(
        FACTS, probes={"stem": 0.1, "stage1": 0.25}, epoch_seconds={"stem": 1 / 3}, budget=300.0, familiarity=0.4,
        phases=(HEAD, Phase("own", (Rule("head", 1.0), Rule("*", 0.3)), 2, 1e-3)),
    )  # fmt: skip
    assert Facts.of(json.loads(json.dumps(asdict(facts)))) == facts


def test_phases_are_counted_by_their_numbers() -> None:
    assert done(()) == 0
    assert done([EpochRecord(0, "a", 0, 0.0), EpochRecord(0, "a", 0, 0.0)]) == 1
    assert done([EpochRecord(0, "a", 0, 0.0), EpochRecord(1, "b", 1, 0.0), EpochRecord(1, "b", 2, 0.0)]) == 2
