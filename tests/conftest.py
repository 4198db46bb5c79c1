"""Fixtures that several test files use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Tests run side by side; more threads than cores would wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Started in the background by a shell, the tests would ignore Ctrl-C, and so would all that they start, for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def timm() -> Iterator[ModuleType]:
    """The reference implementation, where `tests/requirements-reference.txt` is installed."""
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps -r tests/requirements-reference.txt")
    import torch

    # torchvision's compiled operators do not load with PyTorch's CPU build, and its import fails where these
    # two names are unknown. Defined without an implementation, they let it import; nothing here calls them.
    library = torch.library.Library("torchvision", "FRAGMENT")
    # A build for CUDA has them from torchvision, which would end the process if they were defined twice.
    missing = ("nms", "qnms") if torch.version.cuda is None else ()
    for operator in missing:
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    yield timm
    del library  # it holds the definitions as long as it lives


@pytest.fixture(scope="session")
def keras(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Keras on PyTorch on the CPU, where `tests/requirements-reference.txt` is installed."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed: pip install --no-deps -r tests/requirements-reference.txt")
    # Read when it is imported. Without the first Keras looks for TensorFlow; in its home it writes a file.
    os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu", KERAS_HOME=str(tmp_path_factory.mktemp("keras")))
    import keras

    return keras


@pytest.fixture(scope="session")
def torchvision(timm: ModuleType) -> ModuleType:
    """The other reference implementation; `timm` has made it importable."""
    return importlib.import_module("torchvision")


@pytest.fixture
def double() -> Iterator[None]:
    """float64 for every tensor that a test makes without saying which."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks ``data/NAME.zip`` of ``TOPGRAFT_DATA`` once and gives the folder NAME."""
    where = os.environ.get("TOPGRAFT_DATA")
    if where is None:
        pytest.skip("TOPGRAFT_DATA is unset: it names a folder that holds data/*.zip")
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in unpacked:
            folder = tmp_path_factory.mktemp("data")
            with zipfile.ZipFile(Path(where, "data", f"{name}.zip")) as archive:
                archive.extractall(folder)
            unpacked[name] = folder / name
        return unpacked[name]

    return unpack


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """``TOPGRAFT_DATA``, which also holds ``weights/``."""
    where = os.environ.get("TOPGRAFT_DATA")
    if where is None:
        pytest.skip("TOPGRAFT_DATA is unset: it names a folder that holds weights/")
    return Path(where)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's own cache."""
    previous = os.environ.get("TOPGRAFT_CACHE")
    os.environ["TOPGRAFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("TOPGRAFT_CACHE")
    if previous is not None:
        os.environ["TOPGRAFT_CACHE"] = previous
