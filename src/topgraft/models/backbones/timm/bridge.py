"""Any convolutional network of timm as a backbone: ``timm:NAME``, with timm's own stages, weights and preprocessing.

timm (PyTorch Image Models, https://github.com/huggingface/pytorch-image-models) is an optional dependency, and so is
what it imports, torchvision: the latter fits one build of PyTorch only, and cannot be imported with another.
Nothing here imports timm before the first network is asked for.

Networks are divided where timm says that their stages end, and the division is proved on random images before it is
used; see `topgraft.models.backbones.timm.stages`. timm's transformers are taken where they have the same interface.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError, WeightsError
from topgraft.models.spec import SMALLEST_INPUT, Backbone, Build, Chain, Fetched
from topgraft.models.weights.convention import Convention
from topgraft.system.download import is_offline

from .stages import PROBE_CLASSES, Cut, Layout, Pooled, cut, find_layout, line_of, seeded

PREFIX = "timm:"
_CLASSES = 1000  # of the top that is built where nothing says another number
_SIDES = (64, 128)  # in pixels, of the images that a division is proved on; the network's own size is tried last
_FILTERS = ("bilinear", "bicubic")  # of a resize, as an ImageSpec has them


@dataclass(frozen=True)
class _Source:
    """One network of timm.

    Attributes:
        name: as timm knows it, maybe with the tag of its weights: ``resnet18.a1_in1k``.
        fixed: the only size that it takes, in pixels a side; 0 where it takes any that is large enough.
    """

    name: str
    fixed: int

    def make(self, classes: int, channels: int = 3, pretrained: bool = False) -> Any:
        """The network. timm draws its weights from PyTorch's own generator."""
        return _timm(self.name).create_model(self.name, pretrained=pretrained, num_classes=classes, in_chans=channels)


def find_timm(name: str) -> Backbone:
    """The record of ``timm:NAME``. The first time, the network is built and run on two small images, on the processor.

    Raises:
        UsageError: timm has no such network, is not here or cannot be imported; or the network has not timm's
            interface, or gives no vector of features.
    """
    plain = name.removeprefix(PREFIX)
    timm = _timm(plain)
    if ":" in plain or "/" in plain or not timm.is_model(plain):
        close = get_close_matches(plain.lower(), timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(PREFIX + match for match in close)}?" if close else "see timm.list_models()"
        raise UsageError(f"timm {timm.__version__} has no network named {plain!r}; {hint}")
    return _record(plain)


@lru_cache(maxsize=64)
def _record(name: str) -> Backbone:
    timm = _timm(name)
    published = _described(timm, name)
    source = _Source(name, published["input_size"][-1] if published.get("fixed_input_size") else 0)
    spec, notes = image_spec(timm, published)
    sides = (source.fixed,) if source.fixed else tuple(dict.fromkeys((*_SIDES, spec.input_size)))
    try:
        layout = find_layout(partial(source.make, PROBE_CLASSES), sides)
    except UsageError as reason:
        raise UsageError(f"{PREFIX}{name} cannot be a backbone: {reason}") from reason
    made = _without_memory(source, layout, Build(input_size=spec.input_size, classes=PROBE_CLASSES))
    if not layout.dense:
        notes = (*notes, "its published top is not one dense layer on its features, so that the head is always new")
    return Backbone(
        name=f"{PREFIX}{name}",
        family="timm",
        year=0,
        paper=f"timm {timm.__version__}, {_origin(published)}",
        groups=tuple(made.chain),
        feature_width=layout.width,
        build=partial(_build, source, layout),
        initialize=partial(_initialize, source, layout),
        conventions=(
            Convention(
                "timm",
                made.layers,
                spec,
                arrange=_arrange,
                ignored=() if layout.dense else tuple(f"{path}." for path in layout.top),
                headless=not layout.dense,
            ),
        ),
        untrained=spec,
        whole=layout.whole,
        constants=partial(_constants, source, layout) if _unsaved(made.chain) else None,
        fetch=partial(_fetch, source, published) if _has_weights(published) else None,
        libraries=("timm",),
        notes=notes,
    )


def _timm(name: str) -> Any:
    try:
        import timm
        import timm.data
    except Exception as error:  # besides ImportError: torchvision with another build of PyTorch raises many kinds
        if isinstance(error, ModuleNotFoundError) and error.name == "timm":
            raise UsageError(f"{PREFIX}{name} needs timm, which is not installed: pip install topgraft[timm]") from None
        raise UsageError(
            f"{PREFIX}{name} needs timm, which cannot be imported ({type(error).__name__}: {line_of(error)}). It needs "
            f"torchvision, which must be made for the PyTorch that is here, {torch.__version__}: install both from "
            "the same place (https://pytorch.org/get-started), then pip install topgraft[timm]"
        ) from error
    return timm


