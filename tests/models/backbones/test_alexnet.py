from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.reference_networks import assert_equal_outputs, drawn_reference, file_of
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import WeightsError
from topgraft.models.backbones.alexnet import ALEXNET, ALEXNET_2012, response_norm
from topgraft.models.layer_trace import count_parameters
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build, Chain, random_chain
from topgraft.models.weights.key_maps import match_tensors
from topgraft.models.weights.load import load_network

BOTH = pytest.mark.parametrize("name", ["alexnet_2012", "alexnet"])


def outline(name: str, size: int = 224, *, classes: int = 1000, channels: int = 3, fc: bool = True) -> Chain:
    with torch.device("meta"):
        return BACKBONES[name].build(Build(input_size=size, classes=classes, channels=channels, fc=fc))


def run(chain: Chain, x: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs = {}
    for name, group in chain.items():
        outputs[name] = x = group.eval()(x)
    return outputs


def test_equals_torchvision(torchvision: ModuleType, double: None) -> None:
    reference = drawn_reference(torchvision.models.alexnet, seed=0)
    match = match_tensors(ALEXNET, reference.state_dict())
    assert match.convention.name == "torchvision"
    for size in (224, 63):  # the second is torchvision's smallest; there a pool of its brings the map back to 6 × 6
        chain = outline("alexnet", 224)
        nn.ModuleDict(chain).load_state_dict(match.state, assign=True)
        if size == 63:
            chain["stage5"].add_module("as torchvision", nn.AdaptiveAvgPool2d(6))
        assert_equal_outputs(chain, (reference,), size)


def test_file_of_torchvision_is_covered(torchvision: ModuleType) -> None:
    with torch.device("meta"):
        state = torchvision.models.alexnet(num_classes=7).state_dict()
    match = match_tensors(ALEXNET, state)
    assert (match.build.classes, match.build.input_size, match.convention.name) == (7, 224, "torchvision")
    assert match.convention.spec == ImageSpec(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    state["classifier.4.weight"] = torch.empty(4096, 9216, device="meta")
    del state["features.10.bias"]
    with pytest.raises(WeightsError, match=r"missing: stage5\.conv5\.bias \(256,\); of another shape: classifier\.4"):
        match_tensors(ALEXNET, state)


def test_parameters_are_the_published_numbers() -> None:
    assert count_parameters(outline("alexnet")).total == 61_100_840  # torchvision's ``meta``
    assert count_parameters(outline("alexnet_2012")).total == 60_965_224  # "60 million parameters"


@BOTH
def test_boundaries_at_224(name: str) -> None:
    width = {"alexnet_2012": (96, 256, 384, 384, 256), "alexnet": (64, 192, 384, 256, 256)}[name]
    outputs = run(outline(name), torch.zeros(1, 3, 224, 224, device="meta"))
    assert {group: tuple(x.shape[1:]) for group, x in outputs.items()} == {
        "stage1": (width[0], 27, 27),
        "stage2": (width[1], 13, 13),
        "stage3": (width[2], 13, 13),
        "stage4": (width[3], 13, 13),
        "stage5": (width[4], 6, 6),
        "fc": (4096,),
        "head": (1000,),
    }


@BOTH
@pytest.mark.parametrize(("size", "pool5", "inputs"), [(32, 1, 256), (47, 2, 256), (63, 3, 256), (95, 3, 4 * 256)])
def test_the_last_window_is_cut_to_a_small_map(name: str, size: int, pool5: int, inputs: int) -> None:
    chain = outline(name, size)
    assert chain["stage5"].pool5.kernel_size == pool5
    assert chain["stage2"].pool2.kernel_size == 3
    assert chain["fc"].fc6.in_features == inputs


@BOTH
def test_layers_of_the_graph(name: str) -> None:
    historical = name == "alexnet_2012"
    layers = dict(nn.ModuleDict(outline(name)).named_modules())
    convolutions = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == ([1, 2, 1, 2, 2] if historical else [1] * 5)
    assert [type(layer).__name__ for layer in layers["stage1"]] == (
        ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"] if historical else ["Conv2d", "ReLU", "MaxPool2d"]
    )
    assert [path for path, layer in layers.items() if type(layer).__name__ == "LocalResponseNorm"] == (
        ["stage1.norm1", "stage2.norm2"] if historical else []
    )
    dropouts = {path: layer.p for path, layer in layers.items() if isinstance(layer, nn.Dropout)}
    assert dropouts == dict.fromkeys(("fc.drop6", "fc.drop7") if historical else ("fc.drop5", "fc.drop6"), 0.5)
    assert next(iter(layers["fc"])).__class__ is nn.Flatten
    assert type(layers["head"]) is nn.Linear


def test_response_normalization_is_the_papers_formula() -> None:
    a = 40 * torch.randn(1, 7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = response_norm()(a)
    for i in range(7):
        squares = sum(a[:, j] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))
        expected = a[:, i] / (2 + 1e-4 * squares) ** 0.75
        torch.testing.assert_close(found[:, i], expected, rtol=1e-12, atol=0)
    assert not torch.allclose(found, a / 2**0.75, rtol=0.01), "the neighbors must count"


def test_initialisation_of_2012() -> None:
    chain = random_chain(ALEXNET_2012, Build(input_size=32, classes=10), seed=0)
    biases, kernels = {}, {}
    for path, layer in nn.ModuleDict(chain).named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            biases[path.rpartition(".")[2]] = layer.bias.unique().tolist()
            kernels[path] = (layer.weight.mean().item(), layer.weight.std().item())
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert biases == {
        name: [float(name in ones)] for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "head")
    }
    for mean, deviation in kernels.values():
        assert abs(mean) < 5e-4
        assert deviation == pytest.approx(0.01, rel=0.05)


def test_initialisation_of_torchvision_is_pytorchs() -> None:
    chain = random_chain(ALEXNET, Build(input_size=32, classes=10), seed=0)
    for layer in nn.ModuleDict(chain).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.99 * bound < layer.weight.abs().max() <= bound
            assert 0.5 * bound < layer.bias.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_dense_layers_stay_at_the_weights_own_size_only(tmp_path: Path) -> None:
    file = file_of(ALEXNET, "torchvision", tmp_path / "alexnet.pth", classes=5)
    small = load_network("alexnet", file, input_size=64, classes=3)
    assert tuple(small.chain) == ("stage1", "stage2", "stage3", "stage4", "stage5", "head")
    assert (small.chain["head"].in_features, small.build.fc, small.spec.resize_size) == (256, False, 73)
    assert run(small.chain, torch.rand(2, 3, 64, 64))["stage5"].shape == (2, 256)
    own = load_network("alexnet", file, classes=3)
    assert tuple(own.chain) == ALEXNET.groups
    assert own.build.fc
    assert own.chain["fc"].fc6.weight.shape == (4096, 9216)


@BOTH
def test_gray_images(name: str) -> None:
    chain = random_chain(BACKBONES[name], Build(input_size=32, classes=4, channels=1), seed=0)
    assert chain["stage1"].conv1.weight.shape[1] == 1
    with torch.inference_mode():
        assert run(chain, torch.rand(2, 1, 32, 32))["head"].shape == (2, 4)
