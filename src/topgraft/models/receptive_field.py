"""Receptive fields: how many pixels of the image one value of a layer sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class Field:
    """What one value depends on: a square of `size` pixels; its neighbor's lies `step` pixels further."""

    size: int = 1
    step: int = 1

    def through(self, kernel: int, stride: int, dilation: int) -> Field:
        """After a window of `kernel` values at `stride`.

        Source: Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks,
        https://distill.pub/2019/computing-receptive-fields, equations 2 and 3.
        """
        return Field(self.size + (kernel - 1) * dilation * self.step, self.step * stride)


class FieldTracker(TorchFunctionMode):
    """Follows receptive fields from tensor to tensor: a result reaches as far as the widest of its arguments.

    So sums and concatenations of branches come out right without being layers. Layers with a window set the
    field of their output themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[torch.Tensor, Field]] = {}  # holding the tensor keeps its id its own

    def of(self, tensor: torch.Tensor) -> Field:
        """The field of a tensor; a single pixel where nothing is known."""
        return self._known[id(tensor)][1] if id(tensor) in self._known else Field()

    def note(self, tensor: torch.Tensor, field: Field) -> None:
        """Say what a tensor's field is."""
        self._known[id(tensor)] = (tensor, field)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _shape_only(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and id(result) not in self._known:
            given = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else (arg,))]
            fields = [self.of(x) for x in given if isinstance(x, torch.Tensor)]
            self.note(result, max(fields, key=lambda field: field.size, default=Field()))
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


def field_after(layer: nn.Module, given: torch.Tensor, output: torch.Tensor, field: Field) -> Field:
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
