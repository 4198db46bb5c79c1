"""Settings in, a replayed run's choices among them; a run's config out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fitted import CHOICE, TINY, write_weights

import topgraft as tg
from topgraft.data.samples import Sample, Splits
from topgraft.errors import UsageError, WeightsError
from topgraft.models.registry import BACKBONES
from topgraft.models.weights.load import load_network
from topgraft.settings import conflicts, fields, verbs
from topgraft.strategies.plan import Phase, Rule
from topgraft.training import replay, resume, run_config
from topgraft.training.loop import Outcome

RECORDED = replay.Resolved(CHOICE, "fp32")
EXTRA: dict[str, Any] = {"caching": [], "auto": None, "resumed_from": None, "remarks": []}


def saved(folder: Path, **choices: Any) -> Path:
    """A run's config.json with the settings that were chosen and a recorded engine."""
    made = fields.make(verbs.FitSettings, {"engine": "fastest", **choices})
    config = {"settings": fields.as_json(made), "resolved": {"engine": asdict(CHOICE), "training": "fp32"}}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_without_a_config_the_fixed_rule_decides() -> None:
    chosen, resolved = replay.fit_settings({"seed": 3, "engine": "torch", "precision": "fp32"})
    assert chosen.seed == 3
    assert (resolved.engine.name, resolved.engine.precision, resolved.training) == ("torch", "fp32", "fp32")


def test_a_replayed_run_has_its_settings_and_its_measured_choice(tmp_path: Path) -> None:
    path = saved(tmp_path, seed=5, class_weight="balanced", limit=7)
    for given in (path, tmp_path):
        chosen, recorded = replay.fit_settings({"config": given})
        assert (chosen.seed, chosen.class_weight, chosen.limit) == (5, "balanced", 7)
        assert recorded == RECORDED


def test_what_is_typed_wins_over_what_was_saved(tmp_path: Path) -> None:
    path = saved(tmp_path, seed=5, limit=7, engine="auto")
    chosen, recorded = replay.fit_settings({"config": path, "seed": 6})
    assert (chosen.seed, chosen.limit, recorded) == (6, 7, RECORDED)
    for forced in ({"engine": "torch"}, {"precision": "fp32"}, {"device": "cpu"}):
        assert replay.fit_settings({"config": path, **forced})[1] != RECORDED


OWN = [{"epochs": 1, "lr": 1e-4, "rules": {"*": 1}}]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"unfreeze_from": "stage5"},
            "--unfreeze-from belongs to partial, and the strategy is auto; add --strategy partial",
        ),
        ({"unfreeze_from": "stage5", "strategy": "full"}, "the strategy is full"),
        ({"budget": "5m", "strategy": "head"}, "--budget is what auto keeps to, and the strategy is head"),
        ({"budget": "5m", "rules": OWN}, "the strategy is rules"),
        ({"rules": OWN, "strategy": "full"}, "--strategy full has others"),
        ({"rules": OWN, "lr": 0.1}, "its own epochs and lr"),
        ({"rules": OWN, "epochs": 3}, "its own epochs and lr"),
        ({"lr": 0.1, "find_lr": True}, "give one of them"),
        ({"strategy": "head", "lr": 0.1}, "--lr would have no effect: head takes no steps"),
        (
            {"strategy": "head", "mixup": 0.2, "unfreeze_from": None, "views": 2},
            "--mixup, --views would have no effect",
        ),
        ({"strategy": "full", "views": 2}, "--views would have no effect: full freezes nothing"),
        ({"weights": "random", "l2_sp": 0.1}, "--l2-sp pulls to the published weights"),
        ({"views": 2, "augment": "none"}, "--augment none makes none"),
    ],
)
def test_what_would_have_no_effect_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        replay.fit_settings(given)


@pytest.mark.parametrize(
    "given",
    [
        {"unfreeze_from": "stage5", "strategy": "partial"},
        {"budget": "5m"},
        {"rules": OWN, "strategy": "rules", "find_lr": True},
        {"unfreeze_from": None, "budget": None, "lr": 0.1, "find_lr": False},
        {"strategy": "head", "mixup": 0.0, "views": None, "boundary_cache": "auto"},
        {"strategy": "head", "class_weight": "balanced", "refit": True},
        {"l2_sp": 0.1, "views": 2},
    ],
)
def test_what_has_an_effect_is_taken(given: dict[str, Any]) -> None:
    assert replay.fit_settings(given)[0] == fields.make(verbs.FitSettings, given)


