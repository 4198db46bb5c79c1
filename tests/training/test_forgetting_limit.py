"""What was forgotten: exactly nothing where the base was not touched, and a number where it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import topgraft as tg
from topgraft.data.samples import Sample, Splits
from topgraft.errors import UsageError
from topgraft.features.engines.base import EngineChoice
from topgraft.models.classifier import Classifier
from topgraft.models.weights.load import Network, load_network
from topgraft.models.weights.names import LEARNED, RANDOM
from topgraft.settings import fields, verbs
from topgraft.training import fit, forgetting_limit
from topgraft.training.cost.budget import RemainingWork
from topgraft.training.forgetting_limit import (
    Past,
    as_config,
    forgotten,
    later,
    never_touched,
    open_past,
    original_network,
)

CHOICE = EngineChoice("torch", "fp32", "cpu", 4, threads=1)


@pytest.fixture
def opened(tmp_path: Path) -> tuple[verbs.FitSettings, Classifier, Network]:
    chosen = fields.make(verbs.FitSettings, {"input_size": 64, "cache_dir": tmp_path, "workers": 0})
    network = load_network("efficientnet_lite0", input_size=64, classes=3)
    return chosen, Classifier(network.chain, network.spec).eval(), network


NOTHING = Splits("nowhere", ("a", "b"), (), (), ())

images = torch.randint(0, 256, (12, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def features(classifier: Classifier) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = classifier.features(images).numpy()
    return found


def test_a_head_has_forgotten_exactly_nothing() -> None:
    found = never_touched("efficientnet_lite0", "imagenet")
    assert found is not None
    assert found.lost == 0.0
    assert never_touched("x", RANDOM) is never_touched("x", LEARNED) is None
    config = as_config(found, None)
    assert config["trade"] is None
    assert config["forgetting"]["lost"] == 0.0
    assert as_config(None, None) == {"forgetting": None, "trade": None}


def test_a_base_that_is_as_published_has_lost_nothing_and_a_moved_one_is_compared(
    opened: tuple[verbs.FitSettings, Classifier, Network],
) -> None:
    chosen, classifier, network = opened
    past = Past(original_network(chosen, classifier, network))
    before = features(classifier)
    assert forgotten(chosen, classifier, past, CHOICE, before, before).lost == 0.0
    with torch.no_grad():
        for parameter in classifier.groups["stage7"].parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = features(classifier)
    found = forgotten(chosen, classifier, past, CHOICE, before, after)
    assert found.own is not None
    assert found.own.agreement is not None
    assert found.lost == pytest.approx(100 * (1 - found.own.agreement.value))
    assert found.lost > 0
    own = [Sample(str(n), 0, array=images[n].numpy(), digest=f"{n + 1:064x}") for n in range(len(images))]
    without = forgotten(chosen, classifier, past, CHOICE, None, after, own)
    assert without.own is not None
    assert without.own.n == len(images)
    assert without.lost is not None
    assert as_config(found, None)["forgetting"]["short"]


@pytest.mark.parametrize("limit", [{"forget_at_most": 3.0}, {}])
def test_nothing_can_be_forgotten_by_random_weights(
    opened: tuple[verbs.FitSettings, Classifier, Network], limit: dict[str, Any]
) -> None:
    chosen, classifier, network = opened
    fresh = replace(network, weights=RANDOM)
    asked = replace(chosen, weights=RANDOM, **limit)
    if limit:
        with pytest.raises(UsageError, match="no original task that could be forgotten"):
            open_past(asked, classifier, fresh, NOTHING, None)
    else:
        assert open_past(asked, classifier, fresh, NOTHING, None) == Past()


def test_too_few_images_to_limit_what_is_forgotten_are_said_before_the_work(
    opened: tuple[verbs.FitSettings, Classifier, Network],
) -> None:
    chosen, classifier, network = opened
    limited = replace(chosen, forget_at_most=3.0)
    few = replace(NOTHING, val=(Sample("one", 0, digest="1"), Sample("its copy", 0, digest="1")))
    with pytest.raises(UsageError, match=r"^1 different judging images are too few .* Give --source with more$"):
        open_past(limited, classifier, network, few, None)
    with pytest.raises(UsageError, match=r"^0 different judging images are too few"):
        open_past(limited, classifier, network, NOTHING, None)
    more = replace(few, val=(*few.val, Sample("another", 1, digest="2")))
    assert open_past(limited, classifier, network, more, None).original is not None
    assert open_past(chosen, classifier, network, NOTHING, None) == Past()


def test_a_budget_is_told_what_comes_after_training(opened: tuple[verbs.FitSettings, Classifier, Network]) -> None:
    chosen, classifier, network = opened
    samples = tuple(Sample(str(n), 0) for n in range(40))
    splits = Splits("photos", ("a",), samples[:20], samples[20:30], ())
    past = Past(original_network(chosen, classifier, network), samples[30:37])
    assert later(Past(), splits, chosen) == RemainingWork()
    assert later(past, splits, chosen) == RemainingWork(images=14, networks=2)
    limited = replace(chosen, forget_at_most=1.0)
    # The published base, five shares of the tuning, and the chosen one on validation.
    assert later(past, splits, limited) == RemainingWork(6 * 37 + 10, 7, 6)
    assert later(replace(past, source=()), splits, limited) == RemainingWork(6 * 30 + 10, 7, 6)


STEPS = {"rules": [{"name": "top", "epochs": 1, "lr": 1e-4, "rules": {"head": 1, "stage7": 1, "*": "frozen"}}]}
QUICK = {"input_size": 32, "workers": 0, "engine": "torch", "boundary_cache": "off", "limit": 60, **STEPS}


class Stop:
    """Ctrl-C at the first calls of a function; the later ones are as they were."""

    def __init__(self, real: Any, times: int = 1) -> None:
        self.real, self.left = real, times

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self.left:
            self.left -= 1
            raise KeyboardInterrupt
        return self.real(*given, **named)


def test_ctrl_c_while_what_is_forgotten_is_measured_leaves_the_artifact_and_resume_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {**QUICK, "cache_dir": tmp_path, "forget_at_most": 5.0, "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(forgetting_limit, "limit_forgetting", Stop(forgetting_limit.limit_forgetting))
        stopped = tg.fit("digits", **asked)
    assert stopped.config["finished"] is False
    assert stopped.config["trade"] is None
    assert any("--forget-at-most is not met" in note for note in stopped.config["notes"])
    ended = tg.fit("digits", **asked, resume=True)
    assert ended.config["finished"] is True
    assert ended.config["trade"]["at_most"] == 5.0
    assert [record.val_loss for record in ended.history] == [record.val_loss for record in stopped.history]


def test_ctrl_c_while_validating_is_heard_after_it_and_a_second_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {**QUICK, "cache_dir": tmp_path, "source": None}
    for times in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(fit, "validate", Stop(fit.validate, times))
            if times == 2:
                with pytest.raises(KeyboardInterrupt):
                    tg.fit("digits", **asked)
                continue
            model = tg.fit("digits", **asked)
        assert model.config["finished"] is False
        assert model.validation.metrics.n > 0
        assert model.config["forgetting"] is None, "nothing that takes time is begun after a Ctrl-C"


def test_looking_back_has_the_recorded_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    real = forgetting_limit.forgotten

    def spy(*given: Any) -> Any:
        found.append(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(forgetting_limit, "forgotten", spy)
    model = tg.fit("digits", **QUICK, cache_dir=tmp_path)
    ambient = torch.get_num_threads()
    config = json.loads(json.dumps(model.config))
    config["resolved"]["engine"]["threads"] = ambient + 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    tg.fit("digits", config=tmp_path / "config.json", cache_dir=tmp_path)
    assert found == [config["resolved"]["engine"]["threads"] - 1, ambient + 1]
    assert torch.get_num_threads() == ambient
