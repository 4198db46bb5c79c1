"""Gradients on a processor, faster at equal mathematics: BatchNorm folded into convolutions, a batch in parts.

A BatchNorm that keeps its statistics μ and σ² after a convolution W with bias b is a convolution with the kernel W·s
and the bias β + (b - μ)·s, where s = γ/√(σ² + ε): https://arxiv.org/abs/1502.03167, section 3.1. That is
differentiable in W, b, γ and β, so that they train as before, and no pass over the activations is left, forward or
backward. No image then knows of the others in its batch, so that the batch may be computed in parts and the gradients
added.

Nothing here changes a network: a `FusedGroups` is a second set of layers that shares the network's parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from topgraft.models import freeze
from topgraft.models.backbones.layers import SameConv2d
from topgraft.system.threads import torch_threads

from .losses import Targets, soft_cross_entropy

_CONVOLUTIONS = (nn.Conv2d, SameConv2d)  # exactly these: what another class does to its kernel is not known here
_CUTS = {nn.ReLU: math.inf, nn.ReLU6: 6.0}  # class → above what value it cuts
_TOLERANCE = 1e-3  # of the largest logit: far above float32's rounding, far below a layer that was left out

# oneDNN 3.12 has a kernel for the weight gradient of depthwise convolutions up to 3 columns wide. The one that it takes
# for 5 columns is ten times slower (240 channels of 28×28: 4.3 ms against 0.5 for 5×3).
_COLUMNS = 3

_PART = 16  # images at least, before they are divided among threads

# Images that a thread computes at a time: their activations are still in the processor's cache when the next layer
# reads them. EfficientNet-Lite0 at 224 pixels, 32 images, two threads: 35 images/s with 16, 44 with 8, 43 with 4,
# 35 with 2.
_FEW = 8


class _Convolve(torch.autograd.Function):
    """A convolution, and its ReLU where one follows, with the gradient in the order that is fastest on a processor."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, conv: nn.Conv2d, cut: float | None
    ) -> torch.Tensor:
        """`conv` gives stride, padding and groups; values are cut at 0 and `cut`, if that is not None."""
        left, right, top, bottom = conv.margins(x) if isinstance(conv, SameConv2d) else (0, 0, 0, 0)
        ctx.inside = None
        if left or right or top or bottom:
            height, width = x.shape[2:]
            ctx.inside = slice(top, top + height), slice(left, left + width)
            x = _padded(x, (height + top + bottom, width + left + right), *ctx.inside)
        y = _convolution(x, kernel, bias, conv)
        if cut is not None:
            y.clamp_(0, cut)
        ctx.save_for_backward(x, kernel, None if cut is None else y)
        ctx.conv, ctx.cut = conv, cut
        ctx.pointwise = kernel[0, 0].numel() == conv.stride[0] == conv.stride[1] == conv.groups == 1 and not any(
            conv.padding
        )
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Of x, kernel and bias."""
        (gradient,) = gradients
        x, kernel, y = ctx.saved_tensors
        if y is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, y, 0.0, ctx.cut)
        of_x, of_kernel, of_bias = ctx.needs_input_grad[:3]
        wide = of_kernel and kernel.shape[1] == 1 and kernel.shape[3] > _COLUMNS
        if ctx.pointwise:
            x_grad, kernel_grad = _pointwise_backward(gradient, x, kernel, (of_x, of_kernel))
        else:
            x_grad, kernel_grad = _backward(
                gradient, x, kernel, ctx.conv, ctx.conv.padding, (of_x, of_kernel and not wide)
            )
        if wide:
            kernel_grad = _wide_gradient(gradient, x, kernel, ctx.conv)
        if x_grad is not None and ctx.inside is not None:
            x_grad = x_grad[:, :, *ctx.inside]
        # Apart from the kernel's, the bias's gradient is one pass over memory; oneDNN's own takes up to twice as long
        # as the kernel's.
        return x_grad, kernel_grad, gradient.sum((0, 2, 3)) if of_bias else None, None, None


def _padded(x: torch.Tensor, sides: tuple[int, int], rows: slice, columns: slice) -> torch.Tensor:
    """x with zeros around it. `F.pad` writes zeros everywhere first, and copies the gradient on the way back."""
    padded = torch.empty((*x.shape[:2], *sides), dtype=x.dtype, memory_format=torch.channels_last)
    for zeros in (
        padded[:, :, : rows.start],
        padded[:, :, rows.stop :],
        padded[..., : columns.start],
        padded[..., columns.stop :],
    ):
        zeros.zero_()
    padded[:, :, rows, columns] = x
    return padded


def _convolution(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # PyTorch leaves 1×1 convolutions of less than 16 images to slow code of its own where one thread computes
        # (use_mkldnn in aten/src/ATen/native/Convolution.cpp of 2.13); here oneDNN is asked for by name.
        padding = [int(zeros) for zeros in conv.padding]
        y: torch.Tensor = torch.mkldnn_convolution(x, kernel, bias, padding, conv.stride, (1, 1), conv.groups)
        return y
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, 1, conv.groups)


def _backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel: torch.Tensor,
    conv: nn.Conv2d,
    padding: Sequence[int],
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of x and of the kernel, those that are wanted."""
    if not any(wanted):
        return None, None
    found = torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, conv.stride, padding, (1, 1), False, (0, 0), conv.groups, (*wanted, False)
    )
    return found[0], found[1]


