"""The state of the art of 2010: dense SIFT descriptors, a learned dictionary, Fisher vectors over a spatial pyramid.

The linear support vector machine that follows is the head; `topgraft.training.head.svm` solves it.

Lowe, Distinctive Image Features from Scale-Invariant Keypoints (2004): the descriptor, computed by OpenCV.
Arandjelović and Zisserman, Three things everyone should know to improve object retrieval (2012): its square root.
Lazebnik, Schmid and Ponce, Beyond Bags of Features (2006): the spatial pyramid.
Perronnin, Sánchez and Mensink, Improving the Fisher Kernel for Large-Scale Image Classification (2010): the rest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import DataError, UsageError
from topgraft.models.spec import Backbone, Build, Chain, Demand
from topgraft.system.threads import torch_threads

T = TypeVar("T")

WORDS = 32
"""Gaussians of the dictionary. The paper takes 256; with a pyramid that is 163,840 numbers an image, for which some
thousand images are too few and a laptop's memory too small."""

AXES = 64
"""Principal axes that a descriptor of 128 numbers is reduced to (Perronnin et al., section 4.1)."""

DESCRIPTOR = 128  # numbers of a SIFT descriptor: 4 × 4 cells of 8 directions (Lowe, section 6.1)
SIDE = 224  # pixels; the networks' own, so that both see the same

# The square around a point that its descriptor looks at, and how far the points are apart, in pixels. Perronnin et
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
WIDTH = len(REGIONS) * 2 * AXES * WORDS

_SAMPLE = 25_000  # descriptors that the dictionary is learned from: 800 for each Gaussian
_ROUNDS = 25  # of expectation and maximization; what changes later is the noise of the sample
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV make gray


class FisherCoding(nn.Module):
    """Pixels, float N×3×H×W in 0…1 (or N×1×H×W), to one Fisher vector for each image, float32 N×`WIDTH`.

    A row depends on its image alone. Buffers, all float32; `learn` gives them their values:
        mean: 128, of the descriptors' square roots.
        axes: 128×64, orthonormal: their principal axes, largest variance first.
        weights, means, deviations: 32, 32×64 and 32×64, of the Gaussians.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    weights: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(DESCRIPTOR))
        self.register_buffer("axes", torch.zeros(DESCRIPTOR, AXES))
        self.register_buffer("weights", torch.zeros(WORDS))
        self.register_buffer("means", torch.zeros(WORDS, AXES))
        self.register_buffer("deviations", torch.ones(WORDS, AXES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Find, code and pool the descriptors of a batch."""
        if x.is_meta:  # shapes only
            return x.new_empty((len(x), WIDTH), dtype=torch.float32)
        places = _places(*x.shape[2:])
        inference = torch.is_inference_mode_enabled()

        def code(image: NDArray[np.uint8]) -> torch.Tensor:
            with torch.inference_mode(inference), torch.no_grad():  # neither is inherited by a thread
                reduced = (torch.from_numpy(_describe(image)) - self.mean) @ self.axes
                return fisher_vector(reduced, places, self.weights, self.means, self.deviations)

        return torch.stack(_side_by_side(code, _gray(x)))


def fisher_vector(
    descriptors: torch.Tensor,
    places: torch.Tensor,
    weights: torch.Tensor,
    means: torch.Tensor,
    deviations: torch.Tensor,
) -> torch.Tensor:
    """The improved Fisher vector of one image, regions·2·K·D numbers, of length 1 where no region is empty.

    For each region: gradients with respect to means and deviations (Perronnin et al., equations 7 and 8, with the
    factors of Sánchez et al., Image Classification with the Fisher Vector, 2013, equations 17 and 18: 1/(n√w) and
    1/(n√2w)), their signed square roots, then length 1 (section 3); the whole is divided by √regions.

    Args:
        descriptors: n×D.
        places: regions×n, 1 where a descriptor is in a region, else 0.
        weights, means, deviations: of K Gaussians with diagonal covariance: K, K×D, K×D.
    """
    inverse = 1 / deviations.square()
    squares = descriptors.square()
    constant = weights.log() - deviations.log().sum(1) - 0.5 * (means.square() * inverse).sum(1)
    log_density = descriptors @ (means * inverse).T - 0.5 * squares @ inverse.T + constant
    posterior = log_density.softmax(1)  # n×K
    inside = (places[:, None, :] * posterior.T).flatten(0, 1)  # regions·K×n
    regions, shape = len(places), (len(places), *means.shape)
    zeroth = inside.sum(1).reshape(regions, -1, 1)
    first = (inside @ descriptors).reshape(shape)
    second = (inside @ squares).reshape(shape)
    count = places.sum(1).clamp_min(1).reshape(regions, 1, 1)
    root = weights.sqrt()[:, None]
    by_mean = (first - means * zeroth) / deviations / (count * root)
    by_deviation = (second - 2 * means * first + (means.square() - deviations.square()) * zeroth) * inverse
    vector = torch.cat([by_mean, by_deviation / (count * root * math.sqrt(2))], dim=1).flatten(1)
    rooted = vector.sign() * vector.abs().sqrt()
    return (nn.functional.normalize(rooted, dim=1) / math.sqrt(regions)).flatten()


# --- Descriptors ----------------------------------------------------------------------------------------------------