def test_a_config_with_the_former_name_of_an_option_is_replayed(tmp_path: Path) -> None:
    path = saved(tmp_path, unfreeze_from="stage5", strategy="partial")
    path.write_text(path.read_text().replace('"unfreeze_from"', '"from_"'))
    assert replay.fit_settings({"config": path})[0].unfreeze_from == "stage5"


def test_a_fit_that_began_with_the_former_name_of_an_option_is_resumed() -> None:
    asked = fields.make(verbs.FitSettings, {"unfreeze_from": "stage5", "strategy": "partial"})
    before = {**fields.as_json(asked), "where": "photos"}
    before["from_"] = before.pop("unfreeze_from")
    resume.require_as_before(Path("runs/a"), before, asked, "photos")
    before["from_"] = "stage6"
    with pytest.raises(UsageError, match="--unfreeze-from: stage6 then, stage5 now"):
        resume.require_as_before(Path("runs/a"), before, asked, "photos")


def test_what_a_saved_run_had_gives_way_to_what_is_typed(tmp_path: Path) -> None:
    path = saved(tmp_path, unfreeze_from="stage5", strategy="partial", find_lr=True)
    chosen, _ = replay.fit_settings({"config": path, "strategy": "full", "lr": 0.1})
    assert (chosen.strategy, chosen.find_lr, chosen.lr) == ("full", False, 0.1)
    (tmp_path / "own").mkdir()
    path = saved(tmp_path / "own", rules=OWN)
    assert conflicts.strategy_name(replay.fit_settings({"config": path, "strategy": "full"})[0]) == "full"
    assert conflicts.strategy_name(replay.fit_settings({"config": path})[0]) == "rules"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}}', '{"settings": {"seed": "x"}}', "null"])
