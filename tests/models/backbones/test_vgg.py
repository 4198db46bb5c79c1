from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.reference_networks import assert_equal_outputs, drawn_reference, file_of
from torch import nn
from torch.nn import functional as F

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError, WeightsError
from topgraft.models.backbones.layers import Conv2dReLU, LinearReLU
from topgraft.models.backbones.vgg import DEPTHS, from_keras, from_timm, keras_layers
from topgraft.models.layer_trace import count_parameters
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build, Chain, random_chain
from topgraft.models.summary import summarize
from topgraft.models.weights.key_maps import match_tensors
from topgraft.models.weights.load import load_network

# torchvision's ``meta["num_params"]``.
PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}
every_vgg = pytest.mark.parametrize("name", PARAMETERS)


def outline(name: str, size: int = 224, *, classes: int = 1000, channels: int = 3, fc: bool = True) -> Chain:
    with torch.device("meta"):
        return BACKBONES[name].build(Build(input_size=size, classes=classes, channels=channels, fc=fc))


def test_every_vgg_is_tested() -> None:
    assert set(PARAMETERS) == {name for name, backbone in BACKBONES.items() if backbone.family == "vgg"}


@every_vgg
def test_equals_torchvision_and_timm(name: str, torchvision: ModuleType, timm: ModuleType, double: None) -> None:
    reference = drawn_reference(getattr(torchvision.models, name), seed=len(name))
    match = match_tensors(BACKBONES[name], reference.state_dict())
    assert match.convention.name == "torchvision"
    chain = outline(name)
    nn.ModuleDict(chain).load_state_dict(match.state, assign=True)
    with torch.device("meta"):
        other = timm.create_model(name).eval()
    given = reference.state_dict().values()  # timm has the same tensors in the same order, some in another shape
    theirs = {key: tensor.reshape(t.shape) for (key, t), tensor in zip(other.state_dict().items(), given, strict=True)}
    other.load_state_dict(theirs, assign=True)
    again = match_tensors(BACKBONES[name], other.state_dict())
    assert again.convention.name == "timm"
    assert all(torch.equal(tensor, match.state[key]) for key, tensor in again.state.items())
    assert_equal_outputs(chain, (reference, other), 224)


