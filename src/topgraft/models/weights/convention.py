"""How published weights are written: layer names, tensor layout, pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from topgraft.data.samples import ImageSpec


def keep(key: str, tensor: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """The tensor as it is: the layout of PyTorch's own files."""
    return tensor


@dataclass(frozen=True)
class Convention:
    """One way in which weights of a network are written: their names, their layout, their pixels.

    A file's tensor ``LAYER.TENSOR`` is the chain's ``layers[LAYER].tensors[TENSOR]``. Every tensor of the network
    must be there, and nothing else, but for what is ignored.

    Attributes:
        name: ``torchvision``, ``timm``, ``keras``, ``caffe`` …
        layers: the file's layer → the chain's layer (``layer4.0.bn1`` → ``stage4.0.branch.first.norm``), in the order
            in which the network's code makes them.
        spec: how pixels are made for weights that are written so; also the input size of its dense layers.
        tensors: the file's tensor → the module's; the names are equal where it is empty.
        arrange: ``arrange(chain key, tensor, expected shape)`` gives the layout of PyTorch: O×I×H×W for
            convolutions, O×I for dense layers. Must not change values.
        ignored: beginnings of names in the file that the chain has no place for, as auxiliary heads.
        folded: the file has biases where the network has BatchNorm.
        numbered: how Keras 3 may number the layers in files that have no names: each maps ``layers/conv2d_10`` to
            the file's layer; see `keras_numbers`. Several where the order of layers that are equally deep depends
            on which operand a sum names first; the shapes tell which it is.
        headless: the file's top is not one dense layer, and is ignored.
    """

    name: str
    layers: Mapping[str, str]
    spec: ImageSpec
    tensors: Mapping[str, str] = field(default_factory=dict)
    arrange: Callable[[str, torch.Tensor, torch.Size], torch.Tensor] = keep
    ignored: tuple[str, ...] = ()
    folded: bool = False
    numbered: tuple[Mapping[str, str], ...] = ()

    def spellings(self) -> Iterator[Convention]:
        """This convention, and the same with numbers for names."""
        yield self
        for numbers in self.numbered:
            layers = {number: self.layers[layer] for number, layer in numbers.items()}
            yield replace(self, layers=layers, numbered=())

    headless: bool = False

    def chain_key(self, published: str) -> str | None:
        """The chain's name of a file's tensor; None where the convention knows none."""
        layer, _, tensor = published.rpartition(".")
        if layer not in self.layers or (self.tensors and tensor not in self.tensors):
            return None
        return f"{self.layers[layer]}.{self.tensors.get(tensor, tensor)}"


def keras_numbers(
    conv2d: Sequence[str] = (), batch_normalization: Sequence[str] = (), dense: Sequence[str] = ()
) -> dict[str, str]:
    """What a ``.weights.h5`` file of Keras 3 calls layers → their names.

    Keras numbers each class by itself in the order of ``model.layers``. In a functional model that is: farthest
    from the output first; among equally far ones, as a walk from the output back through each layer's operands, in
    the order in which the code names them, comes to them. Source: ``_save_container_state`` in ``saving_lib.py``
    and ``map_graph`` in ``ops/function.py`` of https://github.com/keras-team/keras.

    Args:
        conv2d, batch_normalization, dense: names of the layers of that class, in Keras's order.
    """
    layers = {"conv2d": conv2d, "batch_normalization": batch_normalization, "dense": dense}
    return {
        f"layers/{kind}" + (f"_{number}" if number else ""): name
        for kind, names in layers.items()
        for number, name in enumerate(names)
    }
