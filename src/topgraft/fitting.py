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
from .cache import library_versions
from .classifier import Classifier
from .errors import DataError, UsageError
from .features import Base, FeatureRows
from .networks import find_network
from .records import SPLIT_NAMES, EpochRecord, Sample, Splits
from .train import Labelled, Outcome
from .version import __version__
from .weights import Network


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
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no config.json of a run ({error})") from error
    replayed = settings.make(settings.FitSettings, {**kept, **choices})
    # Another network may demand another engine.
    forced = {"engine", "precision", "device", "backbone"} & set(choices)
    return replayed, None if forced else recorded


def classifier_of(network: Network, decode: Any) -> Classifier:
    """The network as a classifier in evaluation mode, its pixels decoded as asked."""
    return Classifier(network.chain, replace(network.spec, decode=decode)).eval()


def labelled(
    computed: FeatureRows, samples: Sequence[Sample], train_size: int, classes: Sequence[str]
) -> tuple[Labelled, Labelled]:
    """Features and labels of train and of validation.

    Raises:
        DataError: a class without a readable training image, or no readable validation image.
    """
    labels = np.array([label_of(samples[index]) for index in computed.kept], dtype=np.int64)
    first = int((computed.kept < train_size).sum())
    gone = sorted(set(range(len(classes))) - set(labels[:first].tolist()))
    if gone:
        raise DataError(
            f"no training image of {', '.join(classes[k] for k in gone)} can be read; "
            "add images of it, or remove the class"
        )
    if first == len(labels):
        raise DataError("no validation image can be read; add images, or let Topgraft make the splits")
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
    chosen: settings.FitSettings,
    splits: Splits,
    network: Network,
    outcome: Outcome,
    choice: engines.EngineChoice,
    base: Base,
) -> dict[str, Any]:
    """All that ``config.json`` says of a run, beside what `topgraft.artifact` adds."""
    import PIL
    import torch

    record = find_network(chosen.backbone)
    return {
        "backbone": {
            "name": chosen.backbone,
            "build": asdict(network.build),
            "weights": network.weights,
            "weights_sha256": network.sha256,
            "licence": network.licence,
            "paper": record.paper,
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
            "engine_why": record.demand.why if record.demand else None,
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
        "versions": {
            "topgraft": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
            "engine": engines.version(choice.name),
            **library_versions(record.libraries),
        },
    }
