"""Dense SIFT descriptors of an image, and the regions of the spatial pyramid that contain them.

Lowe, Distinctive Image Features from Scale-Invariant Keypoints (2004): the descriptor, computed by OpenCV.
Arandjelović and Zisserman, Three things everyone should know to improve object retrieval (2012): its square root.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.errors import UsageError
from topgraft.system.threads import torch_threads

T = TypeVar("T")
DESCRIPTOR = 128  # numbers of a SIFT descriptor: 4 × 4 cells of 8 directions (Lowe, section 6.1)

# Side of the square that a descriptor covers, and distance between points, in pixels. Perronnin et
# al. take squares of 32 every 16, at five scales a factor √2 apart; half of that suits images of half the size.
PATCH = 16
STEP = 5
SCALES = 5

# OpenCV makes a cell 1.5 diameters of the keypoint wide: SIFT_DESCR_SCL_FCTR 3 times half the diameter, in
# https://github.com/opencv/opencv/blob/4.x/modules/features2d/src/sift.simd.hpp
_DIAMETER = PATCH / 4 / 1.5

# Blur before gradients are taken: a sixth of the side of a cell, as VLFeat's dense SIFT recommends
# (https://www.vlfeat.org/api/dsift.html), but no less than the 0.5 that OpenCV takes images to have.
_BLUR = PATCH / 4 / 6

# Regions whose vectors stand one after the other: the whole, and its quarters; (top, left, bottom, right), in shares
# of the side.
REGIONS: tuple[tuple[float, float, float, float], ...] = (
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 0.5, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.0, 1.0, 0.5),
    (0.5, 0.5, 1.0, 1.0),
)

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV make gray


def describe(x: torch.Tensor) -> list[NDArray[np.float32]]:
    """Square roots of dense SIFT descriptors, n×128 for each image, finest scale first, each of length 1 or 0.

    Args:
        x: N×3×H×W or N×1×H×W, in 0…1.
    """
    return map_images(dense_descriptors, grayscale(x))


def grayscale(x: torch.Tensor) -> NDArray[np.uint8]:
    """Gray images, uint8 N×H×W, of a batch as in `describe`."""
    gray = x[:, 0] if x.shape[1] == 1 else torch.einsum("nchw,c->nhw", x, x.new_tensor(_LUMA))
    images: NDArray[np.uint8] = (gray * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return images


def map_images(work: Callable[[NDArray[np.uint8]], T], images: NDArray[np.uint8]) -> list[T]:
    """Run `work` on each image, one image for each thread: OpenCV and PyTorch release the GIL.

    The matrix products are small. With several threads each, they took five times as long on two cores, because the
    threads waited for each other. With one, a row's bits do not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, images))


def dense_descriptors(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Square roots of the descriptors of one gray image, n×128, as `describe` returns them."""
    cv2 = import_opencv()
    sift = cv2.SIFT_create(nOctaveLayers=1, sigma=_BLUR)  # one layer: the keypoints are given, none are detected
    descriptors_by_size = []
    for height, width in _sizes(*image.shape):
        small = image
        if (height, width) != image.shape:
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        descriptors_by_size.append(sift.compute(small, _keypoints(height, width))[1])
    descriptors = np.concatenate(descriptors_by_size)
    total = descriptors.sum(axis=1, keepdims=True)
    rooted: NDArray[np.float32] = np.sqrt(descriptors / np.maximum(total, 1))
    return rooted


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width at every scale at which a patch fits in."""
    sizes = [(round(height / 2 ** (k / 2)), round(width / 2 ** (k / 2))) for k in range(SCALES)]
    return [size for size in sizes if min(size) >= PATCH]


@lru_cache(maxsize=64)
def _points(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Row and column of the points, on a grid whose patches lie inside the image."""
    rows, columns = (range(PATCH // 2, side - PATCH // 2 + 1, STEP) for side in (height, width))
    return tuple((row, column) for row in rows for column in columns)


@lru_cache(maxsize=64)
def _keypoints(height: int, width: int) -> list[Any]:
    cv2 = import_opencv()
    return [cv2.KeyPoint(float(column), float(row), _DIAMETER, 0.0) for row, column in _points(height, width)]


@lru_cache(maxsize=16)
def region_masks(height: int, width: int) -> torch.Tensor:
    """Whether each descriptor is in each region: regions×n, 0 or 1."""
    shares = [
        (row / down, column / across) for down, across in _sizes(height, width) for row, column in _points(down, across)
    ]
    # A point on the border of two quarters is in both; otherwise a small image would leave some empty.
    inside = [[top <= y <= bottom and left <= x <= right for y, x in shares] for top, left, bottom, right in REGIONS]
    return torch.tensor(inside, dtype=torch.float32)


def import_opencv() -> ModuleType:
    """The module `cv2`.

    Raises:
        UsageError: it is not installed; the message says how to get it.
    """
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"descriptor_coding needs OpenCV, which cannot be imported ({error}); "
            "install it with: pip install 'topgraft[descriptors]'"
        ) from error
    module: ModuleType = cv2
    return module
