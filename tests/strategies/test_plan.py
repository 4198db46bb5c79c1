"""The freeze table."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from topgraft.errors import UsageError
from topgraft.settings import fields, verbs
from topgraft.strategies.plan import Phase, Rule, frozen_prefix, phase_from_json, table
from topgraft.strategies.plan_file import read_phases

GROUPS = ("stem", "stage1", "stage2", "head")


def test_first_matching_rule_wins_and_order_is_the_groups() -> None:
    rows = table(GROUPS, (Rule("head", 1.0), Rule("stage2", 0.1), Rule("*", None)))
    assert list(rows.items()) == [("stem", None), ("stage1", None), ("stage2", 0.1), ("head", 1.0)]
    assert frozen_prefix(rows) == ("stem", "stage1")


def test_uncovered_groups_are_named() -> None:
    with pytest.raises(UsageError, match="no rule covers the groups stem, head"):
        table(GROUPS, (Rule("stage*", None),))


def test_idle_rules_are_named() -> None:
    with pytest.raises(UsageError, match="'stage9'"):
        table(GROUPS, (Rule("stage9", None), Rule("*", 1.0)))
    with pytest.raises(UsageError, match="'head'"):
        table(GROUPS, (Rule("*", None), Rule("head", 1.0)))


def test_prefix_is_only_the_leading_frozen_groups() -> None:
    rows = table(GROUPS, (Rule("stage1", 0.5), Rule("*", None)))
    assert frozen_prefix(rows) == ("stem",)


def test_a_phase_without_epochs_solves() -> None:
    assert Phase("head", (Rule("*", None),)).solves_head
    assert not Phase("full", (Rule("*", 1.0),), epochs=2, lr=0.1).solves_head


def test_phases_travel_through_json() -> None:
    phase = Phase("top", (Rule("head", 1.0), Rule("stage*", 0.1), Rule("*", None)), 3, 1e-4, 5, 12.5)
    assert phase_from_json(json.loads(json.dumps(asdict(phase)))) == phase
    settled = fields.make(verbs.FitSettings, {"rules": [replace(phase, folds=0, seconds=None)]})
    saved = json.loads(json.dumps(fields.as_json(settled)))
    assert fields.make(verbs.FitSettings, saved) == settled


WRITTEN = """
[[phase]]
rules = { head = 1.0, "*" = "frozen" }

[[phase]]
name = "top"
epochs = 3
lr = 1e-4
rules = { head = 1, "stage[67]" = 0.5, "*" = "frozen" }

[[phase]]
epochs = 1
lr = 1
rules = { "*" = 1.0 }
"""
READ = (
    Phase("phase 1", (Rule("head", 1.0), Rule("*", None))),
    Phase("top", (Rule("head", 1.0), Rule("stage[67]", 0.5), Rule("*", None)), 3, 1e-4),
    Phase("phase 3", (Rule("*", 1.0),), 1, 1.0),
)


def test_phases_are_read_from_a_file_and_from_python(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(WRITTEN)
    assert read_phases(path) == read_phases(str(path)) == READ
    assert read_phases(tomllib.loads(WRITTEN)["phase"]) == READ
    assert read_phases(READ) == READ
    nothing = {"name": None, "epochs": None, "lr": None, "rules": {"*": None, "head": 1.0}}
    assert read_phases([nothing]) == (Phase("phase 1", (Rule("*", None), Rule("head", 1.0))),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[phase", r"mine\.toml is not a TOML file"),
        ("", r"mine\.toml has no phase"),
        ("phase = []", r"mine\.toml has no phase"),
        ('phase = "head"', r"mine\.toml has no phase"),
        ("phase = [3]", r"phase 1 of .*mine\.toml must be a table"),
        ("lr = 1\n[[phase]]\nrules = { '*' = 1.0 }", "has lr besides its phases"),
        ("[[phase]]\nrules = { '*' = 1.0 }\nrate = 1", "phase 1 of .* has rate; it may have name, rules, epochs, lr"),
        ("[[phase]]\nname = 'x'", "phase 1 of .* has no rules"),
        ("[[phase]]\nrules = {}", "has no rules"),
        ("[[phase]]\nrules = ['*']", "rules of phase 1 .* is not a table"),
        ("[[phase]]\nname = 3\nrules = { '*' = 1.0 }", "name of phase 1 .* is 3, which is not text"),
        ("[[phase]]\nepochs = 1.5\nlr = 1\nrules = { '*' = 1.0 }", "epochs of .* is 1.5, which is not a whole number"),
        ("[[phase]]\nepochs = true\nlr = 1\nrules = { '*' = 1 }", "epochs of .* is True, which is not a whole number"),
        ("[[phase]]\nepochs = 1\nlr = '1'\nrules = { '*' = 1.0 }", "lr of .* is '1', which is not a number"),
        ("[[phase]]\nepochs = -1\nlr = 1\nrules = { '*' = 1.0 }", "must not be below 0"),
        ("[[phase]]\nepochs = 1\nlr = nan\nrules = { '*' = 1.0 }", "must not be below 0"),
        ("[[phase]]\nepochs = 1\nlr = inf\nrules = { '*' = 1.0 }", "must not be below 0"),
        ("[[phase]]\nlr = 0.1\nrules = { '*' = 1.0 }", "a rate but no epochs"),
        ("[[phase]]\nepochs = 2\nrules = { '*' = 1.0 }", "epochs but no rate"),
        ("[[phase]]\nrules = { '*' = 'cold' }", "is 'cold'; it is a multiplier above 0, or \"frozen\""),
        ("[[phase]]\nrules = { '*' = 0 }", "is 0; it is a multiplier above 0"),
        ("[[phase]]\nrules = { '*' = true }", "is True; it is a multiplier"),
        ("[[phase]]\nrules = { '*' = 1.0 }\n[[phase]]\nrules = { '*' = [] }", r"a rule of phase 2 of .* is \[\]"),
        (2 * "[[phase]]\nname = 'x'\nrules = { '*' = 1.0 }\n", "has two phases named x"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_phases(path)


def test_a_file_that_cannot_be_read_and_what_is_no_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: No such file"):
        read_phases(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_phases(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not a TOML file"):
        read_phases(tmp_path / "bytes.toml")
    for wrong in ({}, {"rules": {"*": 1.0}}, 3, b"x", []):
        with pytest.raises(UsageError, match="rules has no phase"):
            read_phases(wrong)
    with pytest.raises(UsageError, match="rules has two phases named a"):
        read_phases([Phase("a", (Rule("*", 1.0),)), Phase("a", (Rule("*", 1.0),))])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Phase("x", (Rule("*", 1.0),), 2), "epochs but no rate"),
        (Phase("x", (Rule("*", -1.0),), 2, 0.1), "is -1.0; it is a multiplier above 0"),
        (Phase("x", (Rule("*", 1.0),), -2, 0.1), "must not be below 0"),
        (Phase("x", (), 2, 0.1), "has no rules"),
        (Phase("x", (Rule("*", 1.0),), 2, 0.1, folds=5), "phase 1 of rules has folds, .* strategies decide on"),
        (Phase("x", (Rule("*", 1.0),), 2, 0.1, seconds=5.0), "strategies decide on"),
    ],
)  # fmt: skip
def test_phases_from_python_are_held_to_the_same(given: Phase, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_phases([given])