def describe(x: torch.Tensor) -> list[NDArray[np.float32]]:
    """Square roots of dense SIFT descriptors, n×128 for each image, finest scale first, each of length 1 or 0.

    Args:
        x: N×3×H×W or N×1×H×W, in 0…1.
    """
    return _side_by_side(_describe, _gray(x))


def _gray(x: torch.Tensor) -> NDArray[np.uint8]:
    gray = x[:, 0] if x.shape[1] == 1 else torch.einsum("nchw,c->nhw", x, x.new_tensor(_LUMA))
    images: NDArray[np.uint8] = (gray * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return images


def _side_by_side(work: Callable[[NDArray[np.uint8]], T], images: NDArray[np.uint8]) -> list[T]:
    """One thread for each image: OpenCV and PyTorch release the GIL.

    The products are small. Several threads to each would mostly wait for each other: on two cores that was measured
    to take five times as long. And so a row's bits do not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, images))


def _describe(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    cv2 = import_opencv()
    sift = cv2.SIFT_create(nOctaveLayers=1, sigma=_BLUR)  # one layer: the points are given, no others are sought
    found = []
    for height, width in _sizes(*image.shape):
        small = image
        if (height, width) != image.shape:
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        found.append(sift.compute(small, _keypoints(height, width))[1])
    descriptors = np.concatenate(found)
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
def _places(height: int, width: int) -> torch.Tensor:
    """Which descriptors are in which region: regions×n, 0 or 1."""
    shares = [
        (row / down, column / across) for down, across in _sizes(height, width) for row, column in _points(down, across)
    ]
    # A point on the line between two quarters is in both: else a small image would leave some empty.
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


# --- The dictionary -------------------------------------------------------------------------------------------------


def learn(chain: Chain, batches: Iterable[torch.Tensor], images: int, seed: int) -> None:
    """Learn principal axes and Gaussians from some images, changing the chain's base in place.

    The same images, seed and versions give the same bits, whatever the number of threads.

    Args:
        chain: of `build`.
        batches: normalized pixels, N×3×H×W in 0…1.
        images: how many there are, at most.
        seed: of the descriptors that are taken, and of the Gaussians' start.

    Raises:
        DataError: too few descriptors.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    base = chain["base"]
    assert isinstance(base, FisherCoding)
    each = max(1, _SAMPLE // max(images, 1))
    generator = np.random.default_rng(seed)
    taken = [_some(found, each, generator) for batch in batches for found in describe(batch)]
    sample = np.concatenate(taken).astype(np.float64) if taken else np.empty((0, DESCRIPTOR))
    if len(sample) < 2 * WORDS:
        raise DataError(
            f"{len(taken)} training images give {len(sample)} local descriptors, too few for a dictionary of {WORDS} "
            "words; add images, or take a larger input size"
        )
    mean = sample.mean(axis=0)
    # Sums over threads are added up in the order in which they finish: with one thread it is always the same.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped early on purpose
        axes = np.linalg.eigh((sample - mean).T @ (sample - mean))[1][:, ::-1][:, :AXES]
        mixture = GaussianMixture(
            WORDS, covariance_type="diag", init_params="k-means++", max_iter=_ROUNDS, random_state=seed
        ).fit((sample - mean) @ axes)
    values = {
        "mean": mean,
        "axes": axes,
        "weights": mixture.weights_,
        "means": mixture.means_,
        "deviations": np.sqrt(mixture.covariances_),
    }
    with torch.no_grad():
        for name, value in values.items():
            getattr(base, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _some(found: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    if len(found) <= count:
        return found
    return found[np.sort(generator.choice(len(found), count, replace=False))]


# --- The record -----------------------------------------------------------------------------------------------------


def build(build: Build) -> Chain:
    """Groups ``base``, a `FisherCoding`, and ``head``, one Linear."""
    return {"base": FisherCoding(), "head": nn.Linear(WIDTH, build.classes)}


def initialize(chain: Chain, generator: torch.Generator) -> None:
    """A dictionary drawn at random, before it is learned, and a head of zeros.

    Random directions for axes, and random points for Gaussians, at the spread that descriptors of length 1 have.
    """
    base, head = chain["base"], chain["head"]
    assert isinstance(base, FisherCoding)
    assert isinstance(head, nn.Linear)
    spread = 1 / math.sqrt(DESCRIPTOR)
    base.mean.fill_(spread)
    base.axes.copy_(torch.linalg.qr(torch.randn(DESCRIPTOR, AXES, generator=generator))[0])
    base.weights.fill_(1 / WORDS)
    base.means.copy_(torch.randn(WORDS, AXES, generator=generator) * spread / 2)
    base.deviations.fill_(spread)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


DESCRIPTOR_CODING = Backbone(
    name="descriptor_coding",
    family="descriptor_coding",
    year=2010,
    paper="Improving the Fisher Kernel for Large-Scale Image Classification, "
    "https://doi.org/10.1007/978-3-642-15561-1_11",
    groups=("base", "head"),
    feature_width=WIDTH,
    build=build,
    initialize=initialize,
    conventions=(),
    untrained=ImageSpec(SIDE, SIDE, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    learn=learn,
    solver="svm",
    demand=Demand("torch", "fp32", "cpu", "OpenCV finds the descriptors, on the processor"),
    libraries=("opencv-python-headless",),
    require=import_opencv,
)
