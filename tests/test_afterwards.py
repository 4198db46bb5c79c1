"""What was forgotten: exactly nothing where the base was not touched, and a number where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topgraft import settings
from topgraft.afterwards import Past, as_config, forgotten, never_touched, open_past, original_network
from topgraft.classifier import Classifier
from topgraft.engines import EngineChoice
from topgraft.errors import UsageError
from topgraft.weights import LEARNT, RANDOM, Network, load_network

CHOICE = EngineChoice("torch", "fp32", "cpu", 4, threads=1)


@pytest.fixture
def opened(tmp_path: Path) -> tuple[settings.FitSettings, Classifier, Network]:
    chosen = settings.make(settings.FitSettings, {"input_size": 64, "cache_dir": tmp_path, "workers": 0})
    network = load_network("efficientnet_lite0", input_size=64, classes=3)
    return chosen, Classifier(network.chain, network.spec).eval(), network


def features(classifier: Classifier) -> np.ndarray:
    pixels = torch.randint(0, 256, (12, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found: np.ndarray = classifier.features(pixels).numpy()
    return found


def test_a_head_has_forgotten_exactly_nothing() -> None:
    found = never_touched("efficientnet_lite0", "imagenet")
    assert found is not None
    assert found.lost == 0.0
    assert never_touched("x", RANDOM) is never_touched("x", LEARNT) is None
    config = as_config(found, None)
    assert config["trade"] is None
    assert config["forgetting"]["lost"] == 0.0
    assert as_config(None, None) == {"forgetting": None, "trade": None}


def test_a_base_that_is_as_published_has_lost_nothing_and_a_moved_one_is_compared(
    opened: tuple[settings.FitSettings, Classifier, Network],
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
    without = forgotten(chosen, classifier, past, CHOICE, None, after)
    assert without.lost is None
    assert as_config(found, None)["forgetting"]["short"]


@pytest.mark.parametrize("limit", [{"forget_at_most": 3.0}, {}])
def test_nothing_can_be_forgotten_by_random_weights(
    opened: tuple[settings.FitSettings, Classifier, Network], limit: dict[str, Any]
) -> None:
    chosen, classifier, network = opened
    fresh = replace(network, weights=RANDOM)
    asked = replace(chosen, weights=RANDOM, **limit)
    if limit:
        with pytest.raises(UsageError, match="no original task that could be forgotten"):
            open_past(asked, classifier, fresh, None)
    else:
        assert open_past(asked, classifier, fresh, None) == Past()
