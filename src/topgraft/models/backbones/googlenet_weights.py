"""The inception modules of GoogLeNet, and the names of its layers in files of weights."""

from __future__ import annotations

# Of each module the channels of: 1×1; reduction before 3×3, 3×3; reduction before 5×5, 5×5; projection after the pool.
STAGES: tuple[dict[str, tuple[int, int, int, int, int, int]], ...] = (
    {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)},
    {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
)


def module_names() -> dict[str, str]:
    """Every inception module's own name and its place in the chain: ``3a`` → ``stage1.3a``."""
    return {name: f"stage{stage}.{name}" for stage, modules in enumerate(STAGES, start=1) for name in modules}


def torchvision_layers() -> dict[str, str]:
    """The layers of torchvision's files and the chain's."""
    parts = {"conv1": "stem.conv1", "conv2": "stem.conv2_reduce", "conv3": "stem.conv2"}
    inner = {"branch1": "one", "branch2.0": "three.reduce", "branch2.1": "three.filter"}
    inner |= {"branch3.0": "five.reduce", "branch3.1": "five.filter", "branch4.1": "pool.project"}
    for name, ours in module_names().items():
        parts |= {f"inception{name}.{theirs}": f"{ours}.{part}" for theirs, part in inner.items()}
    names = {f"{theirs}.conv": f"{ours}.conv" for theirs, ours in parts.items()}
    names |= {f"{theirs}.bn": f"{ours}.norm" for theirs, ours in parts.items()}
    return {**names, "fc": "head"}


def caffe_layers() -> dict[str, str]:
    """The layers of Caffe's network and the chain's."""
    names = {"conv1/7x7_s2": "stem.conv1", "conv2/3x3_reduce": "stem.conv2_reduce", "conv2/3x3": "stem.conv2"}
    inner = {"1x1": "one", "3x3_reduce": "three.reduce", "3x3": "three.filter"}
    inner |= {"5x5_reduce": "five.reduce", "5x5": "five.filter", "pool_proj": "pool.project"}
    for name, ours in module_names().items():
        names |= {f"inception_{name}/{theirs}": f"{ours}.{part}" for theirs, part in inner.items()}
    return {**{theirs: f"{ours}.conv" for theirs, ours in names.items()}, "loss3/classifier": "head"}
