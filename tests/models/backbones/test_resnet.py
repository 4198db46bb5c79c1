from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.imagenet_val import count_right
from support.reference_networks import assert_equal_outputs, drawn_reference
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build, Chain
from topgraft.models.weights.key_maps import Match, match_tensors
from topgraft.models.weights.load import load_network

TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
V1 = BACKBONES["resnet50_v1"]
KERAS = BACKBONES["resnet50_keras"]


def loaded(name: str, tensors: dict[str, torch.Tensor], convention: str) -> Chain:
    """The network with these tensors in it, all of which must have a place."""
    match: Match = match_tensors(BACKBONES[name], tensors, own=False)
    assert match.convention.name == convention
    with torch.device("meta"):
        chain = BACKBONES[name].build(match.build)
    nn.ModuleDict(chain).load_state_dict(match.state, assign=True)
    return chain


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.usefixtures("double")
def test_equals_torchvision_and_timm(torchvision: ModuleType, timm: ModuleType, name: str) -> None:
    reference = drawn_reference(getattr(torchvision.models, name), seed=1, num_classes=7)
    other = drawn_reference(getattr(timm.models, name), seed=2, num_classes=7)
    assert reference.state_dict().keys() == other.state_dict().keys()
    other.load_state_dict(reference.state_dict())
    chain = loaded(name, reference.state_dict(), "torchvision")
    for size in (64, 75):
        assert_equal_outputs(chain, (reference, other), size)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        chain = BACKBONES[name].build(Build(input_size=224, classes=1000))
    assert sum(p.numel() for p in nn.ModuleDict(chain).parameters()) == TORCHVISION[name]


