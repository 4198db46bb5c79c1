"""The frozen prefix of a classifier, ready to run: its engine, and its place in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from topgraft.data.augment import View
from topgraft.data.loader import decoding_threads
from topgraft.data.samples import ImageSpec
from topgraft.features.engines.base import Engine, EngineChoice
from topgraft.features.engines.choose import build_engine
from topgraft.models.classifier import Classifier
from topgraft.models.weights.digest import weights_digest
from topgraft.system.files import cache_folder

from .cache_key import CacheKey
from .store import FeatureStore

_DRAWING = ("numpy",)  # its random numbers may change with its version


@dataclass(frozen=True)
class Base:
    """The frozen prefix of a classifier, ready to run.

    Attributes:
        spec: how its pixels are made.
        build: makes the engine; called only where something has to run.
        store: what the cache holds of it.
        batch_size: images that the engine takes at a time.
        workers: decoding threads.
        view: which pixels of an image; None for the spec's central crop.
    """

    spec: ImageSpec
    build: Callable[[], Engine]
    store: FeatureStore
    batch_size: int
    workers: int
    view: View | None = None


def open_base(
    classifier: Classifier,
    choice: EngineChoice,
    workers: int | None,
    folder: Path | None,
    libraries: Sequence[str] = (),
) -> Base:
    """All groups before the head as a `Base`, with its place in the cache.

    Args:
        classifier: on the CPU, in evaluation mode.
        choice: the engine; see `topgraft.features.engines.choose.choose`.
        workers: decoding threads; one per usable core if None.
        folder: of the cache; `topgraft.system.files.cache_folder` if None.
        libraries: distributions that the base computes with; rows of other versions of them are not shared.
    """
    boundary = list(classifier.groups)[-2]
    shape = (classifier.head.in_features,)
    where = (folder or cache_folder()) / "features"
    return _open(classifier, classifier.prefix(boundary), boundary, shape, choice, workers, folder, where, libraries)


def open_boundary(
    classifier: Classifier,
    boundary: str,
    choice: EngineChoice,
    workers: int | None,
    folder: Path | None,
    views: Sequence[View | None] = (None,),
    libraries: Sequence[str] = (),
) -> list[Base]:
    """The groups up to and including `boundary`, once for each view; see `open_base`.

    Where the cache keeps them is its folder ``boundaries``: they are large, and
    `topgraft.training.boundary_cache.trim` makes room.
    """
    prefix = classifier.prefix(boundary).eval()
    shape = activation_shape(prefix, classifier.spec)
    where = (folder or cache_folder()) / "boundaries"
    used = (*_DRAWING, *libraries)
    bases = [_open(classifier, prefix, boundary, shape, choice, workers, folder, where, used, view) for view in views]
    built = cache(bases[0].build)  # one engine runs all views, one after the other
    return [replace(base, build=built) for base in bases]


def open_probes(
    classifier: Classifier,
    choice: EngineChoice,
    workers: int | None,
    folder: Path | None,
    libraries: Sequence[str] = (),
) -> tuple[Base, dict[str, int]]:
    """The pooled activations after every group before the head, side by side, and how many numbers each gives.

    The last are the features. See `open_base`.
    """
    probes = PooledBoundaries(classifier).eval()
    widths = probes.widths(classifier.spec)
    shape, where = (sum(widths.values()),), (folder or cache_folder()) / "features"
    base = _open(classifier, probes, "all, pooled", shape, choice, workers, folder, where, libraries)
    return base, widths


class PooledBoundaries(nn.Module):
    """uint8 N×H×W×3 to the mean over space of what each group before the head gives, N×(sum of channels)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.normalise = classifier.normalise
        self.groups = nn.ModuleDict({name: group for name, group in classifier.groups.items() if name != "head"})
        self.training = classifier.training

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """All groups, one after the other."""
        x: torch.Tensor = self.normalise(pixels)
        pooled = []
        for group in self.groups.values():
            x = group(x)
            pooled.append(x.mean((2, 3)) if x.ndim == 4 else x.flatten(1))
        return torch.cat(pooled, 1)

    def widths(self, spec: ImageSpec) -> dict[str, int]:
        """How many numbers each group gives."""
        found = {}
        with torch.inference_mode():
            x = self.normalise(_black(spec))
            for name, group in self.groups.items():
                x = group(x)
                found[name] = int(x.shape[1]) if x.ndim == 4 else int(x.flatten(1).shape[1])
        return found


def activation_shape(prefix: nn.Module, spec: ImageSpec) -> tuple[int, ...]:
    """Shape of what a prefix gives for one image."""
    with torch.inference_mode():
        return tuple(prefix(_black(spec)).shape[1:])


def _black(spec: ImageSpec) -> torch.Tensor:
    return torch.zeros((1, spec.input_size, spec.input_size, 3), dtype=torch.uint8)


def _open(
    classifier: Classifier,
    prefix: nn.Module,
    boundary: str,
    shape: tuple[int, ...],
    choice: EngineChoice,
    workers: int | None,
    folder: Path | None,
    kept: Path,
    libraries: Sequence[str],
    view: View | None = None,
) -> Base:
    prefix = prefix.eval()
    # Two graphs may have tensors of the same names, shapes and values; strides, pads and epsilons tell them apart.
    graph = f"{weights_digest(prefix.state_dict())} {prefix!r}"
    weights = hashlib.sha256(graph.encode()).hexdigest()
    spec = classifier.spec
    # A compiled network holds how it normalizes, which is not among the weights.
    network = f"{weights} {boundary} {spec.mean} {spec.std} {spec.channel_order}"
    engines = (folder or cache_folder()) / "engines"

    def build() -> Engine:
        return build_engine(choice, prefix, input_size=spec.input_size, key=network, folder=engines)

    key = CacheKey.make(
        spec=spec,
        weights=weights,
        boundary=boundary,
        view="plain" if view is None else view.key,
        choice=choice,
        libraries=libraries,
    )
    return Base(spec, build, FeatureStore(kept, key, shape), choice.batch_size, decoding_threads(workers), view)
