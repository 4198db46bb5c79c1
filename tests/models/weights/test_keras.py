from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from support import keras_networks as reference
from torch import nn

from topgraft.errors import WeightsError
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build
from topgraft.models.summary import summarize
from topgraft.models.weights.files import read_tensors
from topgraft.models.weights.load import load_network

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
    "ResNet50": Case("resnet50_keras", lambda keras: keras.applications.ResNet50(weights=None), 224, FORMATS, 1, caffe),
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


@dataclass(frozen=True)
class Saved:
    """The notes' ResNet50, a file of each format, images, and Keras's logits for them."""

    model: Any
    folder: Path
    images: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module")
def resnet50(keras: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    model = reference.notes_resnet50(keras)
    reference.draw_weights(model, seed=5, gain=30)
    folder = tmp_path_factory.mktemp("resnet50")
    for suffix in FORMATS:
        save(model, folder / f"file{suffix}")
    images = reference.random_images(6, 32, seed=6)
    return Saved(model, folder, images, keras_logits(keras, model, hundredths(keras, images)))


@pytest.mark.parametrize("suffix", FORMATS)
def test_logits_of_the_notes_resnet50_are_keras_own(suffix: str, resnet50: Saved) -> None:
    compare("resnet50_notes", resnet50.folder / f"file{suffix}", resnet50.images, resnet50.logits)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_two_swapped_kernels_of_equal_shape_are_seen(suffix: str, resnet50: Saved, tmp_path: Path) -> None:
    path = shutil.copy(resnet50.folder / f"file{suffix}", tmp_path)
    with h5py.File(path, "r+") as file:
        if suffix == ".h5":
            places = [f"model_weights/{name}/{name}/kernel" for name in ("res3b_branch2b", "res3c_branch2b")]
        else:
            places = ["layers/conv2d_16/vars/0", "layers/conv2d_19/vars/0"]
        first, second = (file[place][()] for place in places)
        assert first.shape == second.shape == (3, 3, 128, 128)
        file[places[0]][...], file[places[1]][...] = second, first
    assert difference(our_logits("resnet50_notes", path, resnet50.images), resnet50.logits) > 1e-2


def test_either_operand_of_the_sums_may_be_named_first(keras: ModuleType, resnet50: Saved, tmp_path: Path) -> None:
    model = reference.notes_resnet50(keras, shortcut_first=True)
    for layer in resnet50.model.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    theirs, others = ([layer.name for layer in each.layers if layer.weights] for each in (model, resnet50.model))
    assert sorted(theirs) == sorted(others)
    assert theirs != others
    compare("resnet50_notes", save(model, tmp_path / "file.weights.h5"), resnet50.images, resnet50.logits)


def test_frozen_layers_and_an_optimizer_in_the_file_change_nothing(
    keras: ModuleType, resnet50: Saved, tmp_path: Path
) -> None:
    model = resnet50.model
    for layer in model.layers[::2]:
        layer.trainable = False
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.optimizer.build(model.trainable_variables)
    for suffix in (".weights.h5", ".h5"):
        before = read_tensors(resnet50.folder / f"file{suffix}")
        after = read_tensors(save(model, tmp_path / f"file{suffix}"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    model.trainable = True


# --- The notes' networks: names, shapes, numbers, L2 ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "total", "fixed"), [("vgg16", 34_006_948, 0), ("resnet50_notes", 23_766_052, 53_120)])
def test_the_notes_networks_have_keras_layers(
    name: str, total: int, fixed: int, keras: ModuleType, resnet50: Saved
) -> None:
    model = reference.notes_vgg16(keras) if name == "vgg16" else resnet50.model
    summary = summarize(name, 32, 100)
    assert model.count_params() == summary.parameters.total == total
    assert sum(int(np.prod(each.shape)) for each in model.non_trainable_weights) == fixed
    assert summary.parameters.not_trainable == fixed
    theirs = {layer.name: layer for layer in model.layers}
    rows = [row for row in summary.layers if row.parameters]
    assert {row.name for row in rows} == {each.name for each in model.layers if each.weights}
    for row in rows:
        layer = theirs[row.name]
        *places, channels = layer.output.shape[1:]
        assert row.parameters == layer.count_params(), row.name
        assert tuple(row.output) == (channels, *places), row.name


def test_l2_is_what_keras_adds_to_the_loss(keras: ModuleType, resnet50: Saved) -> None:
    chain = nn.ModuleDict(load_network("resnet50_notes", resnet50.folder / "file.keras").chain).requires_grad_(False)
    squares = 0.0
    for module in chain.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            squares += float(module.weight.double().square().sum())
        if isinstance(module, nn.Linear):
            squares += float(module.bias.double().square().sum())
    expected = sum(float(loss.detach()) for loss in resnet50.model.losses)
    assert expected > 0
    assert BACKBONES["resnet50_notes"].l2 * squares == pytest.approx(expected, rel=1e-5)
    assert BACKBONES["vgg16"].l2 == 0
    assert reference.notes_vgg16(keras, classes=2).losses == []


def test_a_missing_layer_and_a_wrong_shape_are_named(resnet50: Saved, tmp_path: Path) -> None:
    for suffix, place in ((".weights.h5", "layers/conv2d_5"), (".h5", "model_weights/res2b_branch2a/res2b_branch2a")):
        path = shutil.copy(resnet50.folder / f"file{suffix}", tmp_path)
        with h5py.File(path, "r+") as file:
            del file[place]
            if suffix == ".h5":
                file[f"{place}/kernel"] = np.zeros((1, 1, 256, 63), np.float32)
        with pytest.raises(WeightsError) as caught:
            load_network("resnet50_notes", path)
        wrong = "of another shape: res2b_branch2a.kernel (1, 1, 256, 63) for " if suffix == ".h5" else "missing: "
        key = "stage2.2b.branch.res2b_branch2a.weight (64, 256, 1, 1)"
        assert str(caught.value) == (f"the tensors do not fit resnet50_notes (names as in keras): {wrong}{key}")


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