def test_what_is_no_config_is_wrong_usage(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json is not a config\.json of a run"):
        replay.fit_settings({"config": tmp_path})


def test_a_missing_config_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config takes the config\.json of a run"):
        replay.fit_settings({"config": tmp_path / "no.json"})


def test_a_setting_of_another_version_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path)
    config = json.loads(path.read_text())
    config["settings"]["color"] = "red"
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="there is no setting named color"):
        replay.fit_settings({"config": path})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "abacus"}, "was run on what is not here: there is no engine 'abacus'"),
        ({"precision": "fp8"}, "was run on what is not here: there is no precision 'fp8'"),
        ({"device": "tpu"}, "was run on what is not here: there is no device 'tpu'.*Add --engine auto"),
        ({"threads": "2"}, "must be whole numbers"),
        ({"batch_size": 0}, "must be whole numbers"),
    ],
)
def test_a_recorded_engine_that_is_not_here_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = saved(tmp_path)
    config = json.loads(path.read_text())
    config["resolved"]["engine"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        replay.fit_settings({"config": path})
    if "threads" not in change and "batch_size" not in change:
        assert replay.fit_settings({"config": path, "engine": "auto"})[1] != RECORDED


def test_a_config_says_all_that_a_run_was_made_of(tmp_path: Path) -> None:
    chosen = fields.make(verbs.FitSettings, {"seed": 4, "cache_dir": tmp_path})
    splits = Splits("photos", ("a", "b"), (Sample("1", 0),), (Sample("2", 0),), (), frozenset({"val"}), notes=("so",))
    outcome = Outcome({"head": {"stem": None, "head": 1.0}}, {"by": "validation", "images": 200, "strength": 0.1})
    network = load_network("efficientnet_lite0", classes=2)
    config = run_config.run_config(chosen, splits, network, outcome, RECORDED, EXTRA)
    assert json.loads(json.dumps(config)) == config
    assert config["backbone"]["name"] == "efficientnet_lite0"
    assert len(config["backbone"]["weights_sha256"]) == 64
    assert config["resolved"]["engine"] == asdict(CHOICE)
    assert config["data"] == {
        "where": "photos", "images": {"train": 1, "val": 1, "test": 0}, "split_seed": 0, "made": ["val"],
    }  # fmt: skip
    assert config["notes"] == ["so"]
    refit = fields.make(verbs.FitSettings, {"refit": True})
    notes = run_config.run_config(refit, splits, network, outcome, RECORDED, EXTRA)["notes"]
    assert [note.split(" ")[0] for note in notes] == ["so", "after"]
    assert {"topgraft", "python", "torch", "pillow", "numpy", "engine"} == set(config["versions"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert replay.fit_settings({"config": tmp_path}) == (
        replace(chosen, config=tmp_path),
        replace(RECORDED, weights=network.sha256),
    )


def test_a_lowered_rate_is_what_a_replay_starts_with(tmp_path: Path) -> None:
    chosen = fields.make(verbs.FitSettings, {"strategy": "full", "weights": "random"})
    splits = Splits("photos", ("a", "b"), (Sample("1", 0),), (Sample("2", 0),), ())
    outcome = Outcome({"full": {"stem": 1.0}}, {"by": "validation", "images": 9, "epoch": 2, "lr": 1e-4})
    network = load_network("efficientnet_lite0", "random", classes=2, input_size=32)
    config = run_config.run_config(chosen, splits, network, outcome, RECORDED, EXTRA)
    (tmp_path / "config.json").write_text(json.dumps(config))
    replayed, _ = replay.fit_settings({"config": tmp_path})
    assert (replayed.lr, replayed.strategy, replayed.weights) == (1e-4, "full", "random")
    usual = Outcome({"full": {"stem": 1.0}}, {"by": "validation", "images": 9, "epoch": 2, "lr": 1e-3})
    assert run_config.run_config(chosen, splits, network, usual, RECORDED, EXTRA)["settings"]["lr"] is None


def test_a_file_of_weights_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    chosen = fields.make(verbs.FitSettings, {"weights": "mine.pth"})
    splits = Splits("photos", ("a", "b"), (Sample("1", 0),), (Sample("2", 0),), ())
    outcome = Outcome({"head": {"stem": None}}, {"by": "validation", "images": 9, "strength": 0.1})
    network = load_network("efficientnet_lite0", classes=2)
    config = run_config.run_config(chosen, splits, network, outcome, RECORDED, EXTRA)
    assert config["settings"]["weights"] == str((tmp_path / "mine.pth").resolve())


def test_a_replay_with_other_weights_is_refused_unless_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    file = tmp_path / "mine.safetensors"
    before = write_weights(file, classes=5)
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    photos = tg.open_images((images, np.arange(40) % 2))
    given = {"cache_dir": tmp_path / "cache", "workers": 0}
    model = tg.fit(photos, backbone="tiny", weights=str(file), strategy="head", engine="torch", **given)
    (tmp_path / "config.json").write_text(json.dumps(model.config))
    assert replay.fit_settings({"config": tmp_path})[1].weights == before
    assert replay.fit_settings({"config": tmp_path, "precision": "fp32"})[1].weights == before
    tg.fit(photos, config=tmp_path, **given)
    after = write_weights(file, classes=5, seed=1)
    said = rf"mine\.safetensors are not those .* begins with {after[:12]}, not with {before[:12]}; .* give --weights"
    with pytest.raises(WeightsError, match=said):
        tg.fit(photos, config=tmp_path, **given)
    rerun = tg.fit(photos, config=tmp_path, weights=str(file), **given)
    assert rerun.config["backbone"]["weights_sha256"] == after


def test_another_network_may_have_any_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    config = json.loads(path.read_text()) | {"backbone": {"weights_sha256": "0" * 64}}
    path.write_text(json.dumps(config))
    assert replay.fit_settings({"config": path, "seed": 1})[1].weights == "0" * 64
    assert replay.fit_settings({"config": path, "backbone": "vgg11", "engine": "torch"})[1].weights == ""


def test_the_settings_of_a_run_can_be_given_as_they_were_saved() -> None:
    """Of one with phases of its own, and of one whose rate was measured."""
    splits = Splits("photos", ("a", "b"), (Sample("1", 0),), (Sample("2", 0),), ())
    outcome = Outcome({"x": {"stem": 1.0}}, {"by": "validation", "images": 9, "epoch": 2, "lr": 2e-4})
    network = load_network("efficientnet_lite0", classes=2)
    for given in ({"rules": OWN, "find_lr": True}, {"strategy": "full", "find_lr": True}):
        chosen = fields.make(verbs.FitSettings, given)
        saved_as = run_config.run_config(chosen, splits, network, outcome, RECORDED, EXTRA)["settings"]
        again, _ = replay.fit_settings({**saved_as, "lr": None} if "rules" in given else saved_as)
        assert conflicts.strategy_name(again) == conflicts.strategy_name(chosen)


def test_a_range_test_that_is_asked_for_anew_is_made(tmp_path: Path) -> None:
    path = saved(tmp_path)
    config = json.loads(path.read_text())
    config["resolved"]["phases"] = [asdict(Phase("full", (Rule("*", 1.0),), 3, 1e-4))]
    path.write_text(json.dumps(config))
    assert replay.fit_settings({"config": path})[1].phases
    assert not replay.fit_settings({"config": path, "find_lr": True})[1].phases
