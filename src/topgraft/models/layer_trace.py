"""Trace a chain: the output, parameters, work and receptive field of each layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .receptive_field import FieldTracker, field_after
from .spec import Chain

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


def count_parameters(chain: Chain) -> Parameters:
    """Parameters of all groups, before any strategy freezes some."""
    groups = nn.ModuleDict(chain)
    trainable = sum(p.numel() for p in groups.parameters())
    total = sum(tensor.numel() for tensor in _held(groups))
    return Parameters(total, trainable, total - trainable)


def _held(module: nn.Module) -> list[torch.Tensor]:
    return list({id(tensor): tensor for part in module.modules() for tensor in own_tensors(part)}.values())


def own_tensors(module: nn.Module) -> list[torch.Tensor]:
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
                    if (_is_leaf(layer) and not isinstance(layer, nn.Identity)) or own_tensors(layer):
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
        new = [tensor for tensor in own_tensors(layer) if id(tensor) not in self.counted]
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
