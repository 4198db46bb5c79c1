from __future__ import annotations

import copy
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.models.backbones.efficientnet_lite import InvertedResidual
from topgraft.models.backbones.layers import named
from topgraft.models.layer_trace import Layer, Parameters, count_parameters, trace_layers
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build
from topgraft.models.summary import summarize


def test_totals_of_lite0() -> None:
    found = summarize("efficientnet_lite0", 224, 1000)
    # 21,008 channels are normalized, each with a running mean and a running variance.
    assert found.parameters == Parameters(4_694_024, 4_652_008, 42_016)
    assert sum(layer.parameters for layer in found.layers) == 4_694_024
    assert found.multiply_adds == sum(layer.multiply_adds for layer in found.layers) == 385_187_552
    assert found.activation_bytes == sum(layer.activation_bytes for layer in found.layers)
    assert list(dict.fromkeys(layer.group for layer in found.layers)) == list(BACKBONES["efficientnet_lite0"].groups)
    assert found.layers[0] == Layer(
        "stem", "conv", "SameConv2d", (32, 112, 112), 864, 112 * 112 * 32 * 27, 112 * 112 * 32 * 4, 3
    )
    assert found.layers[-1].output == (1000,)
    assert (found.layers[-1].name, found.layers[-1].multiply_adds) == ("head", 1_280_000)


def test_size_and_classes_change_what_they_should() -> None:
    found = summarize("efficientnet_lite0", 32, 10)
    assert found.parameters.total == 4_694_024 - 990 * 1281
    assert found.layers[0].output == (32, 16, 16)
    assert found.layers[-1].output == (10,)
    assert (found.input_size, found.classes) == (32, 10)


def test_a_summary_is_json() -> None:
    found = json.loads(json.dumps(asdict(summarize("efficientnet_lite0", 64, 3))))
    assert found["parameters"].keys() == {"total", "trainable", "not_trainable"}
    assert found["layers"][0]["group"] == "stem"


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_alone_give_what_computing_gives(name: str) -> None:
    with torch.device("meta"):
        chain = BACKBONES[name].build(Build(input_size=33, classes=7))
    computed = {group: copy.deepcopy(module).to_empty(device="cpu") for group, module in chain.items()}
    assert trace_layers(chain, 33) == trace_layers(computed, 33)


