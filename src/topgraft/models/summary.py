"""What a network is made of: layers, shapes, parameters, work and reach. Computed without its weights."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from topgraft.errors import UsageError
from topgraft.system.formatting import shape
from topgraft.system.reprs import Grid, Overview, Shown

from .registry import find_network
from .spec import SMALLEST_INPUT, Build, Chain

_FLOAT = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers that a network holds, counted as Keras does.

    Running means and variances of BatchNorm are parameters that are not trainable; the counter of batches that
    PyTorch keeps beside them is none.
    """

    total: int
    trainable: int
    not_trainable: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, in the order of computation; also a block that holds parameters of its own beside its layers'.

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


def summarise(backbone: str, input_size: int, classes: int) -> Summary:
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


@dataclass(frozen=True, slots=True)
class _Field:
    """What one value depends on: a square of `size` pixels; its neighbour's lies `step` pixels further."""

    size: int = 1
    step: int = 1

    def through(self, kernel: int, stride: int, dilation: int) -> _Field:
        """After a window of `kernel` values at `stride`.

        Source: Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks,
        https://distill.pub/2019/computing-receptive-fields, equations 2 and 3.
        """
        return _Field(self.size + (kernel - 1) * dilation * self.step, self.step * stride)


class _Fields(TorchFunctionMode):
    """Follows receptive fields from tensor to tensor: a result reaches as far as the widest of its arguments.

    So sums and concatenations of branches come out right without being layers. Layers with a window set the
    field of their output themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[torch.Tensor, _Field]] = {}  # holding the tensor keeps its id its own

    def of(self, tensor: torch.Tensor) -> _Field:
        """The field of a tensor; a single pixel where nothing is known."""
        return self._known[id(tensor)][1] if id(tensor) in self._known else _Field()

    def note(self, tensor: torch.Tensor, field: _Field) -> None:
        """Say what a tensor's field is."""
        self._known[id(tensor)] = (tensor, field)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _shape_only(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and id(result) not in self._known:
            given = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else (arg,))]
            fields = [self.of(x) for x in given if isinstance(x, torch.Tensor)]
            self.note(result, max(fields, key=lambda field: field.size, default=_Field()))
        return result


_ELEMENTWISE = (F.batch_norm, F.relu, F.relu6, F.hardtanh, F.dropout)
_ARITHMETIC = (torch.Tensor.add, torch.Tensor.mul, torch.Tensor.div, torch.Tensor.__pow__)  # + * / **


def _shape_only(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The result of the most frequent functions on the meta device, where it is a shape and nothing more; else None.

    PyTorch finds these shapes in Python: a millisecond for each BatchNorm, and a second to load the code.
    """
    joined = args[0] if func is torch.cat and len(args) == 2 else ()
    x = joined[0] if joined else args[0] if args else None
    if not isinstance(x, torch.Tensor) or x.device.type != "meta":
        return None
    if joined:
        shape = list(x.shape)
        shape[args[1]] = sum(tensor.shape[args[1]] for tensor in joined)
        return x.new_empty(shape)
    if func is F.linear:
        return x.new_empty((*x.shape[:-1], args[1].shape[0]))
    if func is F.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
        return x.new_empty((*x.shape[:-2], 1, 1))
    if func in _ARITHMETIC and (isinstance(args[1], int | float) or args[1].shape == x.shape):
        return torch.empty_like(x)
    return torch.empty_like(x) if func in _ELEMENTWISE else None


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
        with torch.no_grad(), _Fields() as fields:
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
    fields: _Fields

    def __call__(self, layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if _is_leaf(layer) and isinstance(given[0], torch.Tensor):  # some of timm's choose from a list
            field = _reach(layer, given[0], output, self.fields.of(given[0]))
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


def _reach(layer: nn.Module, given: torch.Tensor, output: torch.Tensor, field: _Field) -> _Field:
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride = _side(layer.kernel_size), _side(layer.stride)
        return field.through(kernel, stride, _side(getattr(layer, "dilation", 1)))
    # What makes one vector of a map reads all of it.
    if given.dim() == 4 and (isinstance(layer, nn.AdaptiveAvgPool2d) or output.dim() == 2):
        side = max(given.shape[2:])
        out = _side(layer.output_size) if isinstance(layer, nn.AdaptiveAvgPool2d) else 1
        # Output i of o covers inputs ⌊i·n/o⌋ to ⌈(i+1)·n/o⌉ - 1: at most ⌈n/o⌉ of them, one more if o ∤ n.
        window = math.ceil(side / out) + (side % out > 0)
        return field.through(min(window, side), max(side // out, 1), 1)
    return field


def _side(size: Any) -> int:
    return max(size) if isinstance(size, tuple) else int(size)


def _multiply_adds(layer: nn.Module, output: torch.Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return output[0].numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return output[0].numel() * layer.in_features
    return 0
