from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from topgraft.data.loader import batches
from topgraft.data.samples import ImageSpec, Sample
from topgraft.errors import UsageError
from topgraft.models.classifier import Classifier, Normalise, load_pretrained

LITE = ImageSpec(224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CAFFE = ImageSpec(224, 256, "bilinear", (104 / 255, 117 / 255, 123 / 255), (1 / 255, 1 / 255, 1 / 255), "BGR")


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load_pretrained("efficientnet_lite0")


def some_pixels(n: int, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def test_normalize_is_exact_for_every_value() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    x = Normalise(LITE)(values.reshape(1, 16, 16, 1).expand(1, 16, 16, 3))
    expected = (np.arange(256, dtype=np.float32) - np.float32(127.5)) / np.float32(127.5)
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == torch.float32
    for channel in range(3):
        assert np.array_equal(x[0, channel].flatten().numpy(), expected)
    assert (expected[0], expected[255]) == (-1, 1)


def test_normalize_uses_each_channels_own_numbers() -> None:
    spec = replace(LITE, mean=(0.0, 0.2, 0.4), std=(1.0, 0.2, 0.1))
    x = Normalise(spec)(torch.tensor([[[[255, 51, 0]]]], dtype=torch.uint8))
    torch.testing.assert_close(x.flatten(), torch.tensor([1.0, 0.0, -4.0]))


def test_normalize_turns_rgb_into_bgr_before_its_numbers_apply() -> None:
    pixels = torch.tensor([[[[10, 20, 30], [255, 0, 123]]]], dtype=torch.uint8)
    x = Normalise(CAFFE)(pixels)
    expected = torch.tensor([[30 - 104, 20 - 117, 10 - 123], [123 - 104, 0 - 117, 255 - 123]], dtype=torch.float32)
    torch.testing.assert_close(x[0, :, 0, :].T, expected)


@pytest.mark.parametrize("spec", [LITE, CAFFE])
def test_normalize_leaves_the_channels_last_in_memory(spec: ImageSpec) -> None:
    assert Normalise(spec)(some_pixels(2)).is_contiguous(memory_format=torch.channels_last)


def test_pretrained_is_ready_and_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    classifier = load_pretrained("efficientnet_lite0")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in classifier.modules())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in classifier.parameters())
    assert (classifier.head.in_features, classifier.head.out_features) == (1280, 1000)
    assert list(classifier.groups) == ["stem", *(f"stage{n}" for n in range(1, 8)), "head"]
    assert classifier.spec == LITE


def test_pretrained_twice_is_two_equal_networks(lite0: Classifier) -> None:
    other = load_pretrained("efficientnet_lite0", "efficientnet_lite0_imagenet")
    pixels = some_pixels(2)
    with torch.inference_mode():
        assert torch.equal(other(pixels), lite0(pixels))
    mine = {parameter.data_ptr() for parameter in lite0.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in other.parameters())


def test_only_the_groups_are_saved(lite0: Classifier) -> None:
    assert {key.split(".")[0] for key in lite0.state_dict()} == {"groups"}


def test_wrong_names_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"'efficientnet_lite'; did you mean"):
        load_pretrained("efficientnet_lite")
    with pytest.raises(UsageError, match=r"no weights named 'imagenet_7'"):
        load_pretrained("efficientnet_lite0", "imagenet_7")
    with pytest.raises(UsageError, match=r"efficientnet_lite1_imagenet are for efficientnet_lite1, not for"):
        load_pretrained("efficientnet_lite0", "efficientnet_lite1_imagenet")


def test_a_prefix_shares_the_network_and_its_names(lite0: Classifier) -> None:
    prefix = lite0.prefix("stage2")
    assert [name for name, _ in prefix.named_children()] == ["normalise", "stem", "stage1", "stage2"]
    assert not prefix.training
    state = lite0.groups.state_dict()
    assert set(prefix.state_dict()) == {key for key in state if key.split(".")[0] in ("stem", "stage1", "stage2")}
    assert all(tensor.data_ptr() == state[key].data_ptr() for key, tensor in prefix.state_dict().items())
    with torch.inference_mode():
        assert prefix(some_pixels(2)).shape == (2, 24, 16, 16)
        assert torch.equal(lite0.prefix("stage7")(some_pixels(2)), lite0.features(some_pixels(2)))
        assert torch.equal(lite0.prefix("head")(some_pixels(2)), lite0(some_pixels(2)))


def test_a_prefix_leaves_the_modes_alone() -> None:
    classifier = load_pretrained("efficientnet_lite0").train()
    classifier.groups["stem"].eval()
    prefix = classifier.prefix("stage1")
    assert prefix.training
    assert not classifier.groups["stem"].training
    assert classifier.groups["stage1"].training


def test_a_prefix_ends_at_a_group(lite0: Classifier) -> None:
    with pytest.raises(UsageError, match=r"no group 'stage8'; the groups are stem, stage1"):
        lite0.prefix("stage8")


def test_a_prefix_can_be_exported(lite0: Classifier) -> None:
    prefix = lite0.prefix("stage1")
    exported = torch.export.export(
        prefix, (some_pixels(2),), dynamic_shapes=({0: torch.export.Dim("images", min=1)},), strict=False
    )
    with torch.inference_mode():
        torch.testing.assert_close(exported.module()(some_pixels(5)), prefix(some_pixels(5)))


def test_a_new_top_is_zero_on_the_same_base(lite0: Classifier) -> None:
    before = torch.get_rng_state()
    grafted = load_pretrained("efficientnet_lite0", classes=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(grafted.groups) == list(lite0.groups)
    assert (grafted.head.in_features, grafted.head.out_features) == (1280, 3)
    assert grafted.spec == lite0.spec
    assert not any(module.training for module in grafted.modules())
    with torch.inference_mode():
        assert torch.equal(grafted(some_pixels(2)), torch.zeros(2, 3))
        assert torch.equal(grafted.features(some_pixels(2)), lite0.features(some_pixels(2)))
    with pytest.raises(UsageError, match=r"at least one class, not 0"):
        load_pretrained("efficientnet_lite0", classes=0)


@pytest.mark.parametrize(("resize_size", "published"), [(256, 734), (224, 729)])
def test_imagenet_top1_is_the_published_one(
    lite0: Classifier, real_data: Callable[[str], Path], resize_size: int, published: int
) -> None:
    """Weights, preprocessing and the order of the labels are right together, or the count would be far off."""
    folder = real_data("imagenet-val-1000")
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    samples = [Sample(row["file"], int(row["class_index"]), path=folder / row["file"]) for row in rows]
    assert len(samples) == 1000
    spec = replace(lite0.spec, resize_size=resize_size)
    right = 0
    with torch.inference_mode():
        for batch in batches(samples, spec, batch_size=50, workers=2):
            assert not batch.failed
            labels = torch.tensor([samples[index].label for index in batch.indices])
            right += int((lite0(batch.pixels).argmax(1) == labels).sum())
    print(f"{right} of 1000 right")
    assert abs(right - published) <= 5


def test_making_a_classifier_does_not_import_sympy() -> None:
    # Some operations on the meta device do, which takes as long as a third of importing PyTorch.
    code = (
        "import sys\nfrom topgraft.models.classifier import load_pretrained\n"
        "load_pretrained('efficientnet_lite0', classes=3)\nprint('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
