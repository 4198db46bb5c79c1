from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras_networks as reference
import numpy as np
import pytest
import torch
from torch import nn

from topgraft.backbones import BACKBONES, Build
from topgraft.classifier import Classifier
from topgraft.summary import summarise
from topgraft.weights import load_network

h5py = pytest.importorskip("h5py")

FORMATS = (".weights.h5", ".keras", ".h5")


# --- Logits equal Keras's ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network of Keras, what it is here, its pixels, and the formats it is saved in."""

    network: str
    make: Callable[[ModuleType], Any]
    side: int
    formats: tuple[str, ...]
    gain: float  # of the last kernel, so that logits of different images are far apart
    pixels: Callable[[ModuleType, np.ndarray], np.ndarray]


def hundredths(keras: ModuleType, images: np.ndarray) -> np.ndarray:
    """The notes' pixels."""
    return (images / 255).astype(np.float32)


def caffe(keras: ModuleType, images: np.ndarray) -> np.ndarray:
    """The pixels of the three applications, by Keras's own function."""
    pixels = images.astype(np.float32)
    vgg16 = keras.applications.vgg16.preprocess_input(pixels.copy())
    for application in (keras.applications.vgg19, keras.applications.resnet50):
        assert np.array_equal(application.preprocess_input(pixels.copy()), vgg16)
    result: np.ndarray = vgg16
    return result


CASES = {
    "notes' VGG16": Case("vgg16", reference.notes_vgg16, 32, FORMATS, 12, hundredths),
    "VGG16": Case("vgg16", lambda keras: keras.applications.VGG16(weights=None), 224, (".h5",), 1, caffe),
    "VGG19": Case("vgg19", lambda keras: keras.applications.VGG19(weights=None), 224, (".weights.h5",), 1, caffe),
}


def save(model: Any, path: Path) -> Path:
    """Save a model in the format of the suffix."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def keras_logits(keras: ModuleType, model: Any, pixels: np.ndarray) -> np.ndarray:
    """What the model gives without its softmax."""
    reference.remove_softmax(keras, model)
    with torch.no_grad():
        logits: np.ndarray = keras.ops.convert_to_numpy(model(pixels, training=False))
    return logits


def our_logits(network: str, path: Path, images: np.ndarray) -> np.ndarray:
    """What a file's network gives here for uint8 images, by the file's own ImageSpec."""
    loaded = load_network(network, path, input_size=images.shape[1])
    with torch.no_grad():
        return Classifier(loaded.chain, loaded.spec)(torch.from_numpy(images)).numpy()


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, as a share of the largest logit."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def apart(logits: np.ndarray) -> float:
    """By how much the logits of two images differ in at least one class, for the two that differ least."""
    return min(float(np.abs(a - b).max()) for a, b in itertools.combinations(logits, 2))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_keras_own(name: str, keras: ModuleType, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.make(keras)
    reference.draw_weights(model, seed=3, gain=case.gain)
    images = reference.random_images(2 if case.side > 32 else 6, case.side, seed=4)
    paths = [save(model, tmp_path / f"file{suffix}") for suffix in case.formats]
    expected = keras_logits(keras, model, case.pixels(keras, images))
    del model
    keras.backend.clear_session()
    for path in paths:
        compare(case.network, path, images, expected)
        path.unlink()


def compare(network: str, path: Path, images: np.ndarray, expected: np.ndarray) -> None:
    """Assert that a file's network gives Keras's logits, and that this says something: no two images have the same."""
    assert apart(expected) >= 1
    found = our_logits(network, path, images)
    largest, error = np.abs(expected).max(), np.abs(found - expected).max()
    print(f"{network} {path.name}: error {error:.2e} of {largest:.3g}, images apart by {apart(expected):.3g}")
    assert difference(found, expected) <= 1e-4


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_two_swapped_kernels_of_equal_shape_are_seen(suffix: str, keras: ModuleType, tmp_path: Path) -> None:
    model = reference.notes_vgg16(keras)
    reference.draw_weights(model, seed=3, gain=12)
    path = save(model, tmp_path / f"file{suffix}")
    with h5py.File(path, "r+") as file:
        if suffix == ".h5":
            places = [f"model_weights/{name}/{name}/kernel" for name in ("block3_conv2", "block3_conv3")]
        else:
            places = ["layers/conv2d_5/vars/0", "layers/conv2d_6/vars/0"]
        first, second = (file[place][()] for place in places)
        assert first.shape == second.shape == (3, 3, 256, 256)
        file[places[0]][...], file[places[1]][...] = second, first
    images = reference.random_images(6, 32, seed=6)
    expected = keras_logits(keras, model, hundredths(keras, images))
    assert difference(our_logits("vgg16", path, images), expected) > 1e-2


# --- The notes' networks: names, shapes, numbers, L2 ------------------------------------------------------------------


def test_the_notes_vgg16_has_keras_layers(keras: ModuleType) -> None:
    model = reference.notes_vgg16(keras)
    summary = summarise("vgg16", 32, 100)
    assert model.count_params() == summary.parameters.total == 34_006_948
    assert model.losses == []
    assert BACKBONES["vgg16"].l2 == 0
    theirs = {layer.name: layer for layer in model.layers}
    rows = [row for row in summary.layers if row.parameters]
    assert {row.name for row in rows} == {each.name for each in model.layers if each.weights}
    for row in rows:
        layer = theirs[row.name]
        *places, channels = layer.output.shape[1:]
        assert row.parameters == layer.count_params(), row.name
        assert tuple(row.output) == (channels, *places), row.name


def test_a_convention_numbers_every_layer_once() -> None:
    for network in BACKBONES.values():
        for convention in network.conventions:
            for numbers in convention.numbered:
                assert sorted(numbers.values()) == sorted(convention.layers)
                assert len(numbers) == len(set(numbers.values()))
                with torch.device("meta"):
                    chain = nn.ModuleDict(network.build(Build(input_size=224, classes=2, top="published")))
                kinds = {"conv2d": nn.Conv2d, "batch_normalization": nn.BatchNorm2d, "dense": nn.Linear}
                for number, layer in numbers.items():
                    kind = number.removeprefix("layers/").rstrip("0123456789").rstrip("_")
                    assert isinstance(chain.get_submodule(convention.layers[layer]), kinds[kind])
