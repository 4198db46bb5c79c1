"""Parts of ``fit`` that are neither a station of the line nor its composition: settings in, the run's config out."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from . import engines, settings
from .backbones import find_backbone
from .classifier import Classifier
from .errors import UsageError
from .features import Base, FeatureRows
from .records import SPLIT_NAMES, EpochRecord, Sample, Splits
from .splits import require_readable
from .train import Labelled, Outcome
from .version import __version__
from .weights import find_weights

_REFITTED = (
    "after selection the head was solved again on train and validation together, so the validation number is of "
    "images that it was fitted to"
)


def fit_settings(choices: Mapping[str, Any]) -> tuple[settings.FitSettings, engines.EngineChoice | None]:
    """The settings, and the engine that a replayed run had recorded where none of its parts is given anew."""
    chosen = settings.make(settings.FitSettings, choices)
    if chosen.config is None:
        return chosen, None
    path = chosen.config / "config.json" if chosen.config.is_dir() else chosen.config
    if not path.is_file():
        raise UsageError(f"there is no {path}; --config takes the config.json of a run")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in saved["settings"].items() if key != "config"}
        recorded = engines.EngineChoice(**saved["resolved"]["engine"])
        if any(type(number) is not int or number < 1 for number in (recorded.batch_size, recorded.threads)):
            raise ValueError("its engine's batch_size and threads must be whole numbers from 1")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no config.json of a run ({error})") from error
    replayed = settings.make(settings.FitSettings, {**kept, **choices})
    forced = {"engine", "precision", "device"} & set(choices)
    if forced:
        return replayed, None
    try:
        engines.choose(recorded.name, recorded.precision, recorded.device)
    except UsageError as error:
        raise UsageError(f"{path} was run on what is not here: {error}. Add --engine auto to choose anew") from error
    return replayed, recorded


def with_decode(classifier: Classifier, decode: Any) -> Classifier:
    """The classifier, its pixels decoded as asked."""
    classifier.spec = replace(classifier.spec, decode=decode)
    return classifier


def labelled(
    computed: FeatureRows, samples: Sequence[Sample], train_size: int, classes: Sequence[str]
) -> tuple[Labelled, Labelled]:
    """Features and labels of train and of validation.

    Raises:
        DataError: a class without a readable training image, or no readable validation image.
    """
    labels = np.array([label_of(samples[index]) for index in computed.kept], dtype=np.int64)
    first = int((computed.kept < train_size).sum())
    require_readable(classes, set(labels[:first].tolist()), labels[first:].tolist())
    return Labelled(computed.rows[:first], labels[:first]), Labelled(computed.rows[first:], labels[first:])


def label_of(sample: Sample) -> int:
    """The label; -1 where there is none."""
    return -1 if sample.label is None else sample.label


def drain(run: Generator[EpochRecord, None, Outcome]) -> tuple[list[EpochRecord], Outcome]:
    """Run a training to its end: all records, and what it returned."""
    records: list[EpochRecord] = []
    while True:
        try:
            records.append(next(run))
        except StopIteration as stop:
            return records, stop.value


def laps(seconds: dict[str, float]) -> Callable[[str], None]:
    """A stopwatch: ``lap(name)`` notes the seconds since the lap before."""
    last = [time.perf_counter()]

    def lap(name: str) -> None:
        now = time.perf_counter()
        seconds[name] = now - last[0]
        last[0] = now

    return lap


def run_config(
    chosen: settings.FitSettings, splits: Splits, outcome: Outcome, choice: engines.EngineChoice, base: Base
) -> dict[str, Any]:
    """All that ``config.json`` says of a run, beside what `topgraft.artifact` adds."""
    import PIL
    import torch

    network = find_backbone(chosen.backbone)
    weights = find_weights(network.weights[0])
    return {
        "backbone": {
            "name": network.name,
            "weights": weights.name,
            "weights_sha256": weights.sha256,
            "licence": weights.licence,
            "paper": network.paper,
        },
        "strategy": chosen.strategy,
        "phases": outcome.phases,
        "selection": {
            "strength": outcome.strength,
            "by": outcome.selected_by,
            "images": outcome.selection_images,
        },
        "settings": settings.as_json(chosen),
        "resolved": {
            "engine": asdict(choice),
            "workers": base.workers,
            "torch_threads": torch.get_num_threads(),
        },
        "seed": chosen.seed,
        "data": {
            "where": splits.where,
            "images": {split: len(splits[split]) for split in SPLIT_NAMES},
            "split_seed": splits.split_seed,
            "made": sorted(splits.made),
        },
        "notes": [*splits.notes, *([_REFITTED] if chosen.refit else [])],
        "versions": {
            "topgraft": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
            "engine": engines.version(choice.name),
        },
    }
