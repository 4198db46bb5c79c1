"""What holds for every backbone of the table, and for every row of weights."""

from __future__ import annotations

import copy
import re
from functools import lru_cache

import pytest
import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES, find_backbone
from topgraft.models.spec import Backbone, Build, Chain, random_chain
from topgraft.models.weights.obtain import locate
from topgraft.models.weights.open import open_weights
from topgraft.models.weights.published import WEIGHTS, Weights
from topgraft.training.sgd import fused_conv
from topgraft.training.sgd.losses import soft_targets

CLASSES = 7
SPEC = ImageSpec(32, 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))

# The scope puts the tests of one backbone side by side, so that its weights are drawn once and soon released.
every_backbone = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES, scope="module")
every_weights = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


@lru_cache(maxsize=2)
def drawn(name: str, size: int, seed: int) -> Chain:
    return random_chain(BACKBONES[name], Build(input_size=size, classes=CLASSES), seed)


def build(backbone: Backbone, size: int = 32, seed: int = 0) -> Chain:
    return copy.deepcopy(drawn(backbone.name, size, seed))


def outline(backbone: Backbone, size: int = 32) -> Chain:
    """Modules and shapes without values."""
    with torch.device("meta"):
        return backbone.build(Build(input_size=size, classes=CLASSES))


def classifier(backbone: Backbone, size: int = 32, seed: int = 0) -> Classifier:
    return Classifier(build(backbone, size, seed), SPEC).eval()


def some_pixels(n: int, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


@every_backbone
def test_record_and_chain_say_the_same(backbone: Backbone) -> None:
    assert BACKBONES[backbone.name] is backbone
    chain = outline(backbone)
    assert tuple(chain) == backbone.groups
    assert backbone.groups[-1] == "head"
    assert len(set(backbone.groups)) == len(backbone.groups)
    head = chain["head"]
    assert type(head) is nn.Linear
    assert (head.in_features, head.out_features) == (backbone.feature_width, CLASSES)
    assert all(WEIGHTS[name].backbone == backbone.name for name in backbone.weights)


@every_backbone
@pytest.mark.parametrize("size", [32, 33, 64, 224])
def test_one_tensor_crosses_each_boundary_at_any_size(backbone: Backbone, size: int) -> None:
    chain = outline(backbone, size)
    x = torch.zeros(2, 3, size, size, device="meta")
    for name, group in chain.items():
        if name == "head":
            assert x.shape == (2, backbone.feature_width)
        x = group.eval()(x)
        assert type(x) is torch.Tensor
        assert x.shape[0] == 2
    assert x.shape == (2, CLASSES)


@every_backbone
@pytest.mark.parametrize("size", [32, 33])
def test_forward_is_the_composition_of_the_groups(backbone: Backbone, size: int) -> None:
    network = classifier(backbone, size)
    pixels = some_pixels(2, size)
    with torch.inference_mode():
        x = network.normalise(pixels)
        for name, group in network.groups.items():
            if name == "head":
                assert torch.equal(network.features(pixels), x)
            x = group(x)
            assert torch.equal(network.prefix(name)(pixels), x)
        assert torch.equal(network(pixels), x)
    assert x.isfinite().all()


@every_backbone
def test_evaluation_is_deterministic_and_changes_nothing(backbone: Backbone) -> None:
    network = classifier(backbone)
    before = {key: tensor.clone() for key, tensor in network.groups.state_dict().items()}
    with torch.inference_mode():
        first, again = network(some_pixels(3)), network(some_pixels(3))
        alone = network(some_pixels(3)[1:2])
    assert torch.equal(first, again)
    torch.testing.assert_close(alone, first[1:2], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.groups.state_dict().items())


@every_backbone
def test_state_goes_from_one_network_to_another(backbone: Backbone) -> None:
    one, other = classifier(backbone, seed=0), classifier(backbone, seed=1)
    pixels = some_pixels(2)
    with torch.inference_mode():
        assert not torch.equal(one(pixels), other(pixels))
        other.groups.load_state_dict(one.groups.state_dict())
        assert torch.equal(one(pixels), other(pixels))


@every_backbone
def test_every_parameter_takes_part(backbone: Backbone) -> None:
    network = classifier(backbone).train()
    network(some_pixels(4)).square().sum().backward()
    assert [name for name, p in network.groups.named_parameters() if p.grad is None] == []


@every_backbone
def test_batchnorm_keeps_a_running_average(backbone: Backbone) -> None:
    for layer in nn.ModuleDict(outline(backbone)).modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.track_running_stats
            assert layer.momentum is not None, "None is PyTorch's cumulative average, which never forgets"
            assert 0 < layer.momentum <= 0.1


@every_backbone
def test_building_draws_from_the_generator_only(backbone: Backbone) -> None:
    one = nn.ModuleDict(build(backbone))
    state = nn.ModuleDict(random_chain(backbone, Build(input_size=32, classes=CLASSES), seed=0)).state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in one.state_dict().items())