def test_boundaries_at_224() -> None:
    with torch.device("meta"):
        chain = BACKBONES["resnet50"].build(Build(input_size=224, classes=1000))
        x = torch.zeros(1, 3, 224, 224)
    shapes = {}
    for name, group in chain.items():
        x = group.eval()(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes == {
        "stem": (64, 56, 56),
        "stage1": (256, 56, 56),
        "stage2": (512, 28, 28),
        "stage3": (1024, 14, 14),
        "stage4": (2048,),
        "head": (1000,),
    }


def test_batchnorm_is_the_published_one() -> None:
    with torch.device("meta"):
        chains = {name: BACKBONES[name].build(Build(input_size=32, classes=2)) for name in ("resnet50", KERAS.name)}
    found = {
        name: {(norm.eps, norm.momentum) for norm in nn.ModuleDict(chain).modules() if isinstance(norm, nn.BatchNorm2d)}
        for name, chain in chains.items()
    }
    assert found == {"resnet50": {(1e-5, 0.1)}, "resnet50_keras": {(1.001e-5, 0.01)}}


# --- The graph of 2015 ----------------------------------------------------------------------------------------------


def early(torchvision: ModuleType, pool: nn.MaxPool2d) -> nn.Module:
    """torchvision's ResNet-50 with the stride moved to the first convolution of a stage, and another first pool."""
    reference = drawn_reference(torchvision.models.resnet50, seed=3, num_classes=7)
    for stage in (reference.layer2, reference.layer3, reference.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    reference.maxpool = pool
    return reference


def folded(reference: nn.Module) -> dict[str, torch.Tensor]:
    """Its tensors with each BatchNorm folded into the convolution before it: w·γ/σ, and the bias β - μ·γ/σ."""
    tensors = {}
    modules = dict(reference.named_modules())
    for name, layer in modules.items():
        if isinstance(layer, nn.Conv2d):
            place, _, last = name.rpartition(".")
            norm = modules[f"{place}.{'1' if last == '0' else last.replace('conv', 'bn')}".lstrip(".")]
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            tensors[f"{name}.weight"] = layer.weight * scale[:, None, None, None]
            tensors[f"{name}.bias"] = norm.bias - norm.running_mean * scale
    return {**tensors, "fc.weight": reference.fc.weight, "fc.bias": reference.fc.bias}


@pytest.mark.usefixtures("double")
def test_v1_strides_early_and_rounds_the_pool_up(torchvision: ModuleType) -> None:
    reference = early(torchvision, nn.MaxPool2d(3, 2, padding=0, ceil_mode=True))
    with torch.device("meta"):
        chain = V1.build(Build(input_size=64, classes=7))
    state = reference.state_dict()
    ours = {key: BACKBONES["resnet50"].conventions[0].chain_key(key) for key in state}
    nn.ModuleDict(chain).load_state_dict({str(ours[key]): tensor for key, tensor in state.items()}, assign=True)
    for size in (64, 75):
        assert_equal_outputs(chain, (reference,), size)

    with torch.no_grad():
        chain = loaded("resnet50_v1", folded(reference), "caffe_folded")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in nn.ModuleDict(chain).modules())
    assert_equal_outputs(chain, (reference,), 64)


def test_folded_weights_have_no_batchnorm_and_others_do() -> None:
    with torch.device("meta"):
        plain, without = (V1.build(Build(input_size=32, classes=2, folded=value)) for value in (False, True))
    assert plain["stem"].conv.bias is None
    assert [name for name, _ in plain["stem"].named_children()] == ["conv", "norm", "act", "pool"]
    assert without["stem"].conv.bias is not None
    assert [name for name, _ in without["stem"].named_children()] == ["conv", "act", "pool"]


@pytest.mark.parametrize(("resize_size", "top1", "top5"), [(256, 724, 900)])  # 719, 901 at 224
def test_v1_is_right_on_as_many_imagenet_images_as_published(
    real_data: Callable[[str], Path], data_folder: Path, tmp_path: Path, resize_size: int, top1: int, top5: int
) -> None:
    network = load_network("resnet50_v1", data_folder / "weights" / "resnet50_v1_int8.npz")
    assert network.build.folded
    found = count_right(network, real_data("imagenet-val-1000"), resize_size, tmp_path)
    print(f"top-1, top-5 of 1000: {found}")
    assert found == (pytest.approx(top1, abs=5), pytest.approx(top5, abs=5))


# --- Keras's --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_keras_graph_has_biases_and_its_own_epsilon(torchvision: ModuleType) -> None:
    """Against torchvision's modules, changed to what ``keras.applications.ResNet50`` says."""
    reference = early(torchvision, nn.MaxPool2d(3, 2, padding=1))
    generator = torch.Generator().manual_seed(5)
    for layer in reference.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias = nn.Parameter(torch.rand(layer.out_channels, generator=generator) - 0.5)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1.001e-5
    # Both tables are in the chain's words: a Keras file is written from one and read by the other.
    theirs = {ours: name for name, ours in KERAS.conventions[0].layers.items()}
    names = {ours: name for name, ours in KERAS.conventions[0].tensors.items() if name in ("kernel", "bias")}
    norms = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    tensors = {}
    for key, tensor in reference.state_dict().items():
        layer, _, kind = str(BACKBONES["resnet50"].conventions[0].chain_key(key)).rpartition(".")
        if kind != "num_batches_tracked":
            kinds = norms if layer.endswith("norm") else names
            if kind == "weight" and tensor.dim() == 4:
                tensor = tensor.permute(2, 3, 1, 0)
            elif kind == "weight" and tensor.dim() == 2:
                tensor = tensor.t()
            tensors[f"{theirs[layer]}.{kinds[kind]}"] = tensor
    chain = loaded("resnet50_keras", tensors, "keras")
    for size in (64, 75):
        assert_equal_outputs(chain, (reference,), size)


@pytest.mark.parametrize(
    ("published", "key"),
    [
        ("conv1_conv.kernel", "stem.conv.weight"),
        ("conv1_bn.moving_variance", "stem.norm.running_var"),
        ("conv2_block1_0_conv.bias", "stage1.0.shortcut.conv.bias"),
        ("conv3_block4_2_bn.gamma", "stage2.3.branch.filter.norm.weight"),
        ("conv5_block3_3_bn.beta", "stage4.2.branch.expand.norm.bias"),
        ("predictions.kernel", "head.weight"),
        ("conv3_block4_0_conv.kernel", None),
        ("conv1_conv.weight", None),
        ("conv5_block4_1_conv.kernel", None),
    ],
)
def test_names_of_keras_files(published: str, key: str | None) -> None:
    assert KERAS.conventions[0].chain_key(published) == key


def test_keras_layers_are_in_the_order_of_its_code() -> None:
    names = list(KERAS.conventions[0].layers)
    assert len(names) == 2 * 53 + 1
    assert names[:6] == [
        "conv1_conv",
        "conv1_bn",
        "conv2_block1_0_conv",
        "conv2_block1_0_bn",
        "conv2_block1_1_conv",
        "conv2_block1_1_bn",
    ]
    assert names[-1] == "predictions"


def test_pixels() -> None:
    plain = ImageSpec(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "RGB")
    assert {BACKBONES[name].conventions[0].spec for name in (*TORCHVISION, "resnet50_v1")} == {plain}
    keras = KERAS.conventions[0].spec
    assert (keras.input_size, keras.channel_order) == (224, "BGR")
    assert [255 * mean for mean in keras.mean] == pytest.approx([103.939, 116.779, 123.68])
    assert [255 * std for std in keras.std] == pytest.approx([1, 1, 1])


# --- Names and random weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published", "key"),
    [
        ("resnet18", "layer1.0.conv1.weight", "stage1.0.branch.first.conv.weight"),
        ("resnet18", "layer2.0.downsample.1.running_mean", "stage2.0.shortcut.norm.running_mean"),
        ("resnet18", "layer1.0.downsample.0.weight", None),
        ("resnet18", "layer1.0.conv3.weight", None),
        ("resnet50", "layer1.0.downsample.0.weight", "stage1.0.shortcut.conv.weight"),
        ("resnet50", "layer4.2.bn3.bias", "stage4.2.branch.expand.norm.bias"),
        ("resnet50", "fc.weight", "head.weight"),
        ("resnet50_v1", "layer4.2.bn3.bias", None),
        ("resnet50_v1", "layer4.2.conv3.bias", "stage4.2.branch.expand.conv.bias"),
    ],
)
def test_names_of_torchvision_files(name: str, published: str, key: str | None) -> None:
    assert BACKBONES[name].conventions[0].chain_key(published) == key


def test_random_weights_are_torchvisions() -> None:
    network = load_network("resnet18", "random", input_size=32, classes=100)
    first, head = network.chain["stem"].conv, network.chain["head"]
    assert first.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    bound = 512**-0.5
    assert 0.95 * bound < head.weight.abs().max() <= bound
    assert 0.8 * bound < head.bias.abs().max() <= bound
