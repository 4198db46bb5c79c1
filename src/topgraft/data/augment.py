"""Draw augmented views of an image: which view of which image, and its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .decode import decoded
from .preprocess import FILTERS
from .samples import ImageSpec


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is drawn at random for a view of an image, instead of the central crop of its `ImageSpec`.

    Attributes:
        scale: lowest and highest share of the image's area that a crop has, above 0 and at most 1.
        ratio: lowest and highest width of a crop divided by its height.
        flip: whether every second view is mirrored, left to right.
        color: brightness, contrast and saturation are each multiplied by 1 - color … 1 + color; 0 keeps them.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: bool
    color: float


@dataclass(frozen=True, slots=True)
class View:
    """One way to see every image. What is drawn follows from `seed`, `number` and an image's digest alone.

    `seed` and `number` are 0 or more; `number` is that of the epoch, or of a view that is cached.
    """

    augmentation: Augmentation
    seed: int
    number: int

    @property
    def key(self) -> str:
        """All of it in one line; equal where, and only where, the views are."""
        drawn = self.augmentation
        low, high, narrow, wide, color = (float(x) for x in (*drawn.scale, *drawn.ratio, drawn.color))
        return (
            f"scale {low!r} {high!r} ratio {narrow!r} {wide!r} flip {int(drawn.flip)} colour {color!r} "
            f"seed {self.seed} number {self.number}"
        )


Box = tuple[int, int, int, int]


_TRIES = 10  # torchvision's, transforms/transforms.py, RandomResizedCrop.get_params
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's and torchvision's gray

# Streams of random numbers, one for each thing that is drawn: the crop alone needs more of them for some images.
_CROP, _FLIP, _COLOR = 0, 1, 2


def load_view(source: Path | bytes | NDArray[np.uint8], spec: ImageSpec, view: View, digest: str) -> NDArray[np.uint8]:
    """One augmented view: uint8 input_size×input_size×3, RGB.

    A crop (`draw_crop`) is resized to the square in one step, whatever its shape, then mirrored, then recolored
    (`recolor`). All that is drawn follows from the view's seed and number and from the digest: never from the order
    of the images, the thread or the process.

    Args:
        source: a file, its bytes, or an array H×W×3 (RGB) or H×W (gray).
        spec: size and filter. Under ``scaled`` a JPEG may be shrunk while it is decoded, as long as the crop keeps
            `input_size` pixels each way, and whole blocks may be averaged first where the crop is at least four
            times too large, as in `topgraft.data.preprocess.resize_and_crop`.
        view: what may be drawn.
        digest: the image's, in hex; see `topgraft.data.samples.Sample`.

    Raises:
        ImageError: it cannot be read; the reason in one line.
        ValueError: the digest is empty, so that all images would get the same crop.
    """
    if not digest:
        raise ValueError("a view needs the image's digest, which its random numbers come from")
    side, drawn, scaled = spec.input_size, view.augmentation, spec.decode == "scaled"

    def crop(width: int, height: int) -> Box:
        return draw_crop(width, height, drawn, _generator(view, digest, _CROP))

    def shortest_side(width: int, height: int) -> int:
        # The image's shorter side at which the crop's would be the square's; more where that is not a whole number.
        left, top, right, bottom = crop(width, height)
        return -(-min(width, height) * side // min(right - left, bottom - top))

    with decoded(source, shortest_side if scaled else None) as (image, (width, height)):
        left, top, right, bottom = crop(width, height)
        across, down = image.width / width, image.height / height  # 1 where the file was not shrunk
        small = image.resize(
            (side, side),
            FILTERS[spec.interpolation],
            box=(left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)),
            reducing_gap=2.0 if scaled else None,
        )
    if drawn.flip and _generator(view, digest, _FLIP).random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if drawn.color > 0:
        low, high = max(0.0, 1 - drawn.color), 1 + drawn.color
        brightness, contrast, saturation = _generator(view, digest, _COLOR).uniform(low, high, 3).tolist()
        small = recolor(small, brightness, contrast, saturation)
    return np.array(small)


def draw_crop(width: int, height: int, augmentation: Augmentation, generator: np.random.Generator) -> Box:
    """Left, top, right and bottom of a random crop, in whole pixels inside width×height.

    Its share of the area is uniform in `scale` and its shape in `ratio`, evenly on a logarithmic axis; one that does
    not fit is drawn again. After ten it is the largest central crop whose shape is in `ratio`, as in torchvision's
    ``RandomResizedCrop``, which has the same distribution (transforms/transforms.py; the crops are those of
    Inception, https://arxiv.org/abs/1409.4842, section 6).
    """
    narrow, wide = augmentation.ratio
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*augmentation.scale)
        shape = math.exp(generator.uniform(math.log(narrow), math.log(wide)))
        across, down = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < across <= width and 0 < down <= height:
            top = int(generator.integers(0, height - down + 1))
            left = int(generator.integers(0, width - across + 1))
            return left, top, left + across, top + down
    across, down = width, height
    if width / height < narrow:
        down = max(1, round(width / narrow))
    elif width / height > wide:
        across = max(1, round(height * wide))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def recolor(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Brightness, then contrast, then saturation, each multiplied; 1 keeps it. RGB in, RGB out.

    Brightness b multiplies every value. Contrast c moves values from the image's mean gray: ``c x + (1 - c) mean``.
    Saturation s moves them from the pixel's own gray: ``s x + (1 - s) gray``. These are the formulas of torchvision's
    ``ColorJitter`` and of Pillow's ``ImageEnhance``. All three are linear, so they are one matrix, and values are
    rounded and cut to 0…255 once, at the end.
    """
    mean = brightness * float(np.asarray(image.convert("L")).mean())
    mixed = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    matrix = np.column_stack([mixed, np.full(3, (1 - contrast) * mean)])
    return image.convert("RGB", tuple(matrix.ravel().tolist()))


def _generator(view: View, digest: str, stream: int) -> np.random.Generator:
    return np.random.default_rng([view.seed, view.number, stream, int(digest, 16)])


_RATIO = (3 / 4, 4 / 3)
AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(scale=(0.5, 1.0), ratio=_RATIO, flip=False, color=0.0),
    "standard": Augmentation(scale=(0.35, 1.0), ratio=_RATIO, flip=True, color=0.0),
    "strong": Augmentation(scale=(0.08, 1.0), ratio=_RATIO, flip=True, color=0.4),
}
"""What may be drawn for a view of an image. No augmentation is the central crop, and has no entry here.

``strong`` has the crops of Inception, 8 % to 100 % of the area at 3:4 to 4:3 (https://arxiv.org/abs/1409.4842, section
6), and the colors of ResNet's Torch code, 0.4 (https://github.com/facebookarchive/fb.resnet.torch,
datasets/imagenet.lua). ``standard`` keeps at least 35 % and flips, as fastai's own example of training does
(https://github.com/fastai/fastai, nbs/examples/train_imagenette.py). ``crop`` is for what a mirror would falsify, such
as letters and signs; it keeps at least half, so that little of what is to be told apart is cut away.
"""
