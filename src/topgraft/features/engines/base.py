"""What an engine is: records, and the one method that runs a frozen prefix."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from topgraft.data.loader import Batch
from topgraft.system.hardware import bf16_pays

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The indices of some images, and their activations, len(indices) × the boundary's shape."""

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class EngineChoice:
    """An engine and everything about it that can change a result. JSON-able: a run's config holds it.

    Attributes:
        name: a key of `topgraft.features.engines.ENGINES`.
        precision: arithmetic of the products: ``bf16`` or ``fp32``; sums are float32 in both.
        device: ``cpu`` or ``cuda``.
        batch_size: images that the network sees at a time; a shorter batch is filled up.
        threads: of the processor.
    """

    name: str
    precision: str
    device: str
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Tolerance:
    """How far an engine's features may be from eager float32.

    bfloat16 has 8 bits, and some fifty layers round one after the other. On 398 photos of ants and bees
    EfficientNet-Lite0's features in bf16 kept a cosine of 0.9945 at least and 0.9994 in the median, and a head
    fitted on the float32 features of 245 of them lost 1 of the other 153 at most, at three strengths.

    Attributes:
        cosine: the least cosine between the two feature vectors of one image, over any images.
        median_cosine: the least median of it over some photos.
        accuracy: the most by which the accuracy of one head on both may differ; a fraction of 1.
    """

    cosine: float
    median_cosine: float
    accuracy: float


class Engine(Protocol):
    """Runs a frozen prefix."""

    @property
    def choice(self) -> EngineChoice:
        """What it was built by."""

    @property
    def version(self) -> str:
        """Of the library that computes."""

    def run(self, batches: Iterable[Batch]) -> Iterator[Rows]:
        """Activations of every batch, in the order of the batches; empty batches are left out.

        A row depends on its image alone: not on its neighbors, nor on its place in the batch.
        The next batch is asked for while earlier ones are still computed. The caller may stop at any time.
        """


@dataclass(frozen=True)
class EngineKind:
    """One line of the table of engines. Nothing of it but `build` imports the library that computes.

    Attributes:
        package: the module and distribution that computes, whose version it reports.
        devices: what it can run on here, best first; empty where it is not installed. A GPU that is seen counts.
        precisions: what a device can compute in here, best first.
        batch_size: images at a time on a device.
        tolerance: by precision.
        build: ``build(choice, prefix, input_size=…, key=…, folder=…)``; see
            `topgraft.features.engines.choose.build_engine`.
    """

    package: str
    devices: Callable[[], tuple[str, ...]]
    precisions: Callable[[str], tuple[Precision, ...]]
    batch_size: Callable[[str], int]
    tolerance: dict[Precision, Tolerance]
    build: Callable[[EngineChoice, nn.Module, int, str, Path], Engine]


def by_speed() -> tuple[Precision, ...]:
    """Both precisions of a processor that has bfloat16, the faster first."""
    return ("bf16", "fp32") if bf16_pays() else ("fp32", "bf16")


def installed_version(package: str) -> str | None:
    """``openvino 2026.4.1``, without importing it; None where it is not installed."""
    if importlib.util.find_spec(package) is None:
        return None
    return f"{package} {metadata.version(package)}"


def parts(batch: Batch, size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """A batch in parts of exactly `size` images: the first row of each, and its pixels, N×H×W×3.

    A last part that is shorter is filled up with black images, so that the network sees one shape only:
    it is never compiled twice, and rounds alike for every image.
    """
    pixels: NDArray[Any] = batch.pixels.numpy()
    for start in range(0, len(pixels), size):
        part = pixels[start : start + size]
        if len(part) < size:
            filled = np.zeros((size, *pixels.shape[1:]), dtype=np.uint8)
            filled[: len(part)] = part
            part = filled
        yield start, np.ascontiguousarray(part)