@pytest.mark.parametrize(
    ("name", "size", "classes", "message"),
    [
        ("efficientnet", 224, 10, "no backbone named"),
        ("efficientnet_lite0", 31, 10, "input size of 31 is too small; the smallest is 32"),
        ("efficientnet_lite0", 224, 0, "at least one class, not 0"),
    ],
)
def test_wrong_wishes(name: str, size: int, classes: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        summarize(name, size, classes)


class Branches(nn.Module):
    """Two windows side by side, concatenated by a function that is not a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 2, 1)
        self.wide = nn.Conv2d(4, 2, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.narrow(x), self.wide(x)], 1)


def fields(**chain: nn.Module) -> dict[str, int]:
    return {layer.name: layer.receptive_field for layer in trace_layers(chain, 32)}


def test_receptive_fields_of_windows() -> None:
    found = fields(
        one=nn.Conv2d(3, 4, 3),
        two=nn.MaxPool2d(2),
        three=nn.Conv2d(4, 4, 3, dilation=2),
        four=nn.AvgPool2d(3, 2),
        five=nn.Conv2d(4, 4, (1, 3)),
    )
    assert found == {"one": 3, "two": 4, "three": 4 + 4 * 2, "four": 12 + 2 * 2, "five": 16 + 2 * 4}


def test_receptive_fields_go_through_branches_and_pooling() -> None:
    found = fields(
        first=nn.Conv2d(3, 4, 2, 2),
        both=Branches(),
        last=nn.Conv2d(4, 4, 3, padding=1),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(4, 2),
    )
    # The wide branch decides: 2 + 4·2. The pool then spans 16 neighbors that lie 2 pixels apart.
    assert found == {"first": 2, "narrow": 2, "wide": 10, "last": 14, "pool": 14 + 15 * 2, "flat": 44, "head": 44}
    flattened = fields(first=nn.Conv2d(3, 4, 2, 2), flat=nn.Flatten(), head=nn.Linear(4 * 16 * 16, 2))
    assert flattened == {"first": 2, "flat": 32, "head": 32}


def test_receptive_field_is_what_a_value_depends_on() -> None:
    chain = BACKBONES["efficientnet_lite0"].build(Build(input_size=128, classes=2))
    names = ("stem", "stage1", "stage2", "stage3")
    reach = {layer.group: layer.receptive_field for layer in trace_layers(chain, 128)}
    x = pixels = torch.full((1, 3, 128, 128), 0.5, requires_grad=True)
    for name in names:
        for layer in chain[name].eval().modules():
            if isinstance(layer, nn.Conv2d):  # means of windows: nothing cancels and no ReLU6 is shut
                nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
        x = chain[name](x)
        middle = x[0, 0, x.shape[2] // 2, x.shape[3] // 2]
        (slope,) = torch.autograd.grad(middle, pixels, retain_graph=True)
        rows = slope[0, 0].any(1).nonzero().flatten()
        assert int(rows[-1] - rows[0]) + 1 == reach[name], name


def test_parameters_are_counted_as_keras_does() -> None:
    chain = {"stem": nn.Conv2d(3, 5, 3, bias=False), "norm": nn.BatchNorm2d(5), "head": nn.Linear(5, 2)}
    # Keras: 135 + 4·5, of which the running mean and variance do not train, + 12.
    assert count_parameters(chain) == Parameters(167, 157, 10)


def test_a_shared_layer_is_counted_once() -> None:
    shared = nn.Conv2d(3, 3, 1)
    rows = trace_layers({"one": named(a=shared, act=nn.ReLU(), b=shared)}, 8)
    assert [(row.name, row.parameters, row.multiply_adds) for row in rows] == [
        ("a", 12, 9 * 64),
        ("act", 0, 0),
        ("a", 0, 9 * 64),
    ]


def test_a_summary_names_layers_as_their_authors_do() -> None:
    alexnet = summarize("alexnet", 64, 3).layers
    assert [(layer.group, layer.name) for layer in alexnet[:2]] == [("stage1", "conv1"), ("stage1", "relu1")]
    assert [(layer.group, layer.name) for layer in alexnet[-2:]] == [("fc", "relu7"), ("head", "fc8")]
    lite = [layer.name for layer in summarize("efficientnet_lite0", 64, 3).layers]
    assert lite[:4] == ["conv", "norm", "act", "0.depthwise.conv"], "other layers end in the same word"
    assert lite[-3:] == ["pool", "flatten", "head"]
    assert lite[-6:-3] == ["last.conv", "last.norm", "last.act"]


def test_layers_that_do_nothing_have_no_row() -> None:
    assert [row.name for row in trace_layers({"one": InvertedResidual(3, 3, 3, 1, 1)}, 8)] == [
        "depthwise.conv",
        "depthwise.norm",
        "depthwise.act",
        "project.conv",
        "project.norm",
    ]


def test_the_chain_is_left_as_it_was() -> None:
    chain = {"stem": named(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)).train(), "act": nn.ReLU().eval()}
    before = {key: tensor.clone() for key, tensor in nn.ModuleDict(chain).state_dict().items()}
    trace_layers(chain, 8)
    assert chain["stem"].training
    assert chain["stem"].norm.training
    assert not chain["act"].training
    assert not chain["stem"].conv._forward_hooks
    assert all(torch.equal(before[key], now) for key, now in nn.ModuleDict(chain).state_dict().items())
    assert nn.ModuleDict(chain).training, "a new container does not stand for the modes of what it holds"
