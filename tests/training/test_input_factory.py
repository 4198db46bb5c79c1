"""What phases train on is made ready: probes, a budget that is over, and how familiar the images are."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topgraft.data.pixel_cache import open_pixels
from topgraft.data.samples import Sample, Unreadable
from topgraft.errors import CacheError
from topgraft.features.engines.base import EngineChoice
from topgraft.models.classifier import Classifier
from topgraft.models.registry import find_network
from topgraft.models.weights.load import load_network
from topgraft.settings import fields, verbs
from topgraft.strategies.facts import Facts, unfrozen
from topgraft.strategies.plan import Phase, table
from topgraft.training import input_factory
from topgraft.training.cost.budget import RemainingWork
from topgraft.training.cost.cache_decision import CacheDecision
from topgraft.training.cost.group_costs import GroupCost
from topgraft.training.head import Labeled
from topgraft.training.head.probes import probe
from topgraft.training.input_factory import Preparation
from topgraft.training.inputs import CachedActivations, PixelInputs
from topgraft.training.replay import Resolved

CHOICE = EngineChoice("torch", "fp32", "cpu", 4, threads=1)


def labels(count: int) -> Labeled:
    found = np.arange(count, dtype=np.int64) % 3
    return Labeled(np.zeros((count, 1), dtype=np.float32), found)


@pytest.mark.parametrize("val", [30, 240])
def test_a_probe_finds_where_the_signal_is(val: int) -> None:
    pair, random = (labels(120), labels(val)), np.random.default_rng(0)
    truth = np.concatenate([part.labels for part in pair])
    noise = [random.normal(size=(len(truth), 6)).astype(np.float32) for _ in range(3)]
    noise[1] += 4 * np.eye(6, dtype=np.float32)[truth]
    noise[2] += 1.5 * np.eye(6, dtype=np.float32)[truth]
    shares, answered = probe(dict(zip(("stem", "stage1", "stage2"), noise, strict=True)), pair, 3, 0)
    assert list(shares) == ["stem", "stage1", "stage2"]
    assert answered == (val if val >= 200 else 150)
    assert shares["stem"] < 0.5
    assert shares["stage1"] > 0.97
    assert shares["stem"] + 0.1 < shares["stage2"] < shares["stage1"]
    assert probe({"stage1": noise[1]}, pair, 3, 0) == ({"stage1": shares["stage1"]}, answered)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    network = load_network("efficientnet_lite0", input_size=32, classes=3)
    return Classifier(network.chain, network.spec).eval()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    return [
        Sample(str(n), n % 3, array=random.integers(0, 255, (32, 32, 3), dtype=np.uint8), digest=f"{n + 1:064x}")
        for n in range(12)
    ]


def ready(classifier: Classifier, samples: list[Sample], folder: Path, **given: Any) -> Preparation:
    asked = {"cache_dir": folder, "input_size": 32, "workers": 0, **given}
    chosen = fields.make(verbs.FitSettings, asked)
    return Preparation(classifier, samples, 8, chosen, Resolved(CHOICE, "fp32"))


def test_a_budget_that_is_over_cuts_no_features(
    classifier: Classifier, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ready(classifier, samples, tmp_path)
    whole, _ = found.features(False)
    assert capsys.readouterr().err == ""
    found.features(False, time.perf_counter())  # what the cache holds takes no time
    assert capsys.readouterr().err == ""
    computed, pooled = found.features(True, time.perf_counter())
    assert capsys.readouterr().err == (
        "base: the time is up after 4 of 12 images; the head is still fitted to all of them\n"
    )
    assert computed.decoded == len(computed.rows) == 12
    assert np.allclose(computed.rows, whole.rows, atol=1e-4)
    assert set(pooled) == set(classifier.groups) - {"head"}


def test_familiarity_is_how_sure_the_published_classifier_is(
    classifier: Classifier, samples: list[Sample], tmp_path: Path
) -> None:
    found = ready(classifier, samples, tmp_path)
    computed, pooled = found.features(True)
    assert list(pooled) == [name for name in classifier.groups if name != "head"]
    published = load_network("efficientnet_lite0", input_size=32)
    whole = Classifier(published.chain, published.spec).eval()
    pixels = open_pixels(samples[:8], classifier.spec, workers=0, keep=True, description="decode").kept
    assert pixels is not None
    with torch.inference_mode():
        expected = float(torch.softmax(whole(pixels), 1).max(1).values.mean())
    pair = Labeled(computed.rows[:8], np.arange(8) % 3)
    assert found._familiarity(pair) == pytest.approx(expected, abs=0.01)
    with torch.inference_mode():
        features = classifier.features(pixels).numpy()
    np.testing.assert_allclose(computed.rows[:8], features, atol=0.02 * np.abs(features).max())
    narrow = Labeled(computed.rows[:8, :7], pair.labels)
    assert found._familiarity(narrow) is None


def test_a_resumed_fit_decides_about_caching_as_it_did(
    classifier: Classifier, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = tuple(classifier.groups)
    phase = Phase("from stage7", unfrozen(groups, "stage7"), 2, 1e-4)
    rows = table(groups, phase.rules)
    first = ready(classifier, samples, tmp_path / "one")
    untouched = ready(classifier, samples, tmp_path / "one")
    untouched.remember(first.state())
    assert untouched.state() == first.state()
    first.material(phase, rows)
    found = json.loads(json.dumps({**first.state(), "unseen": [[3, "is cut short"]]}, sort_keys=True))
    again = ready(classifier, samples, tmp_path / "other")
    again.remember(found)
    assert [entry.name for entry in again.unreadable()] == [samples[3].name]
    again.features(False)  # what that takes now changes nothing
    again.material(phase, rows)
    assert again.decisions == first.decisions
    # The other way round, so that it cannot have been chance; and what was decided stays decided.
    dear = {**found, "costs": [[name, 1.0, *rest] for name, _, *rest in found["costs"]], "decode": 1.0, "engine": 1e-6}
    fresh, decided = {**dear, "decisions": []}, [{**found["decisions"][0], "cached": True, "keys": ["another"]}]
    for change, cached in (
        (fresh, True),
        ({**fresh, "free": 0}, False),
        ({**dear, "free": 0, "decisions": decided}, True),
    ):
        other = ready(classifier, samples, tmp_path / "third")
        other.remember(change)
        capsys.readouterr()
        other.material(phase, rows)
        assert other.decisions[phase.name]["cached"] == cached
        assert ("cached again" in capsys.readouterr().err) == (change["decisions"] == decided), "another key"


def test_a_phase_gets_activations_or_pixels_as_decided(
    classifier: Classifier, samples: list[Sample], tmp_path: Path
) -> None:
    groups = tuple(classifier.groups)
    tried = Phase("from stage7", unfrozen(groups, "stage7"), 2, 1e-4)
    rows = table(groups, tried.rules)
    for asked, kind in (("on", CachedActivations), ("off", PixelInputs)):
        found = ready(classifier, samples, tmp_path, boundary_cache=asked)
        material = found.material(tried, rows)
        assert type(material) is kind
        assert len(next(iter(material.batches(np.arange(8), 8, 1)))[0]) == 8
    whole = dict.fromkeys(groups, 1.0)
    assert type(ready(classifier, samples, tmp_path, boundary_cache="on").material(tried, whole)) is PixelInputs
    # Tried in folds and trained, one name has two decisions; each is replayed as it was.
    found = ready(classifier, samples, tmp_path)
    found.resolved = replace(found.resolved, caching={"from stage7": False, "from stage7, 3 folds": True})
    assert type(found.material(tried, rows)) is PixelInputs
    assert type(found.material(replace(tried, folds=3), rows)) is CachedActivations
    assert {name: entry["cached"] for name, entry in found.decisions.items()} == found.resolved.caching


def test_versions_of_what_else_computes_are_in_all_keys(
    classifier: Classifier, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = replace(find_network("efficientnet_lite0"), libraries=("safetensors",))
    monkeypatch.setattr(input_factory, "find_network", lambda name: record)
    found = ready(classifier, samples, tmp_path)
    found.features(True)
    found.features(False)
    found.decisions["top"] = {"keys": []}
    found._from_cache("top", CacheDecision("stage6", "stage7", True, 1, 0, (0.0, 0.0), ""), in_folds=False)
    keys = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("key.json")]
    assert sorted(key["boundary"] for key in keys) == ["all, pooled", "stage6", "stage6", "stage7"]
    assert all("safetensors" in key["versions"] for key in keys)
    assert all("numpy" in key["versions"] for key in keys if key["boundary"] == "stage6")


def test_for_a_gpu_a_thread_reads_ahead_and_views_that_fail_are_named(
    classifier: Classifier, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {(0, 3): "is cut short"}
    made = CachedActivations(torch.zeros(0), "stage6", (), None, failed=failed)  # type: ignore[arg-type]
    monkeypatch.setattr(input_factory, "fill", lambda *given: made)
    decision = CacheDecision("stage6", "stage7", True, 0, 0, (0.0, 0.0), "")
    for device in ("cpu", "cuda"):
        found = ready(classifier, samples, tmp_path)
        found.resolved = Resolved(replace(CHOICE, device=device), "fp32")
        found.decisions["top"] = {"keys": []}
        material = found._from_cache("top", decision, in_folds=False)
        assert isinstance(material, CachedActivations)
        assert material.ahead == (device == "cuda")
        assert found.unreadable() == (Unreadable(samples[3].name, "is cut short"),)


@pytest.mark.parametrize("folds", [0, 5])
def test_where_the_cache_cannot_be_kept_a_phase_continues_with_pixels(
    classifier: Classifier, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    def full(*given: Any, **more: Any) -> Any:
        raise CacheError("the disk is full")

    monkeypatch.setattr(input_factory, "fill", full)
    found = ready(classifier, samples, tmp_path, boundary_cache="on")
    groups = tuple(classifier.groups)
    phase = Phase("top", unfrozen(groups, "stage7"), 2, 1e-4, folds=folds)
    assert isinstance(found.material(phase, table(groups, phase.rules)), PixelInputs)
    (decision,) = found.decisions.values()
    assert (decision["cached"], decision["why"]) == (False, "the disk is full")


def test_a_plan_tells_seconds_for_every_group(classifier: Classifier, samples: list[Sample], tmp_path: Path) -> None:
    found = ready(classifier, samples, tmp_path)
    found._costs = {name: GroupCost(1.0, 2.0, 9) for name in classifier.groups}
    found._store, found._free = 1e-12, 1 << 40
    pair = Labeled(np.zeros((8, 1280), dtype=np.float32), np.arange(8) % 3), labels(4)
    facts = found.plan(Facts(8, 4, 3, epochs=5), pair, {}, 0.0, RemainingWork())
    base = [name for name in classifier.groups if name != "head"]
    assert list(facts.epoch_seconds) == base
    # Eight images forward and back, four forward, through all groups.
    assert facts.epoch_seconds[base[0]] == pytest.approx((8 * 3 + 4) * len(classifier.groups), rel=0.01)
    assert facts.setup_seconds[base[0]] == 0
    seconds = [facts.epoch_seconds[name] for name in base]
    assert seconds[0] > seconds[-1]
    assert facts.familiarity is None
    assert facts.probes == {}
    # Tried in folds, all twelve images are cached, plain and in three views, before the first step.
    decision = found._decide(tuple(classifier.groups), "stage7", 5, facts.folds)
    assert decision.cached
    below = base.index("stage7")
    assert facts.setup_seconds["stage7"] == pytest.approx(12 * 4 * below, rel=0.01)
    assert facts.epoch_seconds["stage7"] == pytest.approx((8 * 3 + 4) * (len(base) - below + 1), rel=0.01)
    more = found.plan(Facts(8, 4, 3, epochs=5), pair, {}, 0.0, RemainingWork(images=100, networks=2, solves=3))
    assert more.reserve - facts.reserve == pytest.approx(100 * len(base) + 2 * 2.5)
    assert (facts.solves, more.solves) == (0, 3)
