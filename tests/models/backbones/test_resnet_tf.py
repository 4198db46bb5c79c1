from __future__ import annotations

import re
from types import ModuleType

import pytest
import torch
from support.reference_networks import assert_equal_outputs, drawn_reference
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.backbones.layers import SameMaxPool2d, same_padding
from topgraft.models.backbones.resnet_tf import RESNET50_NOTES
from topgraft.models.layer_trace import Parameters, count_parameters
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build
from topgraft.models.summary import summarize
from topgraft.models.weights.key_maps import match_tensors
from topgraft.models.weights.load import load_network

LAYERS = RESNET50_NOTES.conventions[0].layers


@pytest.mark.parametrize("name", ["resnet50_notes", "resnet50"])
def test_parameters_for_100_classes_are_the_notes(name: str) -> None:
    with torch.device("meta"):
        chain = BACKBONES[name].build(Build(input_size=32, classes=100))
    assert count_parameters(chain) == Parameters(23_766_052, 23_712_932, 53_120)


def test_rows_are_the_notes() -> None:
    rows = summarize("resnet50_notes", 32, 100).layers
    names = [row.name.rpartition(".")[2] for row in rows]
    assert len(set(names)) == len(names), "every layer has a name of its own"
    assert names[:17] == [
        "conv1_pad",
        "conv1",
        "bn_conv1",
        "activation",
        "max_pooling2d",
        "res2a_branch2a",
        "bn2a_branch2a",
        "activation_1",
        "res2a_branch2b",
        "bn2a_branch2b",
        "activation_2",
        "res2a_branch2c",
        "bn2a_branch2c",
        "res2a_branch1",
        "bn2a_branch1",
        "add",
        "activation_3",
    ]
    assert names[-5:-1] == ["bn5c_branch2c", "add_15", "activation_48", "global_average_pooling2d"]
    assert RESNET50_NOTES.top_name == "fc1000"
    shapes = {name: row.output for name, row in zip(names, rows, strict=True)}
    assert shapes["conv1_pad"] == (3, 38, 38)
    assert shapes["conv1"] == (64, 16, 16)
    assert [shapes[f"res{stage}a_branch1"] for stage in (2, 3, 4, 5)] == [
        (256, 8, 8),
        (512, 4, 4),
        (1024, 2, 2),
        (2048, 1, 1),
    ]
    assert shapes["global_average_pooling2d"] == (2048,)


def test_layers_are_in_the_order_of_the_code() -> None:
    names = list(LAYERS)
    assert len(names) == 2 * 53 + 1
    assert names[:2] == ["conv1", "bn_conv1"]
    assert names[6:10] == ["res2a_branch2c", "bn2a_branch2c", "res2a_branch1", "bn2a_branch1"]
    assert names[-3:] == ["res5c_branch2c", "bn5c_branch2c", "fc1000"]
    assert {name[3] for name in names if name.startswith("res4")} == {"4"}
    assert [name for name in names if name.startswith("res4") and name.endswith("2a")][-1] == "res4f_branch2a"


@pytest.mark.usefixtures("double")
def test_equals_torchvision_with_tensorflows_padding(torchvision: ModuleType) -> None:
    reference = drawn_reference(torchvision.models.resnet50, seed=4, num_classes=7)
    # At even sizes "same" pads one row and column at the far end where the stride is 2.
    reference.maxpool = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), float("-inf")), nn.MaxPool2d(3, 2))
    for stage in (reference.layer2, reference.layer3, reference.layer4):
        conv = stage[0].conv2
        conv.padding = (0, 0)
        stage[0].conv2 = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv)
    # The same layers in the same order, but for the shortcut, which both have last in its block.
    published = list(LAYERS)
    tensors: dict[str, torch.Tensor] = {}
    kept = [layer for layer in reference.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    block_order = sorted(kept, key=lambda layer: order(reference, layer))
    for name, layer in zip(published, block_order, strict=True):
        if isinstance(layer, nn.Conv2d):
            tensors[f"{name}.kernel"] = layer.weight.permute(2, 3, 1, 0)
        elif isinstance(layer, nn.Linear):
            tensors[f"{name}.kernel"], tensors[f"{name}.bias"] = layer.weight.t(), layer.bias
        else:
            tensors |= {f"{name}.gamma": layer.weight, f"{name}.beta": layer.bias}
            tensors |= {f"{name}.moving_mean": layer.running_mean, f"{name}.moving_variance": layer.running_var}
    with torch.no_grad():
        match = match_tensors(RESNET50_NOTES, tensors, own=False)
    with torch.device("meta"):
        chain = RESNET50_NOTES.build(match.build)
    nn.ModuleDict(chain).load_state_dict(match.state, assign=True)
    for size in (32, 64):
        assert_equal_outputs(chain, (reference,), size)


def order(network: nn.Module, layer: nn.Module) -> tuple[str, str, int]:
    """Stage, block and place of a layer: convolution 1, its BatchNorm, convolution 2 …, shortcut."""
    name = next(name for name, module in network.named_modules() if module is layer)
    if not name.startswith("layer"):
        return ("layer5" if name == "fc" else "layer0"), "", name != "conv1"
    stage, block, *inner = name.split(".")
    if inner[0] == "downsample":
        return stage, block, 8 + int(inner[1])
    return stage, block, 2 * int(inner[0][-1]) + inner[0].startswith("bn")


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 7), (7, 8), (1, 1), (2, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (3, 1), (5, 3)])
def test_same_pool_takes_the_largest_value_of_each_window(height: int, width: int, kernel: int, stride: int) -> None:
    x = -torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) - 1  # a zero would be seen
    found = SameMaxPool2d(kernel, stride)(x)
    assert found.shape[2:] == (-(-height // stride), -(-width // stride))
    top, left = same_padding(height, kernel, stride)[0], same_padding(width, kernel, stride)[0]
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            y, z = row * stride - top, column * stride - left
            window = x[:, :, max(y, 0) : y + kernel, max(z, 0) : z + kernel]
            assert torch.equal(found[:, :, row, column], window.amax((2, 3)))


def test_training_is_the_notes() -> None:
    assert RESNET50_NOTES.l2 == 1e-4
    assert RESNET50_NOTES.untrained == ImageSpec(32, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")
    network = load_network("resnet50_notes", "random", input_size=32, classes=100)
    modules = list(nn.ModuleDict(network.chain).modules())
    assert {(m.eps, m.momentum) for m in modules if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}
    assert all(m.bias is None for m in modules if isinstance(m, nn.Conv2d))
    middle = network.chain["stage5"].get_submodule("5b.branch.res5b_branch2b").weight
    deviation = (2 / (9 * 512)) ** 0.5
    assert middle.std().item() == pytest.approx(deviation, rel=0.01)
    assert middle.abs().max() < 2.3 * deviation, "he_normal is cut at two deviations of the normal it is drawn from"
    head = network.chain["head"]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()


def test_groups_are_numbered_as_their_layers() -> None:
    rows = summarize("resnet50_notes", 32, 10).layers
    numbers = {(row.group, re.match(r"(?:res|bn)(\d)", row.name)) for row in rows}
    found = {(group, f"stage{number[1]}") for group, number in numbers if number}
    assert found == {(group, group) for group in ("stage2", "stage3", "stage4", "stage5")}
