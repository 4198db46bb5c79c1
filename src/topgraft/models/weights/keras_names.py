"""Name the arrays of a Keras file as its layers name them: ``LAYER.kernel``, ``LAYER.bias``, ``LAYER.gamma`` …"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

CONFIG = "config.json"
"""The file with the layers in a ``.keras`` archive."""

# Classes of layers that have weights here, and the word that Keras numbers them by: the class in snake case.
_NUMBERED = {"Conv2D": "conv2d", "Dense": "dense", "BatchNormalization": "batch_normalization"}
# In the order of `layer.weights`, which is the order of `vars` and of `weight_names`.
_DENSE = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def name_arrays(content: Mapping[str, Any], config: Any = None) -> list[dict[str, Any]]:
    """Name, shape, type and offset of each array.

    Args:
        content: result of `topgraft.models.weights.keras_hdf5.find_arrays`.
        config: parsed `CONFIG` of an archive; None where there is none.

    Raises:
        ValueError: the config lists no layers.
    """
    layers = content["layers"]
    names = {layer["name"]: layer["name"] for layer in layers}
    if content["numbered"]:
        listed = [] if config is None else _listed_layers(config)
        numbers = _names_of_numbers(listed, tuple(names))
        names = {number: numbers.get(number, f"layers/{number}") for number in names}
    return [
        {"name": f"{names[layer['name']]}.{kind}", **array}
        for layer in layers
        for kind, array in zip(_kinds([array["shape"] for array in layer["arrays"]]), layer["arrays"], strict=True)
    ]


def _kinds(shapes: Sequence[Sequence[int]]) -> Sequence[str]:
    """Names of the weights of one layer; numbers if it is not a known kind of layer."""
    if len(shapes) == len(_NORM) and all(len(shape) == 1 for shape in shapes):
        return _NORM
    if 1 <= len(shapes) <= len(_DENSE) and len(shapes[0]) > 1:
        return _DENSE[: len(shapes)]
    return [str(number) for number in range(len(shapes))]


def _listed_layers(config: Any) -> list[tuple[str, str]]:
    """Class and name of each layer of a functional or sequential model, in Keras's order."""
    try:
        return [(str(layer["class_name"]), str(layer["config"]["name"])) for layer in config["config"]["layers"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{CONFIG} lists no layers: the model is neither functional nor sequential") from error


def _names_of_numbers(layers: Sequence[tuple[str, str]], groups: Sequence[str]) -> Mapping[str, str]:
    """Number → name: ``conv2d_10`` is the eleventh Conv2D."""
    names = {name for _, name in layers}
    if names.issuperset(groups):  # the groups of the file are already named by the layers
        return {name: name for name in names}
    count: Counter[str] = Counter()
    result = {}
    for kind, name in layers:
        if kind in _NUMBERED:
            number = f"_{count[kind]}" if count[kind] else ""
            result[_NUMBERED[kind] + number] = name
            count[kind] += 1
    return result
