from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from topgraft.models.backbones.efficientnet_lite import LITE0, InvertedResidual, repeats, round_width
from topgraft.models.classifier import load_pretrained
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build


@pytest.mark.parametrize(("number", "size"), [(0, 224), (0, 191), (1, 240), (2, 260)])
def test_equals_timm_on_the_same_tensors(timm: ModuleType, number: int, size: int) -> None:
    mine = load_pretrained(f"efficientnet_lite{number}")
    reference = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    # timm has the same tensors in the same order under other names.
    state = mine.groups.state_dict()
    assert len(state) == len(reference.state_dict())
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))

    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        x = mine.normalise(pixels)
        features = reference.forward_head(reference.forward_features(x), pre_logits=True)
        torch.testing.assert_close(mine.features(pixels), features, rtol=0, atol=1e-4)
        logits = mine(pixels)
        torch.testing.assert_close(logits, reference(x), rtol=0, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 0.1, "the comparison would not notice a network that ignores its input"


@pytest.mark.parametrize(
    ("name", "trainable", "widths", "blocks"),
    [
        ("efficientnet_lite0", 4_652_008, (32, 16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
        ("efficientnet_lite1", 5_416_680, (32, 16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
        ("efficientnet_lite2", 6_092_072, (32, 16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    ],
)
def test_widths_and_depths_are_the_published_ones(
    name: str, trainable: int, widths: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        chain = BACKBONES[name].build(Build(input_size=224, classes=1000))
    stages = [chain[f"stage{number}"] for number in range(1, 8)]
    assert [sum(isinstance(block, InvertedResidual) for block in stage.children()) for stage in stages] == list(blocks)
    outputs = [
        chain["stem"].conv.out_channels,
        *(stage[count - 1].project.conv.out_channels for stage, count in zip(stages, blocks, strict=True)),
    ]
    assert tuple(outputs) == widths
    assert sum(p.numel() for module in chain.values() for p in module.parameters()) == trainable


def test_boundaries_at_224() -> None:
    with torch.device("meta"):
        chain = BACKBONES["efficientnet_lite0"].build(Build(input_size=224, classes=1000))
        x = torch.zeros(1, 3, 224, 224)
    shapes = {}
    for name, group in chain.items():
        x = group.eval()(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes == {
        "stem": (32, 112, 112),
        "stage1": (16, 112, 112),
        "stage2": (24, 56, 56),
        "stage3": (40, 28, 28),
        "stage4": (80, 14, 14),
        "stage5": (112, 14, 14),
        "stage6": (192, 7, 7),
        "stage7": (1280,),
        "head": (1000,),
    }


def test_batchnorm_and_activation_are_the_published_ones() -> None:
    chain = nn.ModuleDict(BACKBONES["efficientnet_lite0"].build(Build(input_size=32, classes=10)))
    norms = [layer for layer in chain.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    # 16 blocks of which the first does not expand: 2 + 15 × 3 in blocks, the stem and the last convolution.
    assert len(norms) == 2 + 15 * 3 + 2
    # Every one but the 16 narrow ends is followed by ReLU6.
    assert sum(isinstance(layer, nn.ReLU6) for layer in chain.modules()) == len(norms) - 16


@pytest.mark.parametrize(("stride", "channels_out", "adds"), [(1, 8, True), (2, 8, False), (1, 16, False)])
def test_a_block_adds_its_input_only_where_the_shapes_agree(stride: int, channels_out: int, adds: bool) -> None:
    block = InvertedResidual(8, channels_out, 3, stride, 6).eval()
    nn.init.zeros_(block.project.conv.weight)
    x = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    y = block(x)
    assert torch.equal(y, x) if adds else not y.any()


@pytest.mark.parametrize(
    ("channels", "rounded"), [(16 * 1.1, 16), (24 * 1.1, 24), (40 * 1.1, 48), (80 * 1.1, 88), (9, 16), (1, 8), (12, 16)]
)
def test_round_width(channels: float, rounded: int) -> None:
    assert round_width(channels) == rounded


def test_first_and_last_stage_are_never_repeated_more() -> None:
    assert repeats(1.8) == (1, 4, 4, 6, 6, 8, 1)


@pytest.mark.parametrize(
    ("published", "key"),
    [
        ("_conv_stem.weight", "stem.conv.weight"),
        ("_bn0.running_var", "stem.norm.running_var"),
        ("_blocks.0._depthwise_conv.weight", "stage1.0.depthwise.conv.weight"),
        ("_blocks.1._bn0.bias", "stage2.0.expand.norm.bias"),
        ("_blocks.4._bn1.running_mean", "stage3.1.depthwise.norm.running_mean"),
        ("_blocks.15._bn2.num_batches_tracked", "stage7.0.project.norm.num_batches_tracked"),
        ("_conv_head.weight", "stage7.last.conv.weight"),
        ("_bn1.weight", "stage7.last.norm.weight"),
        ("_fc.bias", "head.bias"),
        ("_blocks.16._bn2.weight", None),
        ("_blocks.0._se_reduce.weight", None),
        ("_blocks.x._bn2.weight", None),
        ("_swish.weight", None),
        ("_fc", None),
    ],
)
def test_names_of_the_published_file(published: str, key: str | None) -> None:
    assert LITE0.conventions[0].chain_key(published) == key
