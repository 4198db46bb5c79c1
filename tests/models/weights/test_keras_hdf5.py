from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topgraft.errors import WeightsError
from topgraft.models.weights import keras, keras_hdf5
from topgraft.models.weights.files import read_tensors

h5py = pytest.importorskip("h5py")

# --- What a file may look like ----------------------------------------------------------------------------------------

ARRAYS = {
    "conv2d": ((3, 3, 3, 4), (4,)),
    "conv2d_1": ((3, 3, 4, 4), (4,)),
    "batch_normalization": ((4,), (4,), (4,), (4,)),
    "dense": ((4, 5), (5,)),
    "activation": (),
}

CONFIG = {
    "config": {
        "layers": [
            {"class_name": kind, "config": {"name": name}}
            for kind, name in (
                ("InputLayer", "input"),
                ("Conv2D", "first"),
                ("BatchNormalization", "norm"),
                ("Conv2D", "second"),
                ("Activation", "relu"),
                ("Dense", "top"),
            )
        ]
    }
}


def values(name: str, number: int) -> np.ndarray:
    rng = np.random.default_rng([number, *name.encode()])
    return rng.standard_normal(ARRAYS[name][number]).astype(np.float32)


def numbered(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for name, shapes in ARRAYS.items():
            group = file.create_group(f"layers/{name}/vars")
            for number in range(len(shapes)):
                group[str(number)] = values(name, number)
    return path


def archive(path: Path, config: object = CONFIG, compression: int = zipfile.ZIP_STORED) -> Path:
    content = numbered(path.with_suffix(".inner")).read_bytes()
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", content)
    return path


def older(path: Path, names: Mapping[str, list[str]], root: str = "/", backend: str = "tensorflow") -> Path:
    """Layer → names of its weights, which are the first of `ARRAYS`."""
    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        if root != "/":
            file.attrs["model_config"] = "{}"
        group.attrs["layer_names"] = [name.encode() for name in names]
        group.attrs["backend"] = backend.encode()
        for layer, weights in names.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name in weights]
            for number, name in enumerate(weights):
                inner[name] = values("conv2d", number)
    return path


def test_numbers_and_names(tmp_path: Path) -> None:
    tensors = read_tensors(numbered(tmp_path / "a"))
    assert set(tensors) == {
        *(f"layers/{name}.{kind}" for name in ("conv2d", "conv2d_1", "dense") for kind in ("kernel", "bias")),
        *(f"layers/batch_normalization.{kind}" for kind in ("gamma", "beta", "moving_mean", "moving_variance")),
    }
    assert np.array_equal(tensors["layers/conv2d_1.kernel"], values("conv2d_1", 0))
    assert np.array_equal(tensors["layers/batch_normalization.moving_mean"], values("batch_normalization", 2))
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        named = read_tensors(archive(tmp_path / "b", compression=compression))
        assert {name.partition(".")[0] for name in named} == {"first", "second", "norm", "top"}
        assert torch.equal(named["second.kernel"], tensors["layers/conv2d_1.kernel"])
        assert torch.equal(named["norm.beta"], tensors["layers/batch_normalization.beta"])
        assert torch.equal(named["top.bias"], tensors["layers/dense.bias"])


@pytest.mark.usefixtures("same_process")
def test_groups_that_have_the_layers_names_keep_them(tmp_path: Path) -> None:
    config = {"config": {"layers": [{"class_name": "Conv2D", "config": {"name": name}} for name in ("dense", "x")]}}
    path = tmp_path / "a.keras"
    with h5py.File(tmp_path / "inner", "w") as file:
        file["layers/dense/vars/0"] = values("conv2d", 0)
        file["layers/x/vars/0"] = values("conv2d_1", 0)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("config.json", json.dumps(config))
        zipped.write(tmp_path / "inner", "model.weights.h5")
    assert list(read_tensors(path)) == ["dense.kernel", "x.kernel"]
    with h5py.File(tmp_path / "inner", "r+") as file:
        file.move("layers/dense", "layers/block1_conv1")
    assert list(read_tensors(tmp_path / "inner")) == ["layers/block1_conv1.kernel", "layers/x.kernel"]


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize("root", ["/", "model_weights"])
@pytest.mark.parametrize("weights", [["a/kernel:0", "a/bias:0"], ["a_W_1:0", "a_b_1:0"], ["a/kernel", "a/bias"]])
def test_older_files_of_every_age(root: str, weights: list[str], tmp_path: Path) -> None:
    tensors = read_tensors(older(tmp_path / "a", {"input_1": [], "a": weights}, root))
    assert list(tensors) == ["a.kernel", "a.bias"]
    assert np.array_equal(tensors["a.kernel"], values("conv2d", 0))
    assert np.array_equal(tensors["a.bias"], values("conv2d", 1))