@every_backbone
def test_folded_it_has_the_same_gradients(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, wherever nothing is drawn, and also where folding would not be faster."""
    monkeypatch.setattr(fused_conv, "_pays", lambda groups: True)
    groups = nn.ModuleDict(build(backbone)).double()
    with torch.no_grad():
        for layer in groups.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor, low, high in ((layer.running_mean, -0.5, 0.5), (layer.running_var, 0.5, 1.5)):
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=generator)
    labels = torch.arange(3)
    rows = dict.fromkeys(groups, 1.0)
    folded = fused_conv.fold(dict(groups.items()), rows, images[:2])
    draws = any(isinstance(layer, nn.Dropout) for layer in groups.modules())
    assert (folded is None) == draws
    if folded is None:
        return
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in groups.modules())
    assert len(folded.convolutions) == norms
    loss, _ = fused_conv.gradients(folded, images, labels, soft_targets(labels, groups["head"].out_features))
    ours = {name: p.grad for name, p in groups.named_parameters()}
    groups.zero_grad()
    x = images
    for group in groups.values():
        x = group(x)
    expected = nn.functional.cross_entropy(x, labels)
    expected.backward()  # type: ignore[no-untyped-call]
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-10)
    for name, parameter in groups.named_parameters():
        found = ours[name]
        assert found is not None
        assert parameter.grad is not None
        assert (found - parameter.grad).abs().max() <= 1e-10 * parameter.grad.abs().max(), name


# PyTorch 2.13 deprecates tracing by hand; OpenVINO's converter still traces.
@every_backbone
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_the_base_can_be_traced(backbone: Backbone) -> None:
    base = classifier(backbone).prefix(backbone.groups[-2])
    traced = torch.jit.trace(base, some_pixels(2), check_trace=False)
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        torch.testing.assert_close(traced(some_pixels(3)), base(some_pixels(3)))


@every_weights
def test_weights_are_described_completely(weights: Weights) -> None:
    assert WEIGHTS[weights.name] is weights
    assert weights.name in BACKBONES[weights.backbone].weights
    assert weights.convention in {convention.name for convention in BACKBONES[weights.backbone].conventions}
    assert re.fullmatch("[0-9a-f]{8,64}", weights.sha256)
    assert bool(weights.package) != bool(weights.url), "either a package carries it, or it is downloaded"
    assert bool(weights.package) == bool(weights.install)
    assert weights.size > 0
    assert weights.classes > 1
    assert 0.5 < weights.top1 < 1
    assert weights.top5 is None or weights.top1 < weights.top5 < 1
    assert weights.license
    assert weights.source
    spec = weights.spec
    assert 32 <= spec.input_size <= spec.resize_size <= 2 * spec.input_size
    assert all(0 <= mean <= 1 for mean in spec.mean)
    assert all(0 < std <= 1 for std in spec.std)


@every_weights
def test_weights_fit_their_backbone(weights: Weights) -> None:
    path = locate(weights.name)
    if path is None:
        pytest.skip(f"{weights.name} is not on this machine")
    backbone = BACKBONES[weights.backbone]
    found = open_weights(backbone, weights.name)
    with torch.device("meta"):
        expected = nn.ModuleDict(backbone.build(found.build)).state_dict()
    assert list(found.state) == list(expected)
    assert {key: tensor.shape for key, tensor in found.state.items()} == {k: t.shape for k, t in expected.items()}
    assert all(tensor.isfinite().all() for tensor in found.state.values())
    assert found.build.classes == weights.classes


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(UsageError, match=r"'efficientnet_lite9'; did you mean .*efficientnet_lite0"):
        find_backbone("efficientnet_lite9")
    with pytest.raises(UsageError, match=f"there are {next(iter(BACKBONES))}, "):
        find_backbone("zzz")
