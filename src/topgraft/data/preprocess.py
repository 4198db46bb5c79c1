"""From an image to the pixels that a network sees: resize and crop. Used by every verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .decode import decoded, open_image
from .pillow_guard import pillow_guard
from .samples import ImageSpec

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def load_pixels(source: Path | bytes | NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """The pixels that a network sees: uint8 input_size×input_size×3, RGB. The one way there, for every verb.

    Args:
        source: a file, its bytes, or an array H×W×3 (RGB) or H×W (gray).
        spec: size, crop, filter, and whether a JPEG may be shrunk while it is decoded.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    with decoded(source, spec.resize_size if spec.decode == "scaled" else None) as (image, _):
        return resize_and_crop(image, spec)


def probe(data: bytes) -> tuple[int, int]:
    """Width and height from a file's header, before any orientation; no pixel is decoded.

    Raises:
        ImageError: empty, no image, or more pixels than `MAX_PIXELS`.
    """
    with pillow_guard():
        size: tuple[int, int] = open_image(data).size
    return size


def resize_and_crop(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Shorter side to `resize_size`, the central `input_size` square: uint8 input_size×input_size×3.

    The longer side is rounded down and the offsets to the nearest even, as torchvision's ``Resize`` and
    ``CenterCrop`` do. Only what the crop keeps is resized, which gives the same pixels (to one level of 255, by
    rounding) and needs no memory for the rest: a 1×5000 image would become 256×1,280,000. Under ``scaled`` Pillow
    may average whole blocks first where the image is at least four times too large (``reducing_gap``).
    """
    width, height = image.size
    short = min(width, height)
    resized = [int(spec.resize_size * side / short) for side in (width, height)]
    left, top = (round((side - spec.input_size) / 2) for side in resized)
    across, down = width / resized[0], height / resized[1]
    box = (
        max(0.0, left * across),
        max(0.0, top * down),
        min(float(width), (left + spec.input_size) * across),
        min(float(height), (top + spec.input_size) * down),
    )
    small = image.resize(
        (spec.input_size, spec.input_size),
        FILTERS[spec.interpolation],
        box=box,
        reducing_gap=2.0 if spec.decode == "scaled" else None,
    )
    return np.array(small)
