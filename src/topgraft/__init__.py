"""Topgraft turns a pretrained convolutional network into your own image classifier.

    import topgraft as tg

    photos = tg.open_images("photos/")
    model = tg.fit(photos)
    result = model.evaluate(photos)
    model.save("runs/photos")

Importing this package imports no torch: functions and types are loaded when they are first used.
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
    from .data.samples import Duplicate, ImageSpec, Sample, Splits, Unreadable
    from .data.survey import Survey
    from .evaluation.forgetting import Forgetting
    from .evaluation.results import Cost, Evaluation, FittedClassifier, Prediction, Predictions
    from .features.export import Features
    from .metrics import ClassReport, Difference, Interval, Metrics
    from .models.catalog import list_backbones, summary
    from .models.plain_network import create_network
    from .models.summary import Summary
    from .strategies.history import EpochRecord, History
    from .strategies.plan import Phase, Rule
    from .training.inspection import Inspection

_MODULES = {
    "api": "devices evaluate extract_features fit forgetting inspect load open_images predict save survey",
    "data.samples": "Duplicate ImageSpec Sample Splits Unreadable",
    "data.survey": "Survey",
    "evaluation.forgetting": "Forgetting",
    "evaluation.results": "Cost Evaluation FittedClassifier Prediction Predictions",
    "features.export": "Features",
    "metrics": "ClassReport Difference Interval Metrics",
    "models.catalog": "list_backbones summary",
    "models.plain_network": "create_network",
    "models.summary": "Summary",
    "strategies.history": "EpochRecord History",
    "strategies.plan": "Phase Rule",
    "training.inspection": "Inspection",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}
"""Public name → module that is imported when the name is first used."""

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "ClassReport",
    "Cost",
    "DataError",
    "Difference",
    "DownloadError",
    "Duplicate",
    "EpochRecord",
    "Evaluation",
    "Features",
    "FittedClassifier",
    "Forgetting",
    "History",
    "ImageError",
    "ImageSpec",
    "Inspection",
    "Interval",
    "Metrics",
    "Phase",
    "Prediction",
    "Predictions",
    "Rule",
    "Sample",
    "Splits",
    "Summary",
    "Survey",
    "TopgraftError",
    "TrainingStalledError",
    "Unreadable",
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
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'topgraft' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"topgraft.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
