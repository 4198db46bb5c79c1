"""The state of the art of 2010 as a baseline: dense SIFT, a learned codebook, Fisher vectors, and a linear SVM.

The SVM is the head; `topgraft.training.head.svm` solves it. Each step and its paper are in `dense_sift` and
`fisher_vectors`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import DataError
from topgraft.models.spec import Backbone, Build, Chain, Demand

from .dense_sift import DESCRIPTOR, describe, import_opencv
from .fisher_vectors import AXES, WIDTH, WORDS, FisherCoding

SIDE = 224  # pixels, as for the networks, so that both see the same images
_SAMPLE = 25_000  # descriptors to learn the codebook from: 800 for each Gaussian
_ROUNDS = 25  # of expectation maximization; later changes are smaller than the noise of the sample


def learn(chain: Chain, batches: Iterable[torch.Tensor], images: int, seed: int) -> None:
    """Learn principal axes and Gaussians from images, in place in the chain's base.

    The same images, seed and versions give the same bits, whatever the number of threads.

    Args:
        chain: result of `build`.
        batches: normalized pixels, N×3×H×W in 0…1.
        images: largest number of images.
        seed: seed of the sample of descriptors and of the Gaussians' start.

    Raises:
        DataError: too few descriptors.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    base = chain["base"]
    assert isinstance(base, FisherCoding)
    count = max(1, _SAMPLE // max(images, 1))
    generator = np.random.default_rng(seed)
    samples = [_subset(rows, count, generator) for batch in batches for rows in describe(batch)]
    sample = np.concatenate(samples).astype(np.float64) if samples else np.empty((0, DESCRIPTOR))
    if len(sample) < 2 * WORDS:
        raise DataError(
            f"{len(samples)} training images give {len(sample)} local descriptors, too few for a codebook of {WORDS} "
            "words; add images, or take a larger input size"
        )
    mean = sample.mean(axis=0)
    # Threads add their sums in the order in which they finish; with one thread the result is always the same.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops early on purpose
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


def _subset(rows: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    if len(rows) <= count:
        return rows
    return rows[np.sort(generator.choice(len(rows), count, replace=False))]


def build(build: Build) -> Chain:
    """Groups ``base``, a `FisherCoding`, and ``head``, one Linear."""
    return {"base": FisherCoding(), "head": nn.Linear(WIDTH, build.classes)}


def initialize(chain: Chain, generator: torch.Generator) -> None:
    """A random codebook, before it is learned, and a head of zeros.

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
