"""Code the descriptors of an image as a Fisher vector over a spatial pyramid.

Lazebnik, Schmid and Ponce, Beyond Bags of Features (2006): the spatial pyramid.
Perronnin, Sánchez and Mensink, Improving the Fisher Kernel for Large-Scale Image Classification (2010): the vector.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .dense_sift import DESCRIPTOR, REGIONS, dense_descriptors, grayscale, map_images, region_masks

WORDS = 32
"""Gaussians of the codebook. The paper takes 256; with a pyramid that is 163,840 numbers an image, for which some
thousand images are too few and a laptop's memory too small."""

AXES = 64
"""Principal axes that a descriptor of 128 numbers is reduced to (Perronnin et al., section 4.1)."""

WIDTH = len(REGIONS) * 2 * AXES * WORDS


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
        places = region_masks(*x.shape[2:])
        inference = torch.is_inference_mode_enabled()

        def code(image: NDArray[np.uint8]) -> torch.Tensor:
            with torch.inference_mode(inference), torch.no_grad():  # neither is inherited by a thread
                reduced = (torch.from_numpy(dense_descriptors(image)) - self.mean) @ self.axes
                return fisher_vector(reduced, places, self.weights, self.means, self.deviations)

        return torch.stack(map_images(code, grayscale(x)))


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
