"""The published graphs of ResNet, and the names of their layers in files of weights."""

from __future__ import annotations

from dataclasses import dataclass

from topgraft.models.weights.convention import keras_numbers

# The convolutions of a block's branch, in order.
BASIC = ("first", "second")
BOTTLENECK = ("reduce", "filter", "expand")


@dataclass(frozen=True)
class Form:
    """What the published graphs differ in.

    Attributes:
        blocks: of each stage.
        bottleneck: blocks are 1×1, 3×3, 1×1; else 3×3, 3×3.
        early_stride: a stage halves the map in its first convolution; else in its first 3×3.
        padded_pool: the first pool has a ring of padding; else it rounds its size up.
        bias: of the convolutions.
        norm: BatchNorm follows each convolution.
        epsilon, momentum: of BatchNorm, in PyTorch's meaning: the share that a new batch has in the running values.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    early_stride: bool = False
    padded_pool: bool = True
    bias: bool = False
    norm: bool = True
    epsilon: float = 1e-5
    momentum: float = 0.1

    @property
    def parts(self) -> tuple[str, ...]:
        """The convolutions of a block's branch."""
        return BOTTLENECK if self.bottleneck else BASIC

    def widens(self, stage: int, block: int) -> bool:
        """Whether a block's input has another shape than its output, and the shortcut a convolution; from 1 and 0."""
        return block == 0 and (stage > 1 or self.bottleneck)


def torchvision_layers(form: Form) -> dict[str, str]:
    """The layers of torchvision's files and the chain's; timm's ``resnet18`` … ``resnet152`` have the same names."""
    names = {"conv1": "stem.conv", "bn1": "stem.norm"}
    for stage, count in enumerate(form.blocks, start=1):
        for block in range(count):
            theirs, ours = f"layer{stage}.{block}", f"stage{stage}.{block}"
            for number, part in enumerate(form.parts, start=1):
                names[f"{theirs}.conv{number}"] = f"{ours}.branch.{part}.conv"
                names[f"{theirs}.bn{number}"] = f"{ours}.branch.{part}.norm"
            if form.widens(stage, block):
                names[f"{theirs}.downsample.0"] = f"{ours}.shortcut.conv"
                names[f"{theirs}.downsample.1"] = f"{ours}.shortcut.norm"
    names["fc"] = "head"
    return names


def keras_layers(form: Form) -> dict[str, str]:
    """The layers of ``keras.applications.ResNet50`` and the chain's, in the order in which its code makes them."""
    names = {"conv1_conv": "stem.conv", "conv1_bn": "stem.norm"}
    for stage, count in enumerate(form.blocks, start=1):
        for block in range(count):
            theirs, ours = f"conv{stage + 1}_block{block + 1}", f"stage{stage}.{block}"
            if form.widens(stage, block):
                names[f"{theirs}_0_conv"] = f"{ours}.shortcut.conv"
                names[f"{theirs}_0_bn"] = f"{ours}.shortcut.norm"
            for number, part in enumerate(form.parts, start=1):
                names[f"{theirs}_{number}_conv"] = f"{ours}.branch.{part}.conv"
                names[f"{theirs}_{number}_bn"] = f"{ours}.branch.{part}.norm"
    names["predictions"] = "head"
    return names


def keras_numbering(form: Form) -> dict[str, str]:
    """What Keras calls the layers in a file without names; see `keras_numbers`.

    The code makes the shortcut before the branch, but its convolution is as far from the output as the branch's
    last one; the sum names the shortcut first.
    """
    blocks = [
        f"conv{stage + 1}_block{block + 1}_{number}"
        for stage, count in enumerate(form.blocks, start=1)
        for block in range(count)
        for number in ((1, 2, 0, 3) if form.widens(stage, block) else (1, 2, 3))
    ]
    names = ("conv1", *blocks)
    return keras_numbers(
        conv2d=[f"{name}_conv" for name in names],
        batch_normalization=[f"{name}_bn" for name in names],
        dense=["predictions"],
    )
