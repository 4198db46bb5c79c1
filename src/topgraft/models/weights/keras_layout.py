"""Tensors in the layouts of other frameworks, turned into PyTorch's. No value is changed."""

from __future__ import annotations

import torch

KERAS_TENSORS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Keras's names of the tensors of convolutions, dense layers and BatchNorm, and PyTorch's."""


def from_keras(key: str, tensor: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """H×W×I×O kernels of convolutions as O×I×H×W, I×O kernels of dense layers as O×I, all else as it is.

    For networks whose dense layers stand on pooled vectors: a dense layer on a flattened map would also have its
    inputs in another order.
    """
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1)
    return tensor.t() if tensor.dim() == 2 else tensor
