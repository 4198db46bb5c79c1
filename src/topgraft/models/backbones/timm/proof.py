"""Prove on random images that a chain computes the features of its network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.models.spec import Chain

from .cut import Unsplittable

TOLERANCE = 1e-5
"""Largest difference between chain and network relative to the largest value of the network. Both run the same float32
operations in the same order; differences come from convolutions that PyTorch computes differently by memory layout."""


def randomized(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with random values with which every layer has an effect.

    Initially norms have little effect and some scales are 0 or 1e-6. `_measure_norms` sets the statistics of BatchNorm:
    with others, two images give nearly the same features at the end of a deep network.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.numel() > 1 and max(tensor.shape) < tensor.numel():
                continue  # the kernel of a convolution or a dense layer
            if name.endswith("bias"):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


def _measure_norms(network: Any, images: torch.Tensor) -> None:
    """Set the statistics of every BatchNorm to the mean and variance of its input for these images."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(images)
    network.eval()


def reference_outputs(network: Any, sides: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Random images of a size that the network takes, its own features of them, and what its forward pass gives."""
    reason = ""
    for side in sides:
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        images[1] = 3 * images[1] + 1  # other statistics too: without BatchNorm, networks see little else in noise
        try:
            _measure_norms(network, images)
            with torch.inference_mode():
                features = network.forward_head(network.forward_features(images), pre_logits=True)
                logits = network(images)
        except Exception as error:  # whatever another author's network raises where an image is too small for it
            reason = line_of(error)
            continue
        if not isinstance(features, torch.Tensor):
            raise UsageError("its features are more than one tensor")
        features = features.flatten(1) if features.dim() == 4 and features.shape[2:] == (1, 1) else features
        if features.dim() != 2:
            raise UsageError(f"its features are not a vector but have the shape {tuple(features.shape[1:])}")
        require_varied(features)
        return images, features, logits
    raise UsageError(f"it takes no images of {', '.join(map(str, sides))} pixels a side ({reason})")


def require_equal(chain: Chain, images: torch.Tensor, features: torch.Tensor) -> None:
    x: Any = images
    with torch.inference_mode():
        for name in list(chain)[:-1]:
            try:
                x = chain[name](x)
            except Exception as error:  # another's module, given what it is not made for
                raise Unsplittable(f"{name} does not run on what the group before it gives") from error
            if not isinstance(x, torch.Tensor):
                raise Unsplittable(f"more than one tensor comes out of {name}")
    if not is_equal(x, features):
        raise Unsplittable("its stages, run one after the other, give other features than timm's own forward pass")


def require_varied(features: torch.Tensor) -> None:
    if not (features[0] - features[1]).abs().max() > 10 * TOLERANCE * features.abs().max():
        raise UsageError("its features of two random images are the same, so that nothing can be compared")


def is_equal(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def line_of(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
