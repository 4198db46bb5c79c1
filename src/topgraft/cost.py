"""Measure the machine: what it multiplies, decodes and runs in a second. Kept per machine."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from . import engines, progress
from .classifier import load_pretrained
from .dataset import Batch, batches
from .engines import EngineChoice, build_engine
from .folders import atomic_write, cache_folder
from .processor import has_bf16, processor_features
from .records import Sample
from .weights import weights_digest

_RUNS = 3
_BACKBONE = "efficientnet_lite0"
_SIDE = 1024  # of the square matrices: large enough to be bound by arithmetic
_IMAGES = 48  # in one run of an engine


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of n runs."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class EngineRate:
    """Images a second of one engine, decoding left out."""

    choice: EngineChoice
    images_per_second: Spread


@dataclass(frozen=True)
class Measurement:
    """What ``devices --measure`` finds.

    Attributes:
        fp32_gflops, bf16_gflops: billions of operations a second in a matrix product (two for each multiply-add);
            None where the processor has no bf16.
        decode: photos of 640×427 decoded and resized to 224 a second, all cores.
        engines: every engine, device and precision there is, on EfficientNet-Lite0 at 224 pixels.
    """

    fp32_gflops: Spread
    bf16_gflops: Spread | None
    decode: Spread
    engines: tuple[EngineRate, ...]


def describe_devices(folder: Path | None = None) -> dict[str, Any]:
    """Cores, processor features, CUDA devices, engines with versions and the default choice. JSON types."""
    path = engines.measurement_path(folder)
    default = engines.choose()
    return {
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "processor": list(processor_features()),
        "bf16": has_bf16(),
        "cuda": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "engines": engines.available(),
        "default": asdict(default),
        "why": "CUDA first, then OpenVINO where installed, then PyTorch; bf16 where the processor reports it",
        "measured": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None,
    }


def measure_machine(folder: Path | None = None) -> Measurement:
    """Measure for about a minute, and keep the result for ``engine="fastest"``.

    Args:
        folder: of the cache; `topgraft.folders.cache_folder` if None.
    """
    where = folder or cache_folder()
    choices = engines.possible()
    with progress.bar("measuring", len(choices) + 3, "parts") as bar:
        fp32 = _product(torch.float32)
        bar.advance()
        bf16 = _product(torch.bfloat16) if has_bf16() else None
        bar.advance()
        decode = _decode()
        bar.advance()
        rates = []
        for choice in choices:
            rates.append(EngineRate(choice, _engine(choice, where / "engines")))
            bar.advance()
    found = Measurement(fp32, bf16, decode, tuple(rates))
    with atomic_write(engines.measurement_path(folder)) as file:
        file.write(json.dumps(asdict(found), indent=2).encode())
    return found


def _spread(work: Callable[[], float], amount: float) -> Spread:
    """`amount` a second over the runs of `work`, which returns its seconds; one run warms up."""
    work()
    rates = [amount / work() for _ in range(_RUNS)]
    return Spread(median(rates), min(rates), max(rates), len(rates))


def _product(kind: torch.dtype) -> Spread:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_SIDE, _SIDE, generator=generator).to(kind) for _ in range(2))
    times = 20

    def work() -> float:
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b)
        return time.perf_counter() - began

    return _spread(work, times * 2 * _SIDE**3 / 1e9)


def _photo() -> bytes:
    from PIL import Image
    from sklearn.datasets import load_sample_image

    buffer = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _decode() -> Spread:
    from concurrent.futures import ThreadPoolExecutor

    from .transforms import load_pixels

    photo, spec, count = _photo(), load_pretrained(_BACKBONE).spec, 60

    def work() -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lambda _: load_pixels(photo, spec), range(count)))
        return time.perf_counter() - began

    return _spread(work, count)


def _engine(choice: EngineChoice, folder: Path) -> Spread:
    classifier = load_pretrained(_BACKBONE)
    prefix = classifier.prefix(list(classifier.groups)[-2]).eval()
    key = weights_digest(prefix.state_dict())
    size = classifier.spec.input_size
    engine = build_engine(choice, prefix, input_size=size, key=key, folder=folder)
    noise = np.random.default_rng(0).integers(0, 256, (_IMAGES, size, size, 3), dtype=np.uint8)
    samples = [Sample(str(k), None, array=image) for k, image in enumerate(noise)]
    ready: list[Batch] = list(batches(samples, classifier.spec, batch_size=choice.batch_size, workers=0))

    def work() -> float:
        began = time.perf_counter()
        for _ in engine.run(ready):
            pass
        return time.perf_counter() - began

    return _spread(work, _IMAGES)
