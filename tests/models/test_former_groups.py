"""What was written when groups had other names is still read, or refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.fitted import CLASSES, fitted
from torch import nn

import topgraft as tg
from topgraft.artifacts import save
from topgraft.data.samples import Splits
from topgraft.evaluation.results import FittedClassifier
from topgraft.models import registry
from topgraft.models.classifier import Classifier
from topgraft.models.former_groups import FORMER, in_checkpoint, translated, translated_config
from topgraft.models.weights.load import Network, load_network
from topgraft.settings import fields, verbs
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import table
from topgraft.training import checkpoint, replay
from topgraft.training.checkpoint import Checkpoint
from topgraft.training.resume import saved_state

NAME = "resnet50_notes"
GROUPS = ("stem", "stage2", "stage3", "stage4", "stage5", "head")
WAS = {today: then for then, today in FORMER[NAME].items()}
# What `--from stage3` was: the layers res4a and up trained.
FORMER_TABLE = {"stem": None, "stage1": None, "stage2": None, "stage3": 0.5, "stage4": 1.0, "head": 1.0}
TABLE = {"stem": None, "stage2": None, "stage3": None, "stage4": 0.5, "stage5": 1.0, "head": 1.0}
RULES = {"head": 1.0, "stage4": 1.0, "stage[34]": 0.5, "*": None}


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(NAME, "random", input_size=32, classes=len(CLASSES))


@pytest.fixture(scope="module")
def former(network: Network) -> FittedClassifier:
    """A model with the names that its groups had then, in its tensors and in its config."""
    model = fitted()
    chain = {WAS[name]: module for name, module in network.chain.items()}
    phase = {
        "name": "partial from stage3", "epochs": 1, "lr": 1e-3,
        "rules": [{"pattern": pattern, "lr_multiplier": multiplier} for pattern, multiplier in RULES.items()],
    }  # fmt: skip
    config = {
        **model.config,
        "backbone": {**model.config["backbone"], "name": NAME, "build": asdict(network.build)},
        "phases": {"partial from stage3": FORMER_TABLE},
        "selection": {"epoch": 1, "phase": "partial from stage3", "by": "validation", "images": 5},
        "settings": {"from_": "stage3", "data_dir": "photos/stage3", "seed": 0},
        "resolved": {**model.config["resolved"], "phases": [phase]},
    }
    history = (EpochRecord(0, "partial from stage3", 1, 0.5),)
    classifier = Classifier(chain, network.spec).eval()
    return replace(model, classifier=classifier, spec=network.spec, config=config, history=history)


def test_an_artifact_is_read_by_the_names_of_today(former: FittedClassifier, network: Network, tmp_path: Path) -> None:
    save.save(former, tmp_path / "run")
    found = tg.load(tmp_path / "run")
    assert tuple(found.classifier.groups) == GROUPS
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(found.classifier(pixels), former.classifier(pixels))
    assert found.config["phases"] == {"partial from stage4": TABLE}
    assert found.config["selection"]["phase"] == found.history[0].name == "partial from stage4"
    assert found.config["settings"] == {"unfreeze_from": "stage4", "data_dir": "photos/stage3", "seed": 0}
    (phase,) = replay.recorded_phases(found.config)
    assert table(GROUPS, phase.rules) == TABLE
    save.save(found, tmp_path / "again")
    assert tg.load(tmp_path / "again").config["phases"] == {"partial from stage4": TABLE}, "once, and not twice"


def test_a_file_of_weights_is_read_by_the_names_of_today(
    former: FittedClassifier, network: Network, tmp_path: Path
) -> None:
    save_file(former.classifier.groups.state_dict(), tmp_path / "former.safetensors")
    found = nn.ModuleDict(load_network(NAME, tmp_path / "former.safetensors").chain).state_dict()
    for name, tensor in nn.ModuleDict(network.chain).state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_a_replayed_run_trains_the_layers_that_it_trained(tmp_path: Path) -> None:
    rules = [{"name": "top", "epochs": 1, "lr": 1e-4, "rules": RULES}]
    made = fields.make(verbs.FitSettings, {"backbone": NAME, "weights": "random", "rules": rules})
    config: dict[str, Any] = {
        "backbone": {"name": NAME},
        "phases": {"top": FORMER_TABLE},
        "settings": fields.as_json(made),
        "resolved": {
            "engine": asdict(replay.resolve(made, registry.find_network(NAME)).engine),
            "training": "fp32",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    chosen, _ = replay.fit_settings({"config": tmp_path})
    assert chosen.rules is not None
    assert table(GROUPS, chosen.rules[0].rules) == TABLE


def test_what_has_the_names_of_today_is_left_alone() -> None:
    tensors = {f"{group}.weight": number for number, group in enumerate(GROUPS)}
    assert translated(NAME, tensors) == tensors
    config = {"backbone": {"name": NAME}, "phases": {"from stage2": dict.fromkeys(GROUPS)}, "resolved": {}}
    assert translated_config(config) == config
    others = {"stage1.weight": 1, "stage2.weight": 2}
    assert translated("resnet50", others) == others
    assert not in_checkpoint("resnet50", others, {})


def test_an_unfinished_fit_is_not_resumed(tmp_path: Path) -> None:
    tensors = {"best/stage1.2a.branch.res2a_branch2a.weight": torch.zeros(1)}
    checkpoint.write(tmp_path / "checkpoint.safetensors", Checkpoint(tensors, {"settings": {}}))
    chosen = fields.make(
        verbs.FitSettings, {"backbone": NAME, "weights": "random", "resume": True, "checkpoint": tmp_path}
    )
    with pytest.raises(tg.CheckpointError, match=r"former names .*res2a was in stage1.*--overwrite"):
        saved_state(chosen, Splits("photos", CLASSES, (), (), ()))


def test_a_path_called_as_a_group_was_does_not_stop_a_resumed_fit() -> None:
    state = {"settings": {"where": "photos/stage1"}, "taken": [{"name": "from stage2"}]}
    assert not in_checkpoint(NAME, ["best/stage2.2a.weight"], state)
    assert in_checkpoint(NAME, [], {"taken": [{"name": "from stage1"}]})
