"""Any convolutional network of timm as a backbone ``timm:NAME``, with the stages, weights and preprocessing of timm.

timm (PyTorch Image Models, https://github.com/huggingface/pytorch-image-models) is an optional dependency, and so is
torchvision, which it imports and which works with one build of PyTorch only. timm is imported when the first network is
requested.

Networks are divided at the ends of the stages that timm lists, and the division is proved on random images before use;
see `topgraft.models.backbones.timm.stages`. Transformers of timm with the same interface work too.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache, partial

import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.models.spec import SMALLEST_INPUT, Backbone, Build, Chain
from topgraft.models.weights.convention import Convention

from .cut import Cut, Layout, Pooled, cut, seeded
from .pretrained import (
    PREFIX,
    TimmNetwork,
    arrange,
    fetch_weights,
    has_weights,
    image_spec,
    import_timm,
    origin,
    pretrained_config,
)
from .proof import line_of
from .stages import PROBE_CLASSES, find_layout

_SIDES = (64, 128)  # pixels a side of the images that prove a division; the published size of the network is tried last


def find_timm(name: str) -> Backbone:
    """The record of ``timm:NAME``. The first call builds the network and runs it on two small images on the CPU.

    Raises:
        UsageError: timm has no such network, is not installed or cannot be imported; or the network does not have
            timm's interface or does not compute a vector of features.
    """
    timm_name = name.removeprefix(PREFIX)
    timm = import_timm(timm_name)
    if ":" in timm_name or "/" in timm_name or not timm.is_model(timm_name):
        close = get_close_matches(timm_name.lower(), timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(PREFIX + match for match in close)}?" if close else "see timm.list_models()"
        raise UsageError(f"timm {timm.__version__} has no network named {timm_name!r}; {hint}")
    return _record(timm_name)


@lru_cache(maxsize=64)
def _record(name: str) -> Backbone:
    timm = import_timm(name)
    published = pretrained_config(timm, name)
    source = TimmNetwork(name, published["input_size"][-1] if published.get("fixed_input_size") else 0)
    spec, notes = image_spec(timm, published)
    sides = (source.fixed,) if source.fixed else tuple(dict.fromkeys((*_SIDES, spec.input_size)))
    try:
        layout = find_layout(partial(source.make, PROBE_CLASSES), sides)
    except UsageError as reason:
        raise UsageError(f"{PREFIX}{name} cannot be a backbone: {reason}") from reason
    built = _without_memory(source, layout, Build(input_size=spec.input_size, classes=PROBE_CLASSES))
    if not layout.dense:
        notes = (*notes, "its published top is not one dense layer on its features, so the head is always new")
    return Backbone(
        name=f"{PREFIX}{name}",
        family="timm",
        year=0,
        paper=f"timm {timm.__version__}, {origin(published)}",
        groups=tuple(built.chain),
        feature_width=layout.width,
        build=partial(_build, source, layout),
        initialize=partial(_initialize, source, layout),
        conventions=(
            Convention(
                "timm",
                built.layers,
                spec,
                arrange=arrange,
                ignored=() if layout.dense else tuple(f"{path}." for path in layout.top),
                headless=not layout.dense,
            ),
        ),
        untrained=spec,
        whole=layout.whole,
        constants=partial(_constants, source, layout) if _unsaved(built.chain) else None,
        fetch=partial(fetch_weights, source, published) if has_weights(published) else None,
        libraries=("timm",),
        notes=notes,
    )


# --- Chains ---------------------------------------------------------------------------------------------------------


def _cut(source: TimmNetwork, layout: Layout, options: Build, seed: int = 0) -> Cut:
    return seeded(lambda: cut(source.make(options.classes, options.channels), layout, options), seed)


def _build(source: TimmNetwork, layout: Layout, options: Build) -> Chain:
    """The chain on the default device; parameters that are not on meta have the initial values of timm."""
    _check_size(source, layout, options.input_size)
    if torch.empty(0).device.type == "meta":
        return _without_memory(source, layout, options).chain
    return _cut(source, layout, options).chain


def _without_memory(source: TimmNetwork, layout: Layout, options: Build) -> Cut:
    try:
        with torch.device("meta"):
            return cut(source.make(options.classes, options.channels), layout, options)
    except RuntimeError:  # a few networks read values of a tensor while they are built
        built = _cut(source, layout, options)
        nn.ModuleDict(built.chain).to("meta")
        return built


@lru_cache(maxsize=256)
def _check_size(source: TimmNetwork, layout: Layout, side: int) -> None:
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


def _initialize(source: TimmNetwork, layout: Layout, chain: Chain, generator: torch.Generator) -> None:
    """Draw weights as timm does, from PyTorch's global generator, seeded from `generator` and then restored."""
    seed = int(torch.randint(2**62, (), generator=generator))
    options = next(module.options for module in nn.ModuleDict(chain).modules() if isinstance(module, Pooled))
    drawn = _cut(source, layout, options, seed).chain
    nn.ModuleDict(chain).load_state_dict(nn.ModuleDict(drawn).state_dict())


def _constants(source: TimmNetwork, layout: Layout, options: Build) -> dict[str, torch.Tensor]:
    return _unsaved(_cut(source, layout, options).chain)


def _unsaved(chain: Chain) -> dict[str, torch.Tensor]:
    """Buffers that are computed when a network is built and not saved, such as the kernels of blurs."""
    groups = nn.ModuleDict(chain)
    saved = groups.state_dict().keys()
    return {key: buffer for key, buffer in groups.named_buffers() if key not in saved}
