"""The table of published weights against the metadata that their publisher ships."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build
from topgraft.models.summary import summarize
from topgraft.models.weights.published import WEIGHTS, Weights

ROWS = {name: row for name, row in WEIGHTS.items() if row.url.startswith("https://download.pytorch.org/models/")}
NETWORKS = [
    "alexnet",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "googlenet",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "squeezenet1_1",
]
UNUSABLE = {"vgg16": {"IMAGENET1K_FEATURES"}}  # its dense layers are NaN


def theirs(name: str) -> dict[str, Any]:
    """torchvision's entries of one network by our names, its own default first."""
    from torchvision.models import get_model_weights

    known = get_model_weights(name)
    entries = sorted((entry for entry in known), key=lambda entry: entry != known.DEFAULT)
    return {f"{name}_{entry.name.lower()}": entry for entry in entries if entry.name not in UNUSABLE.get(name, ())}


def test_no_network_is_missing() -> None:
    assert {row.backbone for row in ROWS.values()} == set(NETWORKS)


@pytest.mark.parametrize("network", NETWORKS)
def test_torchvisions_default_is_ours_and_no_version_is_missing(timm: ModuleType, network: str) -> None:
    assert BACKBONES[network].weights == tuple(theirs(network))
    assert {name for name, row in ROWS.items() if row.backbone == network} == set(theirs(network))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_says_what_torchvision_says(timm: ModuleType, row: Weights) -> None:
    entry = theirs(row.backbone)[row.name]
    assert row.url == entry.url == f"https://download.pytorch.org/models/{row.file}"
    assert f"-{row.sha256}." in row.file
    assert row.size == pytest.approx(entry.meta["_file_size"] * 2**20, abs=1)
    metrics = entry.meta["_metrics"]["ImageNet-1K"]
    assert (row.top1, row.top5) == (pytest.approx(metrics["acc@1"] / 100), pytest.approx(metrics["acc@5"] / 100))
    assert row.classes == len(entry.meta["categories"])
    assert row.license == "not stated"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_pixels_are_torchvisions(timm: ModuleType, row: Weights) -> None:
    preset = theirs(row.backbone)[row.name].transforms()
    spec = row.spec
    assert [spec.input_size] == preset.crop_size
    assert [spec.resize_size] == preset.resize_size
    assert spec.interpolation == preset.interpolation.value
    assert spec.channel_order == "RGB"
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = (image - column(preset.mean)) / column(preset.std)
    if row.backbone == "googlenet":  # the network changes them once more
        from torchvision.models import GoogLeNet

        with torch.device("meta"):
            network = GoogLeNet(init_weights=False, transform_input=True)
        seen = network._transform_input(seen)
    torch.testing.assert_close((image - column(spec.mean)) / column(spec.std), seen, rtol=1e-12, atol=1e-12)


def column(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_parameters_and_work_are_what_torchvision_states(timm: ModuleType, network: str) -> None:
    entry = next(iter(theirs(network).values()))
    with torch.device("meta"):
        chain = BACKBONES[network].build(Build(input_size=224, classes=1000, top="published"))
    assert sum(p.numel() for p in nn.ModuleDict(chain).parameters()) == entry.meta["num_params"]
    assert summarize(network, 224, 1000).multiply_adds == pytest.approx(entry.meta["_ops"] * 1e9, rel=0.01)