def _pointwise_backward(
    gradient: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The same where every pixel is a row of a matrix product."""
    rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    of_x = of_kernel = None
    if wanted[0]:
        n, _, height, width = gradient.shape
        of_x = (rows @ kernel.flatten(1)).reshape(n, height, width, -1).permute(0, 3, 1, 2)
    if wanted[1]:
        of_kernel = (rows.t() @ x.permute(0, 2, 3, 1).flatten(0, 2))[:, :, None, None]
    return of_x, of_kernel


def _wide_gradient(gradient: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """The gradient of a depthwise kernel, a few of its columns at a time."""
    parts: list[torch.Tensor] = []
    for columns in torch.split(kernel, _COLUMNS, 3):
        before = sum(part.shape[3] for part in parts)
        # These columns see the map moved by the columns before them.
        left = int(conv.padding[1]) - before
        right = (gradient.shape[3] - 1) * conv.stride[1] + columns.shape[3] - x.shape[3] - left
        moved = F.pad(x, (left, right))
        _, found = _backward(gradient, moved, columns, conv, (int(conv.padding[0]), 0), (False, True))
        assert found is not None
        parts.append(found)
    return torch.cat(parts, 3)


class FusedConv2d(nn.Module):
    """A convolution, the BatchNorm that follows it, and its ReLU if there is one. N×C×H×W in, N×C'×H'×W' out.

    Attributes:
        parts: the two, which share the network's parameters; kept out of the modules' tree.
        cut: above what value the ReLU cuts; None where there is none.
        tensors: kernel and bias of the one convolution.
        values: that the last call made of each image.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, cut: float | None) -> None:
        super().__init__()
        self.parts = (conv, norm)
        self.cut = cut
        self.values = 0
        self.tensors = self.fold()

    @property
    def sources(self) -> Iterator[torch.Tensor]:
        """What is folded."""
        for part in self.parts:
            yield from part.parameters()

    def fold(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Take kernel and bias from the parameters as they are now; returns them."""
        conv, norm = self.parts
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        self.tensors = conv.weight * scale[:, None, None, None], norm.bias - mean * scale
        return self.tensors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad, convolve, cut."""
        y: torch.Tensor = _Convolve.apply(x, *self.tensors, self.parts[0], self.cut)  # type: ignore[no-untyped-call]
        self.values = y[0].numel()
        return y


@dataclass(frozen=True, eq=False)
class FusedGroups:
    """The groups of a network, each BatchNorm that follows a convolution folded into it. Made by `fold`.

    Attributes:
        groups: name → layers, image side first; they share the network's parameters and statistics.
        convolutions: the folded ones of the groups that train.
        parameters: those that train and are in none of these.
    """

    groups: nn.ModuleDict
    convolutions: tuple[FusedConv2d, ...]
    parameters: tuple[torch.Tensor, ...]

    def fold(self) -> list[torch.Tensor]:
        """Fold the parameters as they are now; returns what they became, kernel and bias of each in turn."""
        return [tensor for convolution in self.convolutions for tensor in convolution.fold()]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, N×classes, of what the first group takes."""
        for group in self.groups.values():
            images = group(images)
        return images


def fold(groups: Mapping[str, nn.Module], rows: Mapping[str, float | None], images: torch.Tensor) -> FusedGroups | None:
    """Layers that compute what the groups do when they train, BatchNorm folded; None where only the plain way does.

    That is where an image's result depends on the others in its batch or on chance, as with dropout; where the
    folded layers do not compute what the groups do; and where it would not be faster.

    Args:
        groups: the network's, image side first; they may begin with a `topgraft.models.classifier.Normalise`, or
            after a
            cached boundary. Nothing of them is changed but their modes.
        rows: `topgraft.strategies.plan.table`; a group that is not in it is frozen. All BatchNorm keeps its statistics.
        images: two of what the first group takes, to try.
    """
    rows = {name: rows.get(name) for name in groups}
    freeze.apply_modes(groups, rows, updates_batchnorm=False)
    # Parameters are shared: a copy takes what it finds in its memo as it is.
    shared = [tensor for group in groups.values() for tensor in (*group.parameters(), *group.buffers())]
    copies = nn.ModuleDict(copy.deepcopy(dict(groups), {id(tensor): tensor for tensor in shared}))
    folded: list[FusedConv2d] = []
    with torch.no_grad():
        for name, group in copies.items():
            found = [
                pair for layers in list(group.modules()) if type(layers) is nn.Sequential for pair in _fuse(layers)
            ]
            folded += found if rows[name] is not None else []
    inside = {id(tensor) for pair in folded for tensor in pair.sources}
    trained = [p for name, group in groups.items() if rows[name] is not None for p in group.parameters()]
    made = FusedGroups(copies, tuple(folded), tuple(p for p in trained if id(p) not in inside))
    return made if _agrees(made, groups, images) and _pays(copies) else None


def _fuse(layers: nn.Sequential) -> Iterator[FusedConv2d]:
    """Put the folded layers in the place of the others."""
    for at, (conv, norm) in enumerate(pairwise(list(layers))):
        if type(conv) not in _CONVOLUTIONS or type(norm) is not nn.BatchNorm2d:
            continue
        assert isinstance(conv, nn.Conv2d)
        if (
            not norm.affine
            or not norm.track_running_stats
            or conv.padding_mode != "zeros"
            or isinstance(conv.padding, str)
            or conv.dilation != (1, 1)
        ):
            continue
        cut = _CUTS.get(type(layers[at + 2])) if at + 2 < len(layers) else None
        layers[at] = folded = FusedConv2d(conv, norm, cut)
        layers[at + 1] = nn.Identity()
        if cut is not None:
            layers[at + 2] = nn.Identity()
        yield folded


def _pays(groups: nn.ModuleDict) -> bool:
    """Whether so many images as a part has make more values than there are weights to fold and gradients to add.

    Of ResNet-18 and images of 32 pixels 16 make a tenth, and nothing is gained; of 224 pixels four times as many.
    """
    folded = [layer for layer in groups.modules() if isinstance(layer, FusedConv2d)]
    return sum(_PART * layer.values for layer in folded) > sum(layer.tensors[0].numel() for layer in folded)


def _agrees(folded: FusedGroups, groups: Mapping[str, nn.Module], images: torch.Tensor) -> bool:
    """Whether images one by one through the folded layers give what they give together through the groups."""
    state = torch.get_rng_state()
    with torch.no_grad():
        plain = images
        for group in groups.values():
            plain = group(plain)
        ours = torch.cat([folded(image) for image in torch.split(images, 1)])
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        return False
    return bool((plain - ours).abs().max() <= _TOLERANCE * plain.abs().max())


def gradients(
    folded: FusedGroups, images: torch.Tensor, labels: torch.Tensor, targets: Targets
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradient of a batch's loss to the parameters' `grad`; returns the loss, and the right answers.

    What ``soft_cross_entropy(logits, targets).backward()`` adds, except for rounding, which depends on PyTorch's
    threads:
    each takes a part of the images, and the parts are added in their order.

    Args:
        folded: as `fold` made it.
        images: N of what its first group takes.
        labels: int64, N.
        targets: of the same images.
    """
    wanted = [*folded.fold(), *folded.parameters]

    def work(some: torch.Tensor, truth: torch.Tensor, shares: torch.Tensor) -> _Sum:
        sums: _Sum | None = None
        for few, few_truth, few_shares in zip(*(torch.split(x, _FEW) for x in (some, truth, shares)), strict=True):
            logits = folded(few)
            loss = soft_cross_entropy(logits, Targets(few_shares, targets.total))
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
            more = _Sum(loss.detach(), (logits.argmax(1) == few_truth).sum(), found)
            sums = more if sums is None else sums.plus(more)
        assert sums is not None
        return sums

    with _parts(len(labels)) as (pool, parts):
        sums, *others = pool.map(work, *(x.tensor_split(parts) for x in (images, labels, targets.shares)))
    for other in others:
        sums = sums.plus(other)
    used = [(tensor, gradient) for tensor, gradient in zip(wanted, sums.gradients, strict=True) if gradient is not None]
    torch.autograd.backward([tensor for tensor, _ in used], [gradient for _, gradient in used])
    return sums.loss, sums.hits


@dataclass(frozen=True, eq=False)
class _Sum:
    """Over some of a batch's images; a gradient is None where a parameter takes no part."""

    loss: torch.Tensor
    hits: torch.Tensor
    gradients: tuple[torch.Tensor | None, ...]

    def plus(self, other: _Sum) -> _Sum:
        """The sum of both; the gradients are added in place."""
        for gradient, more in zip(self.gradients, other.gradients, strict=True):
            if gradient is not None and more is not None:
                gradient.add_(more)
        return _Sum(self.loss + other.loss, self.hits + other.hits, self.gradients)


def logits(folded: FusedGroups, images: torch.Tensor) -> torch.Tensor:
    """N×classes, of N of what the first group takes. No gradient follows."""

    def work(some: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # each thread has its own mode
            return torch.cat([folded(few) for few in torch.split(some, _FEW)])

    with torch.no_grad():
        folded.fold()
    with _parts(len(images)) as (pool, parts):
        return torch.cat(list(pool.map(work, images.tensor_split(parts))))


@contextmanager
def _parts(images: int) -> Iterator[tuple[Executor, int]]:
    """Threads that share PyTorch's between them, and their number; one computes as PyTorch does by itself.

    Threads with a part of the images each do not wait for each other within a layer.
    """
    threads = torch.get_num_threads()
    parts = max(1, min(threads, images // _PART))
    with torch_threads(threads // parts), ThreadPoolExecutor(parts) as pool:
        yield pool, parts
