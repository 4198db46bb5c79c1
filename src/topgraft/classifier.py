"""A classifier: normalise the pixels, run the groups of a chain. It knows nothing of training."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from .backbones import Chain, find_backbone
from .errors import UsageError
from .records import ImageSpec
from .weights import find_weights, load_weights


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
        """Normalise one batch."""
        x = pixels.permute(0, 3, 1, 2)
        if self.reverse:
            x = x.flip(1)
        return (x.to(self.mean.dtype) - self.mean) / self.scale


def _per_channel(values: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([255.0 * value for value in values], dtype=torch.float32).reshape(1, 3, 1, 1)


class Classifier(nn.Module):
    """A published network with a top.

    Attributes:
        groups: name → module in the chain's order, image side first; the last is ``head``, one Linear.
        spec: how pixels are made for the network.
        normalise: uint8 N×H×W×3 RGB → float32 N×3×H×W; see `Normalise`.

    The keys of ``classifier.groups.state_dict()`` are those of `topgraft.weights.load_weights`.
    """

    def __init__(self, chain: Chain, spec: ImageSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.groups = nn.ModuleDict(chain)
        self.spec = spec

    @property
    def head(self) -> nn.Linear:
        """The last group."""
        head = self.groups["head"]
        assert isinstance(head, nn.Linear)
        return head

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


def load_pretrained(backbone: str, weights: str | None = None) -> Classifier:
    """The published network with its published top, in evaluation mode.

    Args:
        backbone: a name in `topgraft.backbones.BACKBONES`.
        weights: a name in `topgraft.weights.WEIGHTS`; the backbone's first if None.

    Raises:
        UsageError: an unknown name, or weights of another network.
        WeightsError: the weights are not here, are damaged, or do not fit.
    """
    network = find_backbone(backbone)
    chosen = find_weights(weights or network.weights[0])
    if chosen.backbone != backbone:
        raise UsageError(
            f"the weights {chosen.name} are for {chosen.backbone}, not for {backbone}; "
            f"{backbone} has {', '.join(network.weights)}"
        )
    with torch.device("meta"):  # no time for values that are replaced at once, and no random number drawn
        chain = network.build(chosen.spec.input_size, chosen.classes)
    classifier = Classifier(chain, chosen.spec)
    classifier.groups.load_state_dict(load_weights(chosen.name), assign=True)
    return classifier.eval()


def replace_top(classifier: Classifier, classes: int) -> Classifier:
    """A new classifier on the same base modules, with a new head of zeros for `classes` classes.

    The given one keeps its own head; the modules below are shared, not copied.

    Raises:
        UsageError: fewer than one class.
    """
    if classes < 1:
        raise UsageError(f"a head needs at least one class, not {classes}")
    old = classifier.head
    # Made on the meta device so that no random number is drawn: what is drawn later stays the same. Its tensors are
    # assigned, because `to_empty` imports all of SymPy.
    head = nn.Linear(old.in_features, classes, device="meta", dtype=old.weight.dtype)
    head.weight = nn.Parameter(old.weight.new_zeros(classes, old.in_features))
    head.bias = nn.Parameter(old.weight.new_zeros(classes))
    chain = {**dict(classifier.groups.items()), "head": head}
    grafted = Classifier(chain, classifier.spec)
    grafted.normalise = classifier.normalise
    for new in (grafted, grafted.groups, head):  # the shared modules keep their own modes
        new.training = classifier.training
    return grafted
