"""Networks, weights and preprocessing that timm publishes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError, WeightsError
from topgraft.models.spec import Fetched
from topgraft.system.download import is_offline

from .cut import seeded
from .proof import line_of

PREFIX = "timm:"
PUBLISHED_CLASSES = 1000  # classes of the published top if its record does not state them
_FILTERS = ("bilinear", "bicubic")  # filters of a resize that an ImageSpec supports


@dataclass(frozen=True)
class TimmNetwork:
    """One network of timm.

    Attributes:
        name: name in timm, optionally with the tag of its weights: ``resnet18.a1_in1k``.
        fixed: the only input size in pixels that it takes; 0 if it takes any size that is large enough.
    """

    name: str
    fixed: int

    def make(self, classes: int, channels: int = 3, pretrained: bool = False) -> Any:
        """Build the network. timm draws its weights from PyTorch's global generator."""
        return import_timm(self.name).create_model(
            self.name, pretrained=pretrained, num_classes=classes, in_chans=channels
        )


def import_timm(name: str) -> Any:
    """The module ``timm``, for the network `name`.

    Raises:
        UsageError: timm is not installed or cannot be imported.
    """
    try:
        import timm
        import timm.data
    except Exception as error:  # besides ImportError: torchvision with another build of PyTorch raises many kinds
        if isinstance(error, ModuleNotFoundError) and error.name == "timm":
            raise UsageError(f"{PREFIX}{name} needs timm, which is not installed: pip install topgraft[timm]") from None
        raise UsageError(
            f"{PREFIX}{name} needs timm, which cannot be imported ({type(error).__name__}: {line_of(error)}). It needs "
            f"torchvision, which must be built for the installed PyTorch, {torch.__version__}: install both from "
            "the same place (https://pytorch.org/get-started), then pip install topgraft[timm]"
        ) from error
    return timm


def pretrained_config(timm: Any, name: str) -> Mapping[str, Any]:
    """The ``PretrainedCfg`` of a network: its weights and their preprocessing.

    Raises:
        UsageError: timm has no weights of that name.
    """
    try:
        published: Mapping[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    except RuntimeError as error:
        raise UsageError(f"timm has no weights of {PREFIX}{name}: {error}") from None
    return published


def image_spec(timm: Any, published: Mapping[str, Any]) -> tuple[ImageSpec, tuple[str, ...]]:
    """The evaluation preprocessing of timm for a network, and notes on the differences from it.

    timm resizes the shorter side to ⌊side / crop_pct⌋ (``transforms_imagenet_eval`` in
    ``timm/data/transforms_factory.py``).
    """
    config = timm.data.resolve_data_config(pretrained_cfg=dict(published))
    side = int(config["input_size"][-1])
    notes = []
    interpolation = config["interpolation"]
    if interpolation not in _FILTERS:
        notes.append(f"timm resizes its images with {interpolation}; here it is bicubic")
    if config["crop_mode"] != "center":
        notes.append(f"timm crops its images in the mode {config['crop_mode']}; here it is the central square")
    resize = math.floor(side / config["crop_pct"])
    spec = ImageSpec(
        side,
        max(side, resize),
        interpolation if interpolation in _FILTERS else "bicubic",
        _three(config["mean"]),
        _three(config["std"]),
    )
    return spec, tuple(notes)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values if len(values) == 3 else [values[0]] * 3
    return float(red), float(green), float(blue)


def origin(published: Mapping[str, Any]) -> str:
    """The paper of a network, else its address, else its architecture."""
    return str(published.get("paper_name") or published.get("origin_url") or published.get("architecture") or "")


# --- Weights --------------------------------------------------------------------------------------------------------


def arrange(key: str, tensor: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """The kernel of a 1×1 convolution as head, O×I×1×1, reshaped to that of a dense layer, O×I; others as they are."""
    if key == "head.weight" and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def has_weights(published: Mapping[str, Any]) -> bool:
    """Whether weights of the network are published."""
    return any(published.get(key) for key in ("url", "hf_hub_id", "file"))


def fetch_weights(source: TimmNetwork, published: Mapping[str, Any]) -> Fetched:
    """The published weights, downloaded by timm into its cache (that of the Hugging Face hub).

    Raises:
        WeightsError: ``TOPGRAFT_OFFLINE`` is set, or timm cannot get them.
    """
    address = published.get("hf_hub_id") or published.get("url")
    tag = published.get("tag")
    name = f"{PREFIX}{published['architecture']}" + (f".{tag}" if tag else "")
    advice = f"Give a file of them ({address}) as the weights, or random to train the network from scratch"
    if is_offline():
        raise WeightsError(f"TOPGRAFT_OFFLINE is set, and timm downloads the weights of {name}. {advice}")
    try:
        network = seeded(lambda: source.make(published.get("num_classes") or PUBLISHED_CLASSES, pretrained=True), 0)
    except Exception as error:  # the hub's client raises the exceptions of its HTTP library
        raise WeightsError(
            f"timm cannot get the weights of {name} ({line_of(error)}); without a connection nothing can be "
            f"downloaded. {advice}"
        ) from None
    return Fetched(network.state_dict(), name, str(published.get("license") or "not stated"))
