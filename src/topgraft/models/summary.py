"""What a network is made of: layers, shapes, parameters, work and reach. Computed without its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch

from topgraft.errors import UsageError
from topgraft.system.formatting import shape
from topgraft.system.reprs import Grid, Overview, Shown

from .layer_trace import Layer, Parameters, count_parameters, trace_layers
from .registry import find_network
from .spec import SMALLEST_INPUT, Build


def _overview(this: Summary) -> Overview:
    """A row for each layer, and the totals."""
    grid = Grid(
        ("layer", "group", "type", "output", "parameters", "multiply-adds", "sees"),
        this.layers,
        lambda layer: (
            layer.name,
            layer.group,
            layer.kind,
            shape(layer.output),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
            f"{layer.receptive_field:,} px",
        ),
        "layers",
    )
    counts = this.parameters
    facts = {
        "parameters": f"{counts.total:,}, trainable {counts.trainable:,}, not trainable {counts.not_trainable:,}",
        "multiply-adds": f"{this.multiply_adds / 1e6:,.1f} M for one image",
        "activations": f"{this.activation_bytes / 2**20:,.1f} MiB for one image",
        "notes": "; ".join(this.notes),
    }
    pixels = f"{this.input_size} × {this.input_size} pixels"
    return Overview(f"{this.backbone}: {pixels}, {this.classes:,} classes, {len(this.layers):,} layers", facts, (grid,))


@dataclass(frozen=True, slots=True, repr=False)
class Summary(Shown, overview=_overview):
    """What `topgraft summary` shows.

    `multiply_adds` and `activation_bytes` are sums over the layers, for one image. The second is what training
    has to keep; prediction needs only a few layers' at a time. `notes` are sentences about the network: why its base
    cannot be divided, and how its use here differs from its publisher's.
    """

    backbone: str
    input_size: int
    classes: int
    layers: tuple[Layer, ...]
    parameters: Parameters
    multiply_adds: int
    activation_bytes: int
    notes: tuple[str, ...] = ()


def summarize(backbone: str, input_size: int, classes: int) -> Summary:
    """The summary of a published network at an input size and a number of classes. Loads no weights.

    Raises:
        UsageError: an unknown name, images smaller than every backbone takes, or no class.
    """
    network = find_network(backbone)
    if input_size < SMALLEST_INPUT:
        raise UsageError(f"an input size of {input_size} is too small; the smallest is {SMALLEST_INPUT}")
    if classes < 1:
        raise UsageError(f"a head needs at least one class, not {classes}")
    with torch.device("meta"):  # shapes only: neither memory nor arithmetic
        chain = network.build(Build(input_size=input_size, classes=classes, top="published"))
    layers = _named(trace_layers(chain, input_size), network.top_name)
    return Summary(
        backbone,
        input_size,
        classes,
        layers,
        count_parameters(chain),
        sum(layer.multiply_adds for layer in layers),
        sum(layer.activation_bytes for layer in layers),
        (*([f"the base cannot be frozen in part: {network.whole}"] if network.whole else []), *network.notes),
    )


def _named(layers: tuple[Layer, ...], top_name: str) -> tuple[Layer, ...]:
    """The same layers under their authors' names; see `Layer`."""
    called = [replace(layer, name=top_name) if layer.group == layer.name == "head" else layer for layer in layers]
    places = {(layer.group, layer.name) for layer in called}
    own = Counter(name.rpartition(".")[2] for _, name in places)
    return tuple(
        replace(layer, name=last) if own[last := layer.name.rpartition(".")[2]] == 1 else layer for layer in called
    )
