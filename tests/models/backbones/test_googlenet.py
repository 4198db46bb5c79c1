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
from topgraft.models.backbones.googlenet import GOOGLENET, GOOGLENET_2014
from topgraft.models.classifier import Normalise
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build
from topgraft.models.weights.key_maps import match_tensors
from topgraft.models.weights.load import load_network


@pytest.mark.usefixtures("double")
def test_equals_torchvision(torchvision: ModuleType) -> None:
    reference = drawn_reference(
        torchvision.models.googlenet, seed=1, num_classes=7, aux_logits=True, init_weights=False, transform_input=False
    )
    state = reference.state_dict()
    assert any(key.startswith("aux1.") for key in state)
    match = match_tensors(GOOGLENET, state, own=False)
    assert len(match.state) == sum(not key.startswith(("aux1.", "aux2.")) for key in state)
    with torch.device("meta"):
        chain = GOOGLENET.build(match.build)
    nn.ModuleDict(chain).load_state_dict(match.state, assign=True)
    for size in (64, 75, 128):
        assert_equal_outputs(chain, (reference,), size)


def test_pixels_are_what_torchvision_makes_of_its_preset(torchvision: ModuleType) -> None:
    with torch.device("meta"):
        reference = torchvision.models.GoogLeNet(init_weights=False, transform_input=True)
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preset = Normalise(ImageSpec(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = reference._transform_input(preset(pixels))
    torch.testing.assert_close(Normalise(GOOGLENET.conventions[0].spec)(pixels), expected, rtol=0, atol=1e-5)


def test_caffes_pixels() -> None:
    spec = GOOGLENET_2014.conventions[0].spec
    assert (spec.input_size, spec.resize_size, spec.interpolation) == (224, 256, "bilinear")
    red = torch.tensor([[[[200, 0, 0]]]], dtype=torch.uint8)
    torch.testing.assert_close(Normalise(spec)(red).flatten(), torch.tensor([-104.0, -117.0, 77.0]))


def test_parameters_are_as_many_as_published() -> None:
    counts = {}
    for backbone in (GOOGLENET, GOOGLENET_2014):
        with torch.device("meta"):
            chain = backbone.build(Build(input_size=224, classes=1000))
        counts[backbone.name] = sum(p.numel() for p in nn.ModuleDict(chain).parameters())
    assert counts == {"googlenet": 6_624_904, "googlenet_2014": 6_998_552}


@pytest.mark.parametrize("name", ["googlenet", "googlenet_2014"])
def test_boundaries_at_224(name: str) -> None:
    with torch.device("meta"):
        chain = BACKBONES[name].build(Build(input_size=224, classes=1000))
        x = torch.zeros(1, 3, 224, 224)
    shapes = []
    for group in chain.values():
        x = group.eval()(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(192, 28, 28), (480, 14, 14), (832, 7, 7), (1024,), (1000,)]


def test_the_two_forms_differ_as_described() -> None:
    with torch.device("meta"):
        new, old = (b.build(Build(input_size=224, classes=1000)) for b in (GOOGLENET, GOOGLENET_2014))
    norms = [layer for layer in nn.ModuleDict(new).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 3 + 9 * 6
    assert {norm.eps for norm in norms} == {1e-3}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in nn.ModuleDict(old).modules())
    five = "3a.five.filter.conv"
    assert new["stage1"].get_submodule(five).kernel_size == (3, 3)
    assert old["stage1"].get_submodule(five).kernel_size == (5, 5)
    assert [name for name, _ in old["stem"].named_children()] == [
        "conv1",
        "pool1",
        "norm1",
        "conv2_reduce",
        "conv2",
        "norm2",
        "pool2",
    ]


@pytest.mark.parametrize(
    ("name", "published", "key"),
    [
        ("googlenet", "conv2.conv.weight", "stem.conv2_reduce.conv.weight"),
        ("googlenet", "conv3.bn.running_var", "stem.conv2.norm.running_var"),
        ("googlenet", "inception4c.branch3.1.bn.weight", "stage2.4c.five.filter.norm.weight"),
        ("googlenet", "inception5b.branch4.1.conv.weight", "stage3.5b.pool.project.conv.weight"),
        ("googlenet", "fc.bias", "head.bias"),
        ("googlenet", "inception4f.branch1.conv.weight", None),
        ("googlenet_2014", "conv1/7x7_s2.bias", "stem.conv1.conv.bias"),
        ("googlenet_2014", "inception_3a/3x3_reduce.weight", "stage1.3a.three.reduce.conv.weight"),
        ("googlenet_2014", "inception_5b/pool_proj.weight", "stage3.5b.pool.project.conv.weight"),
        ("googlenet_2014", "loss3/classifier.weight", "head.weight"),
        ("googlenet_2014", "loss1/classifier.weight", None),
    ],
)
def test_names_of_published_files(name: str, published: str, key: str | None) -> None:
    assert BACKBONES[name].conventions[0].chain_key(published) == key


def test_random_weights_are_the_sources() -> None:
    new = load_network("googlenet", "random", input_size=32, classes=100).chain
    weight = new["stage2"].get_submodule("4e.three.filter.conv").weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert 0 < new["head"].bias.abs().max() <= 1024**-0.5
    old = load_network("googlenet_2014", "random", input_size=32, classes=100).chain
    conv = old["stage2"].get_submodule("4e.three.filter.conv")
    bound = (3 / (160 * 9)) ** 0.5
    assert 0.99 * bound < conv.weight.abs().max() <= bound
    assert (conv.bias == 0.2).all()
    assert not old["head"].bias.any()


@pytest.mark.parametrize(("resize_size", "top1", "top5"), [(256, 663, 878)])  # 669, 887 at 224
def test_2014_is_right_on_as_many_imagenet_images_as_published(
    real_data: Callable[[str], Path], data_folder: Path, tmp_path: Path, resize_size: int, top1: int, top5: int
) -> None:
    network = load_network("googlenet_2014", data_folder / "weights" / "bvlc_googlenet_oihw_fp32.npz")
    found = count_right(network, real_data("imagenet-val-1000"), resize_size, tmp_path)
    print(f"top-1, top-5 of 1000: {found}")
    assert found == (pytest.approx(top1, abs=5), pytest.approx(top5, abs=5))