def _described(timm: Any, name: str) -> Mapping[str, Any]:
    """What timm says of a network's weights and their preprocessing (its ``PretrainedCfg``)."""
    try:
        published: Mapping[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    except RuntimeError as error:
        raise UsageError(f"timm has no weights of {PREFIX}{name}: {error}") from None
    return published


def image_spec(timm: Any, published: Mapping[str, Any]) -> tuple[ImageSpec, tuple[str, ...]]:
    """How timm makes pixels for a network when it evaluates, and in what this differs.

    timm resizes the shorter side to ⌊side / crop_pct⌋ (``transforms_imagenet_eval`` in
    ``timm/data/transforms_factory.py``).
    """
    config = timm.data.resolve_data_config(pretrained_cfg=dict(published))
    side = int(config["input_size"][-1])
    notes = []
    kind = config["interpolation"]
    if kind not in _FILTERS:
        notes.append(f"timm resizes its images with {kind}; here it is bicubic")
    if config["crop_mode"] != "center":
        notes.append(f"timm crops its images in the mode {config['crop_mode']}; here it is the central square")
    resize = math.floor(side / config["crop_pct"])
    spec = ImageSpec(
        side,
        max(side, resize),
        kind if kind in _FILTERS else "bicubic",
        _three(config["mean"]),
        _three(config["std"]),
    )
    return spec, tuple(notes)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values if len(values) == 3 else [values[0]] * 3
    return float(red), float(green), float(blue)


def _origin(published: Mapping[str, Any]) -> str:
    return str(published.get("paper_name") or published.get("origin_url") or published.get("architecture") or "")


# --- Chains ---------------------------------------------------------------------------------------------------------


def _cut(source: _Source, layout: Layout, asked: Build, seed: int = 0) -> Cut:
    return seeded(lambda: cut(source.make(asked.classes, asked.channels), layout, asked), seed)


def _build(source: _Source, layout: Layout, asked: Build) -> Chain:
    """The chain on the default device; parameters that are not on meta hold timm's own initial values."""
    _check_size(source, layout, asked.input_size)
    if torch.empty(0).device.type == "meta":
        return _without_memory(source, layout, asked).chain
    return _cut(source, layout, asked).chain


def _without_memory(source: _Source, layout: Layout, asked: Build) -> Cut:
    try:
        with torch.device("meta"):
            return cut(source.make(asked.classes, asked.channels), layout, asked)
    except RuntimeError:  # a few read values of a tensor while they are built
        made = _cut(source, layout, asked)
        nn.ModuleDict(made.chain).to("meta")
        return made


@lru_cache(maxsize=256)
def _check_size(source: _Source, layout: Layout, side: int) -> None:
    if side < SMALLEST_INPUT:
        raise UsageError(f"an input size of {side} is too small; the smallest is {SMALLEST_INPUT}")
    if source.fixed and side != source.fixed:
        raise UsageError(f"{PREFIX}{source.name} takes images of {source.fixed} pixels a side, not of {side}")
    x = torch.zeros(1, 3, side, side, device="meta")
    chain = _without_memory(source, layout, Build(input_size=side, classes=PROBE_CLASSES)).chain
    try:
        with torch.no_grad():
            for group in chain.values():
                x = group.eval()(x)
    except Exception as error:  # whatever another author's network raises where an image is too small for it
        raise UsageError(
            f"{PREFIX}{source.name} takes no images of {side} pixels a side ({line_of(error)}); try a larger size"
        ) from error


def _initialize(source: _Source, layout: Layout, chain: Chain, generator: torch.Generator) -> None:
    """As timm does. It draws from PyTorch's own generator, which is seeded from this one and then put back."""
    seed = int(torch.randint(2**62, (), generator=generator))
    asked = next(module.asked for module in nn.ModuleDict(chain).modules() if isinstance(module, Pooled))
    drawn = _cut(source, layout, asked, seed).chain
    nn.ModuleDict(chain).load_state_dict(nn.ModuleDict(drawn).state_dict())


def _constants(source: _Source, layout: Layout, asked: Build) -> dict[str, torch.Tensor]:
    return _unsaved(_cut(source, layout, asked).chain)


def _unsaved(chain: Chain) -> dict[str, torch.Tensor]:
    """Buffers that a network computes when it is built and keeps out of its files, as the kernels of blurs."""
    groups = nn.ModuleDict(chain)
    saved = groups.state_dict().keys()
    return {key: buffer for key, buffer in groups.named_buffers() if key not in saved}


# --- Weights --------------------------------------------------------------------------------------------------------


def _arrange(key: str, tensor: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """The kernel of a classifier that is a 1×1 convolution, O×I×1×1, as a dense layer's, O×I."""
    if key == "head.weight" and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def _has_weights(published: Mapping[str, Any]) -> bool:
    return any(published.get(key) for key in ("url", "hf_hub_id", "file"))


def _fetch(source: _Source, published: Mapping[str, Any]) -> Fetched:
    """The published weights, by timm's own download into its own cache (the Hugging Face hub's).

    Raises:
        WeightsError: ``TOPGRAFT_OFFLINE`` is set, or timm cannot get them.
    """
    where = published.get("hf_hub_id") or published.get("url")
    tag = published.get("tag")
    name = f"{PREFIX}{published['architecture']}" + (f".{tag}" if tag else "")
    otherwise = f"Give a file of them ({where}) as the weights, or random to train the network from nothing"
    if is_offline():
        raise WeightsError(f"TOPGRAFT_OFFLINE is set, and timm downloads the weights of {name}. {otherwise}")
    try:
        network = seeded(lambda: source.make(published.get("num_classes") or _CLASSES, pretrained=True), 0)
    except Exception as error:  # the hub's client raises those of its HTTP library
        raise WeightsError(
            f"timm cannot get the weights of {name} ({line_of(error)}); without a connection nothing can be "
            f"downloaded. {otherwise}"
        ) from None
    return Fetched(network.state_dict(), name, str(published.get("license") or "not stated"))
