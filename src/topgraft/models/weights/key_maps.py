"""From the names and layouts in which a network's tensors were written to the chain's own; all must fit exactly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from topgraft.data.samples import ImageSpec
from topgraft.errors import WeightsError
from topgraft.models.former_groups import FORMER, former_name
from topgraft.models.spec import Backbone, Build

from .convention import Convention

_LISTED = 12  # names of tensors in one list of an error


def at_size(spec: ImageSpec, size: int) -> ImageSpec:
    """The spec for another input size; the share that the crop keeps stays the same."""
    if size == spec.input_size:
        return spec
    return replace(spec, input_size=size, resize_size=round(spec.resize_size * size / spec.input_size))


@dataclass(frozen=True)
class Match:
    """Tensors that fit a network exactly: under the chain's names, in its order, in PyTorch's layout."""

    convention: Convention
    build: Build
    state: dict[str, torch.Tensor]


def match_tensors(
    network: Backbone, tensors: Mapping[str, torch.Tensor], *, own: bool = True, input_size: int | None = None
) -> Match:
    """Find the convention in which tensors are written; every tensor must fit exactly.

    Args:
        network: whose conventions are tried, in order.
        tensors: a file's, by name.
        own: also try the chain's own names, as artifacts have them.
        input_size: of images for which the chain's own names may have been saved, besides the published size.

    Raises:
        WeightsError: the tensors lack some that the network has, have some that it has not, or have another
            shape, in the convention that comes closest. The message names them with their shapes.
    """
    closest: tuple[int, str] | None = None
    conventions = (*network.conventions, *(_own(network, input_size) if own else ()))
    for convention in itertools.chain.from_iterable(each.spellings() for each in conventions):
        renamed = {key: convention.chain_key(key) for key in tensors if not key.startswith(convention.ignored)}
        build = _build_of(network, convention, {ours: tensors[key] for key, ours in renamed.items() if ours})
        match, faults = _match(network, convention, build, tensors, renamed)
        if match is not None:
            return match
        count = sum(map(len, faults.values()))
        if closest is None or count < closest[0]:
            listed = "; ".join(f"{fault}: {_listing(keys)}" for fault, keys in faults.items() if keys)
            closest = count, f"the tensors do not fit {network.name} (names as in {convention.name}): {listed}"
    assert closest is not None  # every backbone has a convention
    raise WeightsError(closest[1])


def _own(network: Backbone, input_size: int | None) -> Iterator[Convention]:
    """The chain's own names, as artifacts have them: at the published size and another, and with BatchNorm folded."""
    usual = network.untrained.input_size
    for folded in (False, True):
        with torch.device("meta"):
            chain = network.build(Build(input_size=usual, classes=2, top="published", folded=folded))
        names = {key.rpartition(".")[0] for key in nn.ModuleDict(chain).state_dict()}
        for size in {usual, input_size or usual}:
            spec = at_size(network.untrained, size)
            yield Convention("topgraft", {name: name for name in names}, spec, folded=folded)
            if network.name in FORMER:
                former = {former_name(network.name, name): name for name in names}
                yield Convention("topgraft", former, spec, folded=folded)


def _build_of(network: Backbone, convention: Convention, renamed: Mapping[str, torch.Tensor]) -> Build:
    """What the tensors say about the network: classes, by the bias of the head, and colors."""
    build = Build(input_size=convention.spec.input_size, classes=1000, top="published", folded=convention.folded)
    with torch.device("meta"):
        expected = nn.ModuleDict(network.build(build)).state_dict()
    bias = next((tensor for key, tensor in renamed.items() if key.startswith("head.") and key.endswith("bias")), None)
    first = next((key for key, tensor in expected.items() if tensor.dim() == 4), "")
    gray = first in renamed and renamed[first].numel() * 3 == expected[first].numel()
    return replace(build, classes=build.classes if bias is None else bias.numel(), channels=1 if gray else 3)


def _match(
    network: Backbone,
    convention: Convention,
    build: Build,
    tensors: Mapping[str, torch.Tensor],
    renamed: Mapping[str, str | None],
) -> tuple[Match | None, dict[str, list[str]]]:
    with torch.device("meta"):  # shapes without memory
        expected = nn.ModuleDict(network.build(build)).state_dict()
    published: dict[str, str] = {ours: key for key, ours in renamed.items() if ours is not None}
    state: dict[str, torch.Tensor] = {}
    missing, misshaped = [], []
    for key, wanted in expected.items():
        if key not in published:
            if key.endswith(".num_batches_tracked"):  # PyTorch before 0.4.1 and others do not count
                state[key] = torch.zeros((), dtype=torch.long)
            elif convention.headless and key.startswith("head."):
                state[key] = torch.zeros(wanted.shape)
            else:
                missing.append(f"{key} {tuple(wanted.shape)}")
            continue
        given = tensors[published[key]]
        arranged = convention.arrange(key, given, wanted.shape)
        if arranged.shape == wanted.shape:
            state[key] = arranged.to(wanted.dtype).contiguous()
        else:
            misshaped.append(f"{published[key]} {tuple(given.shape)} for {key} {tuple(wanted.shape)}")
    unexpected = [
        f"{key} {tuple(tensors[key].shape)}" for key, ours in renamed.items() if ours is None or ours not in expected
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    return (None if any(faults.values()) else Match(convention, build, state)), faults


def _listing(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
