"""Topgraft turns a pretrained convolutional network into your own image classifier.

    import topgraft as tg

    photos = tg.open_images("photos/")
    model = tg.fit(photos)
    result = tg.evaluate(model, photos)
    tg.save(model, "runs/photos")

Importing this package imports no torch: the verbs are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    DownloadError,
    ImageError,
    TopgraftError,
    TrainingStalledError,
    UsageError,
    WeightsError,
)

if TYPE_CHECKING:
    from topgraft.models.catalog import list_backbones, summary
    from topgraft.models.plain_network import create_network

    from .api import (
        devices,
        evaluate,
        extract_features,
        fit,
        forgetting,
        inspect,
        load,
        open_images,
        predict,
        save,
        survey,
    )

_VERBS = (
    "create_network",
    "devices",
    "evaluate",
    "extract_features",
    "fit",
    "forgetting",
    "inspect",
    "list_backbones",
    "load",
    "open_images",
    "predict",
    "save",
    "summary",
    "survey",
)

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "DownloadError",
    "ImageError",
    "TopgraftError",
    "TrainingStalledError",
    "UsageError",
    "WeightsError",
    "__version__",
    "create_network",
    "devices",
    "evaluate",
    "extract_features",
    "fit",
    "forgetting",
    "inspect",
    "list_backbones",
    "load",
    "open_images",
    "predict",
    "save",
    "summary",
    "survey",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        from topgraft import api

        return getattr(api, name)
    raise AttributeError(f"module 'topgraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
