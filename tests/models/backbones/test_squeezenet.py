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
from topgraft.models.backbones.squeezenet import SQUEEZENET1_1
from topgraft.models.spec import Build
from topgraft.models.weights.key_maps import match_tensors
from topgraft.models.weights.load import load_network


@pytest.mark.usefixtures("double")
def test_equals_torchvision(torchvision: ModuleType) -> None:
    reference = drawn_reference(torchvision.models.squeezenet1_1, seed=1, num_classes=7)
    match = match_tensors(SQUEEZENET1_1, reference.state_dict(), own=False)
    assert match.build.classes == 7
    with torch.device("meta"):
        chain = SQUEEZENET1_1.build(match.build)
    nn.ModuleDict(chain).load_state_dict(match.state, assign=True)
    for size in (64, 75, 128):
        assert_equal_outputs(chain, (reference,), size)


def test_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        chain = SQUEEZENET1_1.build(Build(input_size=224, classes=1000, top="published"))
    assert sum(p.numel() for p in nn.ModuleDict(chain).parameters()) == 1_235_496


def test_own_and_published_top_stand_on_the_same_base() -> None:
    with torch.device("meta"):
        own = SQUEEZENET1_1.build(Build(input_size=224, classes=10))
        published = SQUEEZENET1_1.build(Build(input_size=224, classes=10, top="published"))
        x = y = torch.zeros(1, 3, 224, 224)
    assert list(own) == list(published) == list(SQUEEZENET1_1.groups)
    assert list(published["head"].state_dict()) == ["conv.weight", "conv.bias"]
    bases = [
        [key for name in SQUEEZENET1_1.groups[:-1] for key in chain[name].state_dict()] for chain in (own, published)
    ]
    assert bases[0] == bases[1]
    shapes = []
    for name in SQUEEZENET1_1.groups:
        x, y = own[name](x), published[name](y)
        shapes.append((tuple(x.shape[1:]), tuple(y.shape[1:])))
    assert shapes == [
        ((64, 55, 55), (64, 55, 55)),
        ((128, 27, 27), (128, 27, 27)),
        ((256, 13, 13), (256, 13, 13)),
        ((512,), (512, 13, 13)),
        ((10,), (10,)),
    ]


@pytest.mark.parametrize(
    ("published", "key"),
    [
        ("features.0.weight", "stem.conv.weight"),
        ("features.3.squeeze.bias", "stage1.fire2.squeeze.conv.bias"),
        ("features.6.expand1x1.weight", "stage2.fire4.expand1x1.conv.weight"),
        ("features.12.expand3x3.weight", "stage3.fire9.expand3x3.conv.weight"),
        ("classifier.1.weight", "head.conv.weight"),
        ("features.5.squeeze.bias", None),
        ("features.13.squeeze.bias", None),
    ],
)
def test_names_of_the_published_file(published: str, key: str | None) -> None:
    assert SQUEEZENET1_1.conventions[0].chain_key(published) == key


def test_pixels() -> None:
    expected = ImageSpec(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "RGB")
    assert SQUEEZENET1_1.conventions[0].spec == SQUEEZENET1_1.untrained == expected


def test_random_weights_are_torchvisions() -> None:
    for classes, head_key in ((100, "weight"), (None, "conv.weight")):
        chain = load_network("squeezenet1_1", "random", input_size=32, classes=classes).chain
        kernel = chain["stage3"].get_submodule("fire9.expand3x3.conv").weight
        bound = (6 / (64 * 9)) ** 0.5
        assert 0.99 * bound < kernel.abs().max() <= bound
        head = chain["head"].state_dict()[head_key]
        assert head.std().item() == pytest.approx(0.01, rel=0.05)
        assert all(not value.any() for key, value in nn.ModuleDict(chain).state_dict().items() if key.endswith("bias"))


@pytest.mark.parametrize(("resize_size", "top1", "top5"), [(256, 548, 770), (224, 562, 783)])
def test_is_right_on_as_many_imagenet_images_as_published(
    real_data: Callable[[str], Path], data_folder: Path, tmp_path: Path, resize_size: int, top1: int, top5: int
) -> None:
    network = load_network("squeezenet1_1", data_folder / "weights" / "squeezenet1_1_torchvision_keys_fp32.safetensors")
    found = count_right(network, real_data("imagenet-val-1000"), resize_size, tmp_path)
    print(f"top-1, top-5 of 1000: {found}")
    assert found == (pytest.approx(top1, abs=5), pytest.approx(top5, abs=5))
