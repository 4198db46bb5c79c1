"""Fused layers compute what the network does, and where they cannot, they are not there."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from support.small import colored, pixels_of, small_classifier
from torch import nn
from torch.nn import functional as F

from topgraft.models import freeze
from topgraft.models.backbones.layers import SameConv2d
from topgraft.system.threads import torch_threads
from topgraft.training.sgd import fused_conv
from topgraft.training.sgd.fused_conv import FusedGroups, fold, gradients
from topgraft.training.sgd.losses import soft_targets


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def settled(module: nn.Module) -> nn.Module:
    """BatchNorm with statistics, scales and shifts that are none of their defaults; float64."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(-1, 2)
                layer.bias.normal_()
    return module.double()


def network(*layers: nn.Module) -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(12, 3)
        stage = nn.Sequential(
            nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return {"stem": settled(nn.Sequential(*layers)), "stage1": settled(stage), "head": head.double()}


def plain(groups: Mapping[str, nn.Module], x: torch.Tensor) -> torch.Tensor:
    for group in groups.values():
        x = group(x)
    return x


def made(
    groups: Mapping[str, nn.Module], x: torch.Tensor, rows: Mapping[str, float | None] | None = None
) -> FusedGroups:
    found = fold(groups, rows or dict.fromkeys(groups, 1.0), x[:2])
    assert found is not None
    return found


STEMS = {
    "dense": (nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()),
    "pointwise": (nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.ReLU6()),
    "same": (SameConv2d(3, 12, 3, 2, bias=False), nn.BatchNorm2d(12), nn.ReLU6(), nn.MaxPool2d(2)),
    "depthwise": (nn.Conv2d(3, 12, 1), SameConv2d(12, 12, 5, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6()),
    "depthwise, stride": (nn.Conv2d(3, 12, 1), SameConv2d(12, 12, 5, 2, groups=12), nn.BatchNorm2d(12)),
    "wider than the map": (nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, (3, 25), 1, (1, 12), groups=12), nn.BatchNorm2d(12)),
    "another activation": (nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Hardswish()),
    "dilated, not folded": (nn.Conv2d(3, 12, 3, dilation=2), nn.BatchNorm2d(12), nn.ReLU()),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stem", STEMS)
def test_losses_and_gradients_are_those_of_the_plain_way(stem: str, weighted: bool) -> None:
    groups = network(*copy.deepcopy(STEMS[stem]))
    images, labels = 3 * draw(37, 3, 21, 19), torch.arange(37) % 3
    weights = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64) if weighted else None
    before = {key: tensor.clone() for key, tensor in nn.ModuleDict(groups).state_dict().items()}
    with torch_threads(2):
        loss, hits = gradients(made(groups, images), images, labels, soft_targets(labels, 3, weights=weights))
    ours = {key: p.grad for key, p in nn.ModuleDict(groups).named_parameters()}
    nn.ModuleDict(groups).zero_grad()
    logits = plain(groups, images)
    expected = F.cross_entropy(logits, labels, weights)
    expected.backward()  # type: ignore[no-untyped-call]
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert int(hits) == int((logits.argmax(1) == labels).sum())
    for key, parameter in nn.ModuleDict(groups).named_parameters():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-10, atol=1e-12)
    after = nn.ModuleDict(groups).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())


def test_it_follows_the_parameters_as_they_are() -> None:
    groups = network(*copy.deepcopy(STEMS["dense"]))
    images = draw(40, 3, 21, 19)
    folded = made(groups, images)
    with torch.no_grad():
        for parameter in nn.ModuleDict(groups).parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(fused_conv.logits(folded, images), plain(groups, images), rtol=1e-10, atol=1e-12)


def test_frozen_groups_get_no_gradient() -> None:
    groups = network(*copy.deepcopy(STEMS["dense"]))
    rows = {"stem": None, "stage1": 0.1, "head": 1.0}
    freeze.apply(groups, rows)
    images = draw(40, 3, 21, 19)
    labels = torch.arange(40) % 3
    gradients(made(groups, images, rows), images, labels, soft_targets(labels, 3))
    assert all(p.grad is None for p in groups["stem"].parameters())
    assert all(p.grad is not None for p in groups["stage1"].parameters())


def test_the_same_threads_give_the_same_bits() -> None:
    groups = network(*copy.deepcopy(STEMS["depthwise"]))
    images = draw(64, 3, 21, 19)
    found = []
    for _ in range(3):
        with torch_threads(2):
            labels = torch.arange(64) % 3
            gradients(made(groups, images), images, labels, soft_targets(labels, 3))
        found.append([p.grad for p in nn.ModuleDict(groups).parameters()])
        nn.ModuleDict(groups).zero_grad()
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True) if a is not None and b is not None)


class Crossing(nn.Module):
    """Every image less the mean of its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), Crossing()])
def test_where_chance_or_other_images_matter_there_is_only_the_plain_way(layer: nn.Module) -> None:
    groups = network(*copy.deepcopy(STEMS["dense"]), layer)
    state = torch.get_rng_state()
    assert fold(groups, dict.fromkeys(groups, 1.0), draw(2, 3, 21, 19)) is None
    assert torch.equal(state, torch.get_rng_state())


def test_a_network_with_more_weights_than_values_is_left_alone() -> None:
    groups = network(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 9, 8, 4), nn.BatchNorm2d(12))
    assert fold(groups, dict.fromkeys(groups, 1.0), draw(2, 3, 8, 8)) is None
    assert fold(groups, dict.fromkeys(groups, 1.0), draw(2, 3, 80, 80)) is not None


def test_pixels_may_come_first() -> None:
    classifier = small_classifier()
    train = pixels_of(colored(48, 1))
    assert train.kept is not None
    groups = {"normalise": classifier.normalise, **dict(classifier.groups.items())}
    folded = fold(groups, dict.fromkeys(classifier.groups, 1.0), train.kept[:2])
    assert folded is not None
    torch.testing.assert_close(fused_conv.logits(folded, train.kept), classifier(train.kept), rtol=1e-4, atol=1e-5)
