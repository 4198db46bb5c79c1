"""Networks of torchvision and timm with weights drawn so that a comparison with them says something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from topgraft.models.spec import Backbone, Build, Chain


def drawn_reference(make: Callable[..., nn.Module], *, seed: int, **choices: object) -> nn.Module:
    """The network in evaluation mode, of the default dtype, with parameters and statistics from a generator.

    Kernels have variance 2 / fan in, so that signals neither die nor grow; biases and BatchNorm's numbers are
    spread, so that none could be left out or exchanged without a trace.
    """
    with torch.device("meta"):
        network = make(**choices)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, wanted in network.state_dict().items():
        tensor = torch.empty(wanted.shape, dtype=wanted.dtype)
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.dim() > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound, generator=generator)
        elif key.endswith("running_var") or (key.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.uniform_(-0.2, 0.2, generator=generator)
        state[key] = tensor
    network.load_state_dict(state, assign=True)
    return network.eval()


def assert_equal_outputs(chain: Chain, references: tuple[nn.Module, ...], size: int) -> None:
    """The same logits as each reference, to 10⁻⁶ of the largest, and different ones for another image."""
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(size))
    images[1] *= 0.2  # deep networks with random weights tell noise from noise only by its brightness
    with torch.inference_mode():
        x = images
        for group in chain.values():
            x = group.eval()(x)
        for reference in references:
            expected = reference(images[:1])
            largest = expected.abs().max()
            assert (x[:1] - expected).abs().max() <= 1e-6 * largest
            assert (x[0] - x[1]).abs().max() > 0.1 * largest, "the images must make a difference"


def file_of(backbone: Backbone, convention: str, path: Path, *, classes: int) -> Path:
    """A file in the names of a convention whose tensors each hold one number: small, however many parameters."""
    names = next(entry.layers for entry in backbone.conventions if entry.name == convention)
    published = {ours: theirs for theirs, ours in names.items()}
    with torch.device("meta"):
        chain = backbone.build(Build(input_size=backbone.untrained.input_size, classes=classes, top="published"))
    state = {}
    for key, wanted in nn.ModuleDict(chain).state_dict().items():
        layer, _, tensor = key.rpartition(".")
        state[f"{published[layer]}.{tensor}"] = torch.full((1,), 0.01).expand(wanted.shape)
    torch.save(state, path)
    return path
