"""What a network is made of: layers, shapes, parameters, work and reach. Computed without its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import nn

from topgraft.errors import UsageError
from topgraft.system.formatting import shape
from topgraft.system.reprs import Grid, Overview, Shown

from .receptive_field import FieldTracker, field_after
from .registry import find_network
from .spec import SMALLEST_INPUT, Build, Chain

_FLOAT = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers that a network holds, counted as Keras does.

    Running means and variances of BatchNorm are parameters that are not trainable; the counter of batches that
    PyTorch keeps with them is none.
    """

    total: int
    trainable: int
    not_trainable: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, in the order of computation; also a block that holds parameters of its own besides its layers'.

    Attributes:
        group: the group of the chain that it is in.
        name: its place inside the group; the group's own name where the group is one layer. In a `Summary` what its
            authors call it: the last part of the place alone where no other layer of the network has the same.
        kind: its class.
        output: shape of what it hands on for one image, channels first.
        parameters: of this layer, trainable or not; 0 where an earlier row has counted them.
        multiply_adds: of convolutions and dense layers, for one image.
        activation_bytes: of its output for one image in float32.
        receptive_field: side in pixels of the square of the input that one output value can depend on; it can
            be larger than the image.
    """

    group: str
    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    receptive_field: int


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


def count_parameters(chain: Chain) -> Parameters:
    """Parameters of all groups, before any strategy freezes some."""
    groups = nn.ModuleDict(chain)
    trainable = sum(p.numel() for p in groups.parameters())
    total = sum(tensor.numel() for tensor in _held(groups))
    return Parameters(total, trainable, total - trainable)


def _held(module: nn.Module) -> list[torch.Tensor]:
    return list({id(tensor): tensor for part in module.modules() for tensor in _own(part)}.values())


def _own(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and statistics of a module itself, without those of modules in it and without constants."""
    saved = module.state_dict(keep_vars=True)  # buffers that the code computes are not saved
    return [t for key, t in saved.items() if "." not in key and (isinstance(t, nn.Parameter) or t.is_floating_point())]


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def trace_layers(chain: Chain, input_size: int) -> tuple[Layer, ...]:
    """Run one image through a chain and note every layer that computes something.

    Args:
        chain: on the meta device it costs nothing; elsewhere it is really computed. Its modes are left as they
            were.
        input_size: side of the image.
    """
    groups = nn.ModuleDict(chain)
    device = next(groups.parameters()).device
    layers: list[Layer] = []
    counted: set[int] = set()
    modes = [(module, module.training) for module in groups.modules()]
    groups.eval()  # BatchNorm has no variance of one image to train on
    handles = []
    try:
        with torch.no_grad(), FieldTracker() as fields:
            for group, module in chain.items():
                for path, layer in module.named_modules():
                    if (_is_leaf(layer) and not isinstance(layer, nn.Identity)) or _own(layer):
                        note = _Note(group, path or group, layers, counted, fields)
                        handles.append(layer.register_forward_hook(note))
            x = torch.zeros(1, 3, input_size, input_size, device=device)
            for module in chain.values():
                x = module(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return tuple(layers)


@dataclass(frozen=True)
class _Note:
    """The hook of one layer, there only while `trace_layers` runs: appends its row."""

    group: str
    name: str
    layers: list[Layer]
    counted: set[int]
    fields: FieldTracker

    def __call__(self, layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if _is_leaf(layer) and isinstance(given[0], torch.Tensor):  # some of timm's choose from a list
            field = field_after(layer, given[0], output, self.fields.of(given[0]))
            self.fields.note(output, field)
        else:
            field = self.fields.of(output)
        new = [tensor for tensor in _own(layer) if id(tensor) not in self.counted]
        self.counted.update(map(id, new))
        self.layers.append(
            Layer(
                self.group,
                self.name,
                type(layer).__name__,
                tuple(output.shape[1:]),
                sum(tensor.numel() for tensor in new),
                _multiply_adds(layer, output),
                output[0].numel() * _FLOAT,
                field.size,
            )
        )


def _multiply_adds(layer: nn.Module, output: torch.Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return output[0].numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return output[0].numel() * layer.in_features
    return 0
