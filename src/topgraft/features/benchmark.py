"""What this machine has, and what it multiplies, decodes and runs in a second. Measurements are kept per machine."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from topgraft._version import __version__
from topgraft.data.loader import Batch
from topgraft.data.preprocess import load_pixels
from topgraft.features import engines
from topgraft.features.engines import choose
from topgraft.features.engines.base import Engine, EngineChoice
from topgraft.features.engines.choose import build_engine
from topgraft.models.classifier import Classifier, load_pretrained
from topgraft.models.weights.digest import weights_digest
from topgraft.system import progress
from topgraft.system.cores import usable_cores
from topgraft.system.files import atomic_write, cache_folder
from topgraft.system.gpu import gpu_names
from topgraft.system.hardware import has_bf16, memory_bytes, processor_features, processor_name

BACKBONE = "efficientnet_lite0"
PHOTO = (500, 375)  # pixels; what photo collections on the web mostly hold
_RUNS = 5
_SECONDS = 0.8  # of a run; five runs of seven things stay under a minute with the start-up
_SIDE = 1024  # of the square matrices: enough to be bound by arithmetic, and small enough to be done soon


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of n runs."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of measured values, at least one."""
        return cls(median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class EngineRate:
    """Images a second of one engine, decoding left out."""

    choice: EngineChoice
    images_per_second: Spread


@dataclass(frozen=True)
class Measurement:
    """What ``devices --measure`` finds.

    Attributes:
        machine: processor, cores, memory, versions; see `describe_machine`. No name of host or user.
        fp32_gflops, bf16_gflops: billions of operations a second in a matrix product of the processor (two for
            each multiply-add); None where it has no bf16.
        decode: JPEG photos of 500×375 decoded and cut to 224 pixels a second, one thread per core.
        engines: every engine, device and precision there is, on EfficientNet-Lite0 at 224 pixels.
    """

    machine: Mapping[str, Any]
    fp32_gflops: Spread
    bf16_gflops: Spread | None
    decode: Spread
    engines: tuple[EngineRate, ...]


def describe_machine() -> dict[str, Any]:
    """The processor, its cores and features, the memory in bytes, CUDA devices and versions. JSON types."""
    return {
        "processor_name": processor_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory": memory_bytes(),
        "processor": list(processor_features()),
        "bf16": has_bf16(),
        "cuda": gpu_names(),
        "engines": engines.available(),
        "topgraft": __version__,
    }


def describe_devices(folder: Path | None = None) -> dict[str, Any]:
    """`describe_machine`, the default engine and why, and the last measurement, None if there is none. JSON types.

    Args:
        folder: where a measurement is kept; `topgraft.system.files.cache_folder` if None.
    """
    default = choose.choose()
    return {
        **describe_machine(),
        "default": asdict(default),
        "why": _why(default),
        "measured": _saved(choose.measurement_path(folder)),
    }


def measure_machine(folder: Path | None = None) -> Measurement:
    """Measure for less than a minute, and keep the result for ``engine="fastest"``.

    The runs take turns, so that what else the machine does meets all of them alike.

    Args:
        folder: of the cache; `topgraft.system.files.cache_folder` if None.
    """
    where = folder or cache_folder()
    classifier = load_pretrained(BACKBONE)
    choices = choose.possible()
    works = [matrix_product(torch.float32), _decoding(classifier)]
    if has_bf16():
        works.append(matrix_product(torch.bfloat16))
    works += [running(engine, classifier.spec.input_size) for engine in _built(classifier, choices, where)]
    fp32, decode, *rest = map(Spread.of, take_turns(works, seconds=_SECONDS, runs=_RUNS))
    bf16 = rest.pop(0) if has_bf16() else None
    rates = tuple(EngineRate(choice, rate) for choice, rate in zip(choices, rest, strict=True))
    found = Measurement(describe_machine(), fp32, bf16, decode, rates)
    with atomic_write(choose.measurement_path(folder)) as file:
        file.write(json.dumps(asdict(found), indent=2).encode())
    return found


@dataclass(frozen=True)
class Work:
    """Something to time. ``run(times)`` does it so often; once is `amount` of whatever is counted."""

    run: Callable[[int], None]
    amount: float


def take_turns(works: list[Work], *, seconds: float, runs: int) -> list[list[float]]:
    """Amount a second of each work, in each of `runs` runs of about `seconds`; one of each in turn, warmed up."""
    with progress.bar("measuring", len(works) * (runs + 1), "runs") as bar:
        often = []
        for work in works:
            often.append(_times_for(work, seconds))
            bar.advance()
        rates: list[list[float]] = [[] for _ in works]
        for _ in range(runs):
            for work, times, found in zip(works, often, rates, strict=True):
                found.append(times * work.amount / _timed(work, times))
                bar.advance()
    return rates


def _times_for(work: Work, seconds: float) -> int:
    """How often a work fits into `seconds`; at least once."""
    _timed(work, 1)  # the first run makes kernels and takes memory
    times = 1
    while (took := _timed(work, times)) < seconds / 4:
        times *= 2
    return max(1, round(times * seconds / took))


def _timed(work: Work, times: int) -> float:
    began = time.perf_counter()
    work.run(times)
    return max(time.perf_counter() - began, 1e-9)


def matrix_product(kind: torch.dtype) -> Work:
    """A square matrix product on the processor, in billions of operations: two for each multiply-add."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_SIDE, _SIDE, generator=generator).to(kind) for _ in range(2))

    def run(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b)

    return Work(run, 2 * _SIDE**3 / 1e9)


def photo() -> bytes:
    """A real photo as a JPEG of 500×375 pixels, from those that come with scikit-learn."""
    from sklearn.datasets import load_sample_image

    buffer = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize(PHOTO).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _decoding(classifier: Classifier) -> Work:
    data, cores = photo(), usable_cores()

    def run(times: int) -> None:
        with ThreadPoolExecutor(cores) as pool:
            for _ in pool.map(lambda _: load_pixels(data, classifier.spec), range(times * cores)):
                pass

    return Work(run, cores)


def _built(classifier: Classifier, choices: list[EngineChoice], where: Path) -> list[Engine]:
    boundary = list(classifier.groups)[-2]
    prefix = classifier.prefix(boundary)
    key = f"{weights_digest(prefix.state_dict())} {classifier.spec}"
    size = classifier.spec.input_size
    return [build_engine(choice, prefix, input_size=size, key=key, folder=where / "engines") for choice in choices]


def running(engine: Engine, side: int) -> Work:
    """An engine on one batch of noise, in images, decoding left out."""
    size = engine.choice.batch_size
    noise = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)
    batch = Batch(np.arange(size), torch.from_numpy(noise))

    def run(times: int) -> None:
        for _ in engine.run(batch for _ in range(times)):
            pass

    return Work(run, size)


def _why(choice: EngineChoice) -> str:
    if choice.device == "cuda":
        engine = "PyTorch sees a CUDA device"
    elif choice.name == "openvino":
        engine = "OpenVINO is installed"
    else:
        engine = "OpenVINO is not installed"
    place = "GPU" if choice.device == "cuda" else "processor"
    if choice.precision == "bf16":
        return f"{engine}; the {place} has bf16"
    return f"{engine}; the {place} {'has bf16, but is faster without' if has_bf16() else 'has no bf16'}"


def _saved(path: Path) -> Any | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and set(found) == set(Measurement.__dataclass_fields__) else None
