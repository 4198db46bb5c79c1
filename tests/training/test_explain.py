"""What is said about why a fit did what it did."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np

from topgraft import metrics
from topgraft.strategies import history
from topgraft.strategies.facts import HEAD, Facts
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, Rule
from topgraft.training.explain import explained, kept, reasoned, remarks
from topgraft.training.loop import Outcome

GROUPS = ("stem", "stage1", "head")
FACTS = Facts(
    1000, 400, 4, probes={"stem": 0.5, "stage1": 0.875}, probe_images=400, familiarity=0.314,
    epoch_seconds={"stem": 20.0, "stage1": 4.0}, setup_seconds={"stage1": 2.0}, budget=300.0, spent=7.0, epochs=5,
)  # fmt: skip
SOLVED = EpochRecord(0, "head", 0, 1.0, chosen=True, hits=history.pack(np.arange(400) < 300), scaled_loss=1.0)
TOP = Phase("top", (Rule("*", 1.0),), 1, 1e-4)


def test_the_table_says_data_likeness_and_compute() -> None:
    said = dict(line.split(maxsplit=1) for line in reasoned(GROUPS, FACTS))
    assert list(said) == ["data", "familiar", "features", "cut", "compute", "budget"]
    assert "1,000 training images, 250 for each of 4 classes" in said["data"]
    assert "so validation chooses" in said["data"]
    assert "31 % sure" in said["familiar"]
    assert "stem 50.0, stage1 87.5 (n = 400)" in said["features"]
    assert "below stage1" in said["cut"]
    assert "from stage1 4 s" in said["compute"]
    assert "from stem 20 s" in said["compute"]


def test_the_probes_stand_in_the_networks_order_after_a_resume_too() -> None:
    sorted_by_name = Facts.of(json.loads(json.dumps(asdict(FACTS), sort_keys=True)))
    turned = replace(sorted_by_name, probes=dict(reversed(sorted_by_name.probes.items())))
    assert reasoned(GROUPS, turned) == reasoned(GROUPS, FACTS)
    assert list(explained(GROUPS, turned, [SOLVED])["probes"]) == ["stem", "stage1"]


def test_what_was_not_measured_is_not_said() -> None:
    bare = Facts(100, 30, 4)
    assert [line.split()[0] for line in reasoned(GROUPS, bare)] == ["data"]
    assert "cross-validation chooses" in reasoned(GROUPS, bare)[0]


def test_the_config_says_what_was_known_and_what_was_left() -> None:
    found = explained(GROUPS, replace(FACTS, budget=8.0), [SOLVED])
    assert found["suggested"] == "stage1"
    assert found["unfreeze_schedule"] == ["stage1", "stem"]
    assert found["untried"] == "stage1"
    assert found["images_per_class"] == 250
    assert found["why"] == reasoned(GROUPS, replace(FACTS, budget=8.0))


def test_remarks_are_about_what_did_not_help_and_what_was_stopped() -> None:
    tables: dict[str, dict[str, float | None]] = {"head": {}, "top": {}}
    assert remarks(Outcome(tables, {"phase": "top"}, (HEAD, TOP)), FACTS, [SOLVED]) == []
    assert remarks(Outcome(tables, {"phase": "head"}, (HEAD,)), FACTS, [SOLVED]) == []
    (said,) = remarks(Outcome(tables, {"phase": "head"}, (HEAD, TOP)), replace(FACTS, budget=None), [SOLVED])
    assert "no epoch of top was better" in said
    (stopped,) = remarks(Outcome(tables, {"phase": "top"}, (HEAD, TOP), interrupted=True), FACTS, [SOLVED])
    assert "Ctrl-C" in stopped


def test_remarks_say_what_a_budget_was_too_short_for() -> None:
    head = Outcome({"head": {}}, {"phase": "head"}, (HEAD,))
    (said,) = remarks(head, replace(FACTS, budget=7.5), [SOLVED])
    assert said.startswith("the head was fitted to all images, which took 8 s of a budget of 8 s; no time was left")
    assert remarks(head, replace(FACTS, budget=8.5), [SOLVED]) == []
    assert remarks(head, replace(FACTS, budget=7.5, trainable=False), [SOLVED]) == []
    assert remarks(head, replace(FACTS, budget=None), [SOLVED]) == []
    full, facts = Outcome({"top": {}}, {"phase": "top"}, (TOP,)), replace(FACTS, pretrained=False)
    stepped = EpochRecord(0, "full", 1, 500.0, train_top1=metrics.wilson(3, 32))
    (said,) = remarks(full, facts, [stepped])
    assert "5 min ended training after 32 of the 1,000 images of the first epoch" in said
    for more in (replace(stepped, train_top1=metrics.wilson(3, 1000)), replace(stepped, epoch=2)):
        assert remarks(full, facts, [more]) == []


def stepped(right: int, phase: int = 1, folds: int = 0, n: int = 400) -> EpochRecord:
    hits = history.pack(np.arange(n) < right)
    top1 = metrics.wilson(right, n)
    return EpochRecord(phase, "from stage1", 2, 4.0, 0.5, 0.5, top1, 1e-3, hits=hits, scaled_loss=0.9, folds=folds)


def outcome(phase: str = "head", stalled: tuple[str, ...] = (), interrupted: bool = False) -> Outcome:
    epoch = {"epoch": 2} if phase != "head" else {}
    return Outcome({}, {"phase": phase, **epoch}, (HEAD,), interrupted, stalled)


def test_what_auto_kept_and_why_is_one_plain_sentence() -> None:
    head = replace(SOLVED, val_top1=metrics.wilson(300, 400))
    right = "right for 75.0 % of 400 validation images"
    assert kept(FACTS, [head], outcome()) == f"kept: the head alone, {right}, as no time was left to train more"
    assert (
        kept(FACTS, [head, stepped(296)], outcome())
        == f"kept: the head alone, {right}, as training from stage1 came to 74.0 %"
    )
    assert kept(FACTS, [head, stepped(320)], outcome("from stage1")) == (
        "kept: epoch 2 of training from stage1, right for 80.0 % of 400 validation images, "
        "where the head alone has 75.0 %"
    )
    lost = kept(FACTS, [head], outcome(stalled=("from stage1",)))
    assert lost.endswith("as training from stage1 lost what the network knew")
    assert "Ctrl-C" in kept(FACTS, [head], outcome(interrupted=True))
    assert kept(replace(FACTS, trainable=False), [head], outcome()) == f"kept: the head, {right}"


def test_what_cross_validation_chose_is_compared_out_of_fold() -> None:
    facts = replace(FACTS, val_images=30)
    head = replace(SOLVED, val_top1=metrics.wilson(300, 400))
    folds, trained = stepped(320, folds=5), stepped(25, phase=2, n=30)
    assert kept(facts, [head, folds, trained], outcome("from stage1")) == (
        "kept: epoch 2 of training from stage1, right for 80.0 % of 400 images out of fold, "
        "where the head alone has 75.0 %"
    )
    no_better = kept(facts, [head, folds, trained], outcome())
    assert no_better.endswith("came to 80.0 % out of fold, and was no better when it was trained")
    assert kept(facts, [head, folds], outcome()).endswith("and could not be trained in the time")


def test_of_random_weights_the_epoch_is_said() -> None:
    facts = replace(FACTS, pretrained=False)
    only = replace(stepped(320, phase=0), name="full")
    found = kept(facts, [only], Outcome({}, {"phase": "full", "epoch": 2}, (TOP,)))
    assert found == "kept: epoch 2 of training full, right for 80.0 % of 400 validation images"
