"""What holds for every baseline: it is described as a network is, and goes the same way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from topgraft.features.engines import ENGINES, choose
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES, BASELINES, find_network
from topgraft.models.spec import Backbone, Build, random_chain
from topgraft.models.weights.load import load_network
from topgraft.models.weights.names import LEARNED
from topgraft.strategies import STRATEGIES
from topgraft.strategies.facts import HEAD, Facts
from topgraft.training.head_phase import SOLVERS

CLASSES = 5

every_baseline = pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)


def some_pixels(n: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def built(baseline: Backbone, size: int = 64, seed: int = 0) -> Classifier:
    chain = random_chain(baseline, Build(input_size=size, classes=CLASSES), seed)
    return Classifier(chain, baseline.untrained).eval()


@every_baseline
def test_the_record_is_complete(baseline: Backbone) -> None:
    assert find_network(baseline.name) is BASELINES[baseline.name] is baseline
    assert baseline.name not in BACKBONES
    assert baseline.solver in SOLVERS
    assert baseline.learn is not None
    assert not baseline.weights
    assert "https://" in baseline.paper
    if baseline.demand is not None:
        kind = ENGINES[baseline.demand.engine]
        assert baseline.demand.device in kind.devices()
        assert baseline.demand.precision in kind.precisions(baseline.demand.device)


@every_baseline
@pytest.mark.parametrize("size", [32, 33, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_a_chain_at_any_size(baseline: Backbone, size: int, channels: int) -> None:
    build = Build(input_size=size, classes=CLASSES, channels=channels)
    chain = random_chain(baseline, build, 0)
    assert tuple(chain) == baseline.groups
    assert type(chain["head"]) is nn.Linear
    x = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for name, group in chain.items():
            if name == "head":
                assert x.shape == (2, baseline.feature_width)
                assert x.isfinite().all()
            x = group(x)
    assert x.shape == (2, CLASSES)
    with torch.device("meta"):
        shapes = baseline.build(build)
        y = torch.zeros(2, channels, size, size)
    for group in shapes.values():
        y = group(y)
    assert y.shape == (2, CLASSES)
    state = nn.ModuleDict(chain).state_dict()
    assert {k: t.shape for k, t in nn.ModuleDict(shapes).state_dict().items()} == {k: t.shape for k, t in state.items()}


@every_baseline
def test_a_row_depends_on_its_image_alone_and_nothing_changes(baseline: Backbone) -> None:
    network = built(baseline)
    before = {key: tensor.clone() for key, tensor in network.groups.state_dict().items()}
    threads = torch.get_num_threads()
    pixels = some_pixels(5, 64)
    with torch.inference_mode():
        rows = network.features(pixels)
        assert torch.equal(network.features(pixels[[3, 1]]), rows[[3, 1]])
    assert all(torch.equal(before[key], tensor) for key, tensor in network.groups.state_dict().items())
    assert torch.get_num_threads() == threads


@every_baseline
def test_it_learns_the_same_from_the_same_and_the_features_follow(baseline: Backbone) -> None:
    assert baseline.learn is not None
    pixels = some_pixels(8, 64)
    states, rows = [], []
    for seed in (3, 3, 4):
        network = built(baseline)
        with torch.no_grad():
            batches = [network.normalise(pixels[:5]), network.normalise(pixels[5:])]
        baseline.learn(dict(network.groups.items()), iter(batches), len(pixels), seed)
        states.append(nn.ModuleDict({"base": network.groups["base"]}).state_dict())
        with torch.inference_mode():
            rows.append(network.features(pixels))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@every_baseline
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_a_table_for_its_groups(baseline: Backbone, strategy: str) -> None:
    phase = STRATEGIES[strategy](baseline.groups, Facts(100, 20, 3, phases=(HEAD,)), ())
    assert phase is not None


@every_baseline
def test_loading_it_says_that_it_is_yet_to_be_learned(baseline: Backbone) -> None:
    network = load_network(baseline.name, classes=CLASSES)
    assert network.weights == LEARNED
    assert network.build.classes == CLASSES
    assert choose.choose(demand=baseline.demand).name in ENGINES