@pytest.mark.usefixtures("same_process")
def test_a_list_of_names_that_keras_has_cut_up(tmp_path: Path) -> None:
    path = older(tmp_path / "a", {name: [f"{name}/kernel:0"] for name in "abc"})
    with h5py.File(path, "r+") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = [b"c", b"a"]
        file.attrs["layer_names1"] = [b"b"]
    assert list(read_tensors(path)) == ["c.kernel", "a.kernel", "b.kernel"]


@pytest.mark.usefixtures("same_process")
def test_half_precision_and_the_other_byte_order(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a")
    with h5py.File(path, "r+") as file:
        group = file["layers/conv2d/vars"]
        bits = torch.from_numpy(values("conv2d", 0)).bfloat16().view(torch.int16).numpy()
        del group["0"], group["1"]
        group["0"] = bits.view("V2")
        group["0"].attrs["dtype"] = "bfloat16"
        group["1"] = values("conv2d", 1).astype(">f8")
    tensors = read_tensors(path)
    assert torch.equal(tensors["layers/conv2d.kernel"], torch.from_numpy(values("conv2d", 0)).bfloat16())
    assert torch.equal(tensors["layers/conv2d.bias"], torch.from_numpy(values("conv2d", 1)).double())


# --- Damage and malice ------------------------------------------------------------------------------------------------


def refused(path: Path, why: str) -> None:
    with pytest.raises(WeightsError, match=why) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find arrays in this process, which is quicker. For files that are known to do the library no harm."""

    def find(path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(json.dumps(keras_hdf5.find_arrays(path)))
        except Exception as error:
            raise ValueError(str(error)) from error
        return found

    monkeypatch.setattr(keras, "_find_arrays", find)


def soft(file: Any) -> None:
    file["layers/conv2d/vars/0"] = h5py.SoftLink("/layers/conv2d_1/vars/0")


def external(file: Any) -> None:
    file["layers/conv2d/vars/0"] = h5py.ExternalLink("secret.h5", "/x")


def external_group(file: Any) -> None:
    del file["layers/conv2d"]
    file["layers/conv2d"] = h5py.ExternalLink("secret.h5", "/")


def elsewhere(file: Any) -> None:
    shape = ARRAYS["conv2d"][0]
    file["layers/conv2d/vars"].create_dataset("0", shape, "f4", external=[("secret.h5", 0, 4 * int(np.prod(shape)))])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((12,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (12,))
    file["layers/conv2d/vars"].create_virtual_dataset("0", layout)


def huge(file: Any) -> None:
    file["layers/conv2d/vars"].create_dataset("0", (1 << 20, 1 << 20, 8, 8), "f4")


def bomb(file: Any) -> None:
    file["layers/conv2d/vars"].create_dataset("0", data=np.zeros((1 << 22, 2), np.float32), compression="gzip")


def missing(file: Any) -> None:
    pass


def strings(file: Any) -> None:
    file["layers/conv2d/vars/0"] = np.array([[b"a", b"b"]])


def group(file: Any) -> None:
    file.create_group("layers/conv2d/vars/0")


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(
    ("replace", "why"),
    [
        (soft, r"/layers/conv2d/vars/0 is a link to another place, which is not followed"),
        (external, r"/layers/conv2d/vars/0 is a link to another place"),
        (external_group, r"/layers/conv2d is a link to another place"),
        (elsewhere, r"the values of /layers/conv2d/vars/0 are in another file, which is not opened"),
        (virtual, r"the values of /layers/conv2d/vars/0 are in another file, which is not opened"),
        (huge, r"/layers/conv2d/vars/0 declares 281,474,976,710,656 bytes and has 0"),
        (bomb, r"/layers/conv2d/vars/0 is compressed or in chunks.*h5repack"),
        (missing, r"it lacks /layers/conv2d/vars/0"),
        (strings, r"layers/conv2d\.\w+ holds |S1, which are not weights"),
        (group, r"/layers/conv2d/vars/0 is not an array"),
    ],
)
def test_what_leads_elsewhere_or_is_not_there_is_refused(
    replace: Callable[[Any], None], why: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:  # would be read if a link were followed
        file["x"] = values("conv2d", 0)
        file["vars/0"], file["vars/1"] = values("conv2d_1", 0), values("conv2d_1", 1)
    path = numbered(tmp_path / "a.weights.h5")
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d/vars/0"]
        replace(file)
    refused(path, why)


@pytest.mark.usefixtures("same_process")
def test_many_names_for_one_array_are_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a")
    with h5py.File(path, "r+") as file:
        for number in range(2, 500):
            file[f"layers/conv2d_{number}"] = file["layers/conv2d_1"]
    refused(path, "declares 576 bytes, which are not there")


@pytest.mark.usefixtures("same_process")
def test_older_files_that_lead_elsewhere_or_lack_a_layer(tmp_path: Path) -> None:
    path = older(tmp_path / "a", {"a": ["a/kernel:0"], "b": ["b/kernel:0"]})
    with h5py.File(path, "r+") as file:
        file["a"].attrs["weight_names"] = [b"../b/b/kernel:0"]
    refused(path, "it lacks /a/..")
    with h5py.File(path, "r+") as file:
        file["a"].attrs["weight_names"] = [b"a/kernel:0"]
        del file["b"]
    refused(path, "it lacks /b")
    with h5py.File(path, "r+") as file:
        file["b"] = h5py.SoftLink("/a")
    refused(path, "/b is a link to another place")
    refused(older(tmp_path / "b", {"a": ["a/kernel:0"]}, backend="theano"), "Theano, which mirrors kernels")
    with h5py.File(tmp_path / "c", "w") as file:
        file["data"] = np.zeros(3)
    refused(tmp_path / "c", "it lacks /layers")


@pytest.mark.usefixtures("same_process")
def test_archives_that_are_not_whole(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.keras")
    content = bytearray(path.read_bytes())
    place = content.index(values("conv2d_1", 0).tobytes())
    content[place + 5] ^= 1
    (tmp_path / "b.keras").write_bytes(content)
    refused(tmp_path / "b.keras", "Bad CRC-32 for file 'model.weights.h5'")
    refused(archive(tmp_path / "c.keras", config=[]), "config.json lists no layers")
    with zipfile.ZipFile(tmp_path / "d.keras", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", json.dumps(CONFIG))
        file.writestr("model.weights.h5", b"\0" * (65 << 20))
    refused(tmp_path / "d.keras", r"model.weights.h5 would unpack to 68,157,440 bytes")
    with zipfile.ZipFile(tmp_path / "e.keras", "w") as file:
        file.writestr("model.weights.h5", content)
    refused(tmp_path / "e.keras", "no item named 'config.json'")


@pytest.mark.parametrize("write", [numbered, archive, lambda path: older(path, {"a": ["a/kernel:0", "a/bias:0"]})])
def test_a_cut_file_is_refused_wherever_it_is_cut(write: Callable[[Path], Path], tmp_path: Path) -> None:
    content = write(tmp_path / "a").read_bytes()
    path = tmp_path / "b"
    for share in (0.01, 0.5, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        refused(path, "cannot be read as weights|holds no weights")


def test_damaged_bytes_are_refused_or_change_values_only(tmp_path: Path) -> None:
    content = numbered(tmp_path / "a").read_bytes()
    whole = read_tensors(tmp_path / "a")
    structure = [place for place, byte in enumerate(content[:8192]) if byte]  # of an HDF5 file this small
    rng = np.random.default_rng(0)
    path = tmp_path / "b"
    refusals = 0
    for _ in range(8):
        damaged = bytearray(content)
        for place in rng.choice(structure, size=2):
            damaged[place] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            tensors = read_tensors(path)
        except WeightsError:
            refusals += 1
        else:
            assert sum(tensor.numel() for tensor in tensors.values()) <= sum(map(torch.numel, whole.values()))
    assert refusals > 0


def test_a_file_that_the_library_never_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered(tmp_path / "a")
    monkeypatch.setattr(keras, "_LONGEST", 0.001)
    refused(path, "its arrays were not found within")


def test_a_file_that_the_library_breaks_off_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered(tmp_path / "a")
    done = subprocess.CompletedProcess([], -11, b"", b"Fatal\nSegmentation fault")
    monkeypatch.setattr(keras.subprocess, "run", lambda *_, **__: done)
    refused(path, "the HDF5 library broke off with status -11: Segmentation fault")


def test_without_h5py_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered(tmp_path / "a")
    monkeypatch.setattr(keras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"needs h5py: pip install 'topgraft\[keras\]'"):
        read_tensors(path)