@every_vgg
def test_files_of_torchvision_and_timm_are_covered(name: str, torchvision: ModuleType, timm: ModuleType) -> None:
    with torch.device("meta"):
        files = {
            "torchvision": getattr(torchvision.models, name)(num_classes=7).state_dict(),
            "timm": timm.create_model(name, num_classes=7).state_dict(),
        }
    for convention, state in files.items():
        match = match_tensors(BACKBONES[name], state)
        assert (match.convention.name, match.build.input_size, match.build.classes) == (convention, 224, 7)
        assert match.convention.spec == ImageSpec(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert list(match.state) == list(nn.ModuleDict(outline(name, classes=7)).state_dict())
        last = [key for key in state if key.endswith("weight")][-3]
        state[last] = torch.empty(4096, 512, 6, 6, device="meta")
        state["features.99.weight"] = state.pop("features.0.bias")
        with pytest.raises(WeightsError) as caught:
            match_tensors(BACKBONES[name], state)
        message = str(caught.value)
        assert f"names as in {convention}" in message
        assert "missing: stage1.block1_conv1.bias (64,); unexpected: features.99.weight (64,)" in message
        assert f"{last} (4096, 512, 6, 6) for fc.fc1.weight (4096, 25088)" in message


@every_vgg
def test_parameters_are_the_published_numbers(name: str) -> None:
    assert count_parameters(outline(name)).trainable == PARAMETERS[name]


def test_the_notes_network() -> None:
    found = summarize("vgg16", 32, 100)
    assert (found.parameters.total, found.parameters.not_trainable) == (34_006_948, 0)
    names = [
        f"block{block}_{layer}"
        for block, count in enumerate((2, 2, 3, 3, 3), start=1)
        for layer in (*(f"conv{number}" for number in range(1, count + 1)), "pool")
    ]
    assert [layer.name for layer in found.layers] == [*names, "flatten", "fc1", "fc2", "predictions"]
    shapes = {layer.name: layer.output for layer in found.layers}
    assert shapes["block1_conv2"] == (64, 32, 32)
    assert shapes["block4_conv1"] == (512, 4, 4)
    assert shapes["block5_pool"] == (512, 1, 1)
    assert [shapes[name] for name in ("flatten", "fc1", "fc2", "predictions")] == [(512,), (4096,), (4096,), (100,)]
    vgg16 = BACKBONES["vgg16"]
    assert vgg16.l2 == 0
    assert (vgg16.untrained.mean, vgg16.untrained.std) == ((0, 0, 0), (1, 1, 1))
    layers = list(nn.ModuleDict(outline("vgg16", 32)).modules())
    assert not any(isinstance(layer, nn.Dropout) for layer in layers)
    assert "stage3.block3_conv2.weight" in nn.ModuleDict(outline("vgg16", 32)).state_dict()


def test_random_weights_of_the_notes() -> None:
    chain = random_chain(BACKBONES["vgg16"], Build(input_size=32, classes=100), seed=0)
    for layer in nn.ModuleDict(chain).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            window = layer.weight[0, 0].numel()
            bound = (6 / (window * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
            assert 0.98 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
            assert not layer.bias.any()


def test_random_weights_with_batchnorm_are_torchvisions() -> None:
    chain = random_chain(BACKBONES["vgg11_bn"], Build(input_size=32, classes=100), seed=0)
    for layer in nn.ModuleDict(chain).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.05)
        elif isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)


@every_vgg
def test_layers_and_boundaries_at_224(name: str) -> None:
    chain = outline(name)
    x = torch.zeros(1, 3, 224, 224, device="meta")
    shapes = {}
    for group, module in chain.items():
        shapes[group] = tuple((x := module.eval()(x)).shape[1:])
    assert shapes == {
        "stage1": (64, 112, 112),
        "stage2": (128, 56, 56),
        "stage3": (256, 28, 28),
        "stage4": (512, 14, 14),
        "stage5": (512, 7, 7),
        "fc": (4096,),
        "head": (1000,),
    }
    depth, batchnorm = int(name[3:5]), name.endswith("_bn")
    kinds = [type(layer) for module in chain.values() for layer in module.modules()]
    convolutions = kinds.count(nn.Conv2d if batchnorm else Conv2dReLU)
    assert convolutions == sum(DEPTHS[depth]) == depth - 3
    assert kinds.count(nn.BatchNorm2d) == kinds.count(nn.ReLU) == (convolutions if batchnorm else 0)
    assert kinds.count(LinearReLU) == 2
    if batchnorm:
        names = [layer for layer, _ in chain["stage2"].named_children()]
        assert names[:3] == ["block2_conv1", "block2_bn1", "block2_relu1"]


# --- Keras's files -------------------------------------------------------------------------------------------------


def keras_tensors(name: str, size: int, classes: int) -> dict[str, torch.Tensor]:
    """Shapes of a Keras file, written down here as Keras has them."""
    depth = int(name[3:])
    tensors, channels = {}, 3
    for block, (count, width) in enumerate(zip(DEPTHS[depth], (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            tensors[f"block{block}_conv{number}.kernel"] = torch.empty(3, 3, channels, width, device="meta")
            tensors[f"block{block}_conv{number}.bias"] = torch.empty(width, device="meta")
            channels = width
    inputs = 512 * (size // 32) ** 2
    for layer, outputs in (("fc1", 4096), ("fc2", 4096), ("predictions", classes)):
        tensors[f"{layer}.kernel"] = torch.empty(inputs, outputs, device="meta")
        tensors[f"{layer}.bias"] = torch.empty(outputs, device="meta")
        inputs = outputs
    return tensors


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_keras_files_are_told_apart_by_their_size(name: str) -> None:
    published = match_tensors(BACKBONES[name], keras_tensors(name, 224, 1000))
    assert (published.convention.name, published.build.classes) == ("keras_applications", 1000)
    spec = published.convention.spec
    assert (spec.input_size, spec.resize_size, spec.interpolation, spec.channel_order) == (224, 256, "bilinear", "BGR")
    assert [255 * mean for mean in spec.mean] == pytest.approx([103.939, 116.779, 123.68])
    assert [255 * std for std in spec.std] == pytest.approx([1, 1, 1])
    notes = match_tensors(BACKBONES[name], keras_tensors(name, 32, 100))
    assert (notes.convention.name, notes.build.classes, notes.build.input_size) == ("notes", 100, 32)
    assert notes.convention.spec == ImageSpec(32, 32, "bilinear", (0, 0, 0), (1, 1, 1))
    assert list(keras_layers(int(name[3:]))) == list(
        dict.fromkeys(key[:-7] for key in keras_tensors(name, 32, 9) if key.endswith("kernel"))
    )


def test_keras_files_that_do_not_fit_are_refused() -> None:
    tensors = keras_tensors("vgg16", 32, 100)
    tensors["block2_conv1.kernel"] = torch.empty(3, 3, 128, 64, device="meta")
    tensors["fc1.kernel"] = torch.empty(511, 4096, device="meta")
    with pytest.raises(WeightsError) as caught:
        match_tensors(BACKBONES["vgg16"], tensors)
    message = str(caught.value)
    assert "block2_conv1.kernel (3, 3, 128, 64) for stage2.block2_conv1.weight (128, 64, 3, 3)" in message
    assert "fc1.kernel (511, 4096) for fc.fc1.weight" in message


def test_keras_kernels_arrive_in_pytorchs_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 3, 512, generator=generator, dtype=torch.float64)  # N×H×W×C, as Keras has them
    image = maps.permute(0, 3, 1, 2)

    kernel = torch.randn(3, 3, 512, 4, generator=generator, dtype=torch.float64)
    weight = from_keras("stage5.block5_conv1.weight", kernel, torch.Size((4, 512, 3, 3)))
    expected = torch.einsum("nhwc,hwco->no", maps, kernel)  # the window that covers the whole map
    torch.testing.assert_close(F.conv2d(image, weight).flatten(1), expected)

    kernel = torch.randn(3 * 3 * 512, 5, generator=generator, dtype=torch.float64)
    weight = from_keras("fc.fc1.weight", kernel, torch.Size((5, 512 * 3 * 3)))
    torch.testing.assert_close(F.linear(image.flatten(1), weight), maps.flatten(1) @ kernel)

    kernel = torch.randn(512, 6, generator=generator, dtype=torch.float64)
    for key in ("fc.fc2.weight", "head.weight"):
        assert torch.equal(from_keras(key, kernel, torch.Size((6, 512))), kernel.t())
    assert torch.equal(from_keras("head.bias", kernel[0], torch.Size((6,))), kernel[0])


def test_timms_dense_convolutions_are_flattened_only_where_they_are_dense_layers() -> None:
    dense, convolution = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 3, 3)
    assert torch.equal(from_timm("fc.fc1.weight", dense, torch.Size((4, 12))), dense.reshape(4, 12))
    assert from_timm("stage1.block1_conv1.weight", convolution, torch.Size((4, 3, 3, 3))) is convolution
    assert from_timm("fc.fc1.weight", convolution, torch.Size((4, 12))) is convolution


# --- At other sizes ------------------------------------------------------------------------------------------------


def test_dense_layers_stay_at_the_weights_own_size_only(tmp_path: Path) -> None:
    file = file_of(BACKBONES["vgg11"], "torchvision", tmp_path / "vgg11.pth", classes=5)
    small = load_network("vgg11", file, input_size=48, classes=3)
    assert tuple(small.chain) == ("stage1", "stage2", "stage3", "stage4", "stage5", "head")
    assert (small.build.fc, small.spec.input_size, small.spec.resize_size) == (False, 48, 55)
    assert (small.chain["head"].in_features, small.chain["head"].out_features) == (512, 3)
    x = torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        for group in list(small.chain.values())[:-2]:
            x = group(x)
        *layers, pool, flatten = small.chain["stage5"]
        maps = nn.Sequential(*layers)(x)
        assert type(pool) is nn.AdaptiveAvgPool2d
        assert type(flatten) is nn.Flatten
        torch.testing.assert_close(small.chain["stage5"](x), maps.mean((2, 3)))
        assert maps.shape == (2, 512, 1, 1)
    with pytest.raises(UsageError, match="take 224 pixels, not 48; say how many classes"):
        load_network("vgg11", file, input_size=48)

    own = load_network("vgg11", file)
    assert own.build.fc
    assert own.chain["fc"].fc1.weight.shape == (4096, 25088)
    assert own.chain["head"].weight.shape == (5, 4096)


def test_random_weights_flatten_at_any_size() -> None:
    network = load_network("vgg11", "random", input_size=70, classes=3)
    assert network.build.fc
    assert network.chain["fc"].fc1.in_features == 512 * 2 * 2
    assert network.spec == ImageSpec(70, 70, "bilinear", (0, 0, 0), (1, 1, 1))


def test_gray_weights(tmp_path: Path) -> None:
    file = file_of(BACKBONES["vgg11"], "torchvision", tmp_path / "vgg11.pth", classes=5)
    color = load_network("vgg11", file, input_size=32, classes=2)
    gray = load_network("vgg11", file, input_size=32, classes=2, channels=1)
    x = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        expected = color.chain["stage1"](x.expand(2, 3, 32, 32))
        torch.testing.assert_close(gray.chain["stage1"](x), expected)
        assert expected.any()
