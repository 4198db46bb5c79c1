"""A classifier: normalize the pixels, run the groups of a chain. It knows nothing of training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError
from topgraft.models.weights.load import load_network

from .normalization import FeatureNorm, NormalizedLinear
from .spec import Chain


class Normalise(nn.Module):
    """Pixels as the dataset gives them to the numbers that the network was trained on.

    uint8 N×H×W×3 in RGB in; float32 N×3×H×W in `spec.channel_order` out, ``(x - 255·mean) / (255·std)``.
    The result lies in memory as the pixels did, channels last, so that no transposed copy is made.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        # The spec travels as a record; as saved tensors these would be a second copy of the truth.
        self.register_buffer("mean", _per_channel(spec.mean), persistent=False)
        self.register_buffer("scale", _per_channel(spec.std), persistent=False)
        self.reverse = spec.channel_order == "BGR"

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize one batch."""
        x = pixels.permute(0, 3, 1, 2)
        if self.reverse:
            x = x.flip(1)
        return (x.to(self.mean.dtype) - self.mean) / self.scale


def _per_channel(values: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([255.0 * value for value in values], dtype=torch.float32).reshape(1, 3, 1, 1)


class Classifier(nn.Module):
    """A published network with a top, its own or a new one.

    Attributes:
        groups: name → module in the chain's order, image side first; the last is ``head``, one Linear.
        spec: how pixels are made for the network.
        normalise: uint8 N×H×W×3 RGB → float32 N×3×H×W; see `Normalise`.

    The keys of ``classifier.groups.state_dict()`` are the chain's own names of its tensors.
    """

    def __init__(self, chain: Chain, spec: ImageSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.groups = nn.ModuleDict(chain)
        self.spec = spec

    @property
    def head(self) -> nn.Linear:
        """The last group; a `NormalizedLinear` where its features are normalized."""
        head = self.groups["head"]
        assert isinstance(head, nn.Linear)
        return head

    def normalize_features(self) -> None:
        """Let the last group normalize its features; they pass unchanged until `set_head` says otherwise."""
        if not isinstance(self.head, NormalizedLinear):
            self.groups["head"] = NormalizedLinear(self.head)

    def set_head(
        self, weight: NDArray[np.floating], bias: NDArray[np.floating], layer: FeatureNorm | None = None
    ) -> None:
        """Copy a solved head, classes×features and classes, and what comes before it, into the last group."""
        if layer is not None:
            self.normalize_features()
            assert isinstance(self.head, NormalizedLinear)
            self.head.norm.load_state_dict(layer.state_dict())
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(bias))

    def load_groups(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the tensors of an artifact as the groups' own; no head of format 1 has a normalization."""
        if "head.norm.radius" in tensors:
            self.normalize_features()
        self.groups.load_state_dict(tensors, assign=True)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the state, which later changes leave as it is."""
        return {key: tensor.detach().clone() for key, tensor in self.state_dict().items()}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits, N×classes, of uint8 N×H×W×3 RGB pixels."""
        x: torch.Tensor = self.head(self.features(pixels))
        return x

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The pooled vector before the head, N×feature width, of uint8 N×H×W×3 RGB pixels."""
        x: torch.Tensor = self.normalise(pixels)
        for name, group in self.groups.items():
            if name != "head":
                x = group(x)
        return x

    def after(self, boundary: str | None, x: torch.Tensor) -> torch.Tensor:
        """Logits of the activations after the group `boundary`; of pixels if it is None."""
        if boundary is None:
            return self(x)  # type: ignore[no-any-return]
        names = list(self.groups)
        for name in names[names.index(boundary) + 1 :]:
            x = self.groups[name](x)
        return x

    def prefix(self, boundary: str) -> nn.Sequential:
        """The leading groups up to and including `boundary`: uint8 N×H×W×3 RGB in, the activation after it out.

        It shares its modules with the classifier, and its state dict has the same keys as `groups`.

        Raises:
            UsageError: there is no group of that name.
        """
        if boundary not in self.groups:
            raise UsageError(f"there is no group {boundary!r}; the groups are {', '.join(self.groups)}")
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=self.normalise)
        for name, group in self.groups.items():
            layers[name] = group
            if name == boundary:
                break
        prefix = nn.Sequential(layers)
        prefix.training = self.training  # of the container alone: the modules keep their own modes
        return prefix


def load_pretrained(
    backbone: str, weights: str | Path | None = None, *, classes: int | None = None, folder: Path | None = None
) -> Classifier:
    """A network with weights as a `Classifier`, in evaluation mode; see `topgraft.models.weights.load.load_network`."""
    network = load_network(backbone, weights, classes=classes, folder=folder)
    return Classifier(network.chain, network.spec).eval()
