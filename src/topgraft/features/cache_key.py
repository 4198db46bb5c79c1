"""The key of a feature cache: everything that makes a row, except the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import PIL
from PIL import features as pillow_features

from topgraft._version import __version__
from topgraft.data.samples import ImageSpec
from topgraft.features.engines import version as engine_version
from topgraft.features.engines.base import EngineChoice
from topgraft.system.gpu import gpu_names
from topgraft.system.hardware import processor_features

# Decoders that may round otherwise in another version; PNG and the like are exact in all.
_LOSSY_DECODERS = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif")


@dataclass(frozen=True)
class CacheKey:
    """Everything that makes a row, but the image. Two runs share rows only where all of it is equal.

    Attributes:
        spec: how pixels are made, decode mode included.
        weights: hash of the prefix's tensors and of its graph.
        boundary: name of its last group.
        view: which pixels of an image; ``plain`` is the spec's central crop.
        engine: `topgraft.features.engines.base.EngineChoice` as a mapping.
        versions: of Topgraft, the engine, the image decoders, and what else computes.
        processor: its features, and the name of the GPU where that computes; the engines choose kernels by them.
    """

    spec: ImageSpec
    weights: str
    boundary: str
    view: str
    engine: Mapping[str, Any]
    versions: Mapping[str, str]
    processor: tuple[str, ...]

    @classmethod
    def make(
        cls,
        *,
        spec: ImageSpec,
        weights: str,
        boundary: str,
        view: str,
        choice: EngineChoice,
        libraries: Sequence[str] = (),
    ) -> CacheKey:
        """The key of an engine on this machine, with these versions."""
        return cls(
            spec=spec,
            weights=weights,
            boundary=boundary,
            view=view,
            engine=asdict(choice),
            versions={
                "topgraft": __version__,
                "engine": engine_version(choice.name),
                **decoder_versions(),
                **library_versions(libraries),
            },
            # The first GPU is the one that PyTorch takes; a processor's keys have no word of any.
            processor=(*processor_features(), *(gpu_names()[:1] if choice.device == "cuda" else ())),
        )

    def as_json(self) -> str:
        """For people to read: ``key.json`` in the store's folder."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @property
    def digest(self) -> str:
        """Of all of it, in 32 hex digits: the name of the store's folder."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:32]


def decoder_versions() -> dict[str, str]:
    """Versions of Pillow and of the lossy decoders that it was built with."""
    found = {name: _decoder_version(name) for name in _LOSSY_DECODERS}
    return {"pillow": PIL.__version__, **{name: version for name, version in found.items() if version}}


def library_versions(libraries: Sequence[str]) -> dict[str, str]:
    """Versions of installed distributions; "not installed" where one is not."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _decoder_version(name: str) -> str | None:
    check = pillow_features.version_feature if name in pillow_features.features else pillow_features.version
    version = check(name)
    return None if version is None else str(version)
