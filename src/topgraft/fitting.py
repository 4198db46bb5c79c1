"""Parts of ``fit`` that are neither a station of the line nor its composition: settings in, the run's config out."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import defaults, engines, settings
from .backbones import Backbone
from .cache import library_versions
from .classifier import Classifier
from .dictionary import learn_base
from .errors import UsageError
from .features import Base, FeatureRows, compute, decoding_threads, open_base
from .features import run as run_base
from .networks import find_network
from .pixels import fits, open_pixels
from .records import SPLIT_NAMES, EpochRecord, Sample, Splits, Unreadable
from .splits import refuse_unreadable, require_readable
from .steps import StepChoices
from .strategies import STRATEGIES
from .strategies.spec import Facts, Strategy
from .threads import torch_threads
from .train import Inputs, Labelled, Outcome, TrainChoices, train
from .version import __version__
from .weights import LEARNT, RANDOM, Network, load_network

_REFITTED = (
    "after selection the head was solved again on train and validation together, so the validation number is of "
    "images that it was fitted to"
)


@dataclass(frozen=True)
class Resolved:
    """What settings leave to the machine: where the frozen base runs, and in what precision groups step."""

    engine: engines.EngineChoice
    training: str


def fit_settings(choices: Mapping[str, Any]) -> tuple[settings.FitSettings, Resolved]:
    """The settings, and what they leave open: as a replayed run has recorded it, unless a part of it is given anew.

    Raises:
        UsageError: an unknown or impossible choice, or a ``config`` that is none.
    """
    chosen = settings.make(settings.FitSettings, choices)
    if chosen.config is None:
        return chosen, resolve(chosen, find_network(chosen.backbone))
    path = chosen.config / "config.json" if chosen.config.is_dir() else chosen.config
    if not path.is_file():
        raise UsageError(f"there is no {path}; --config takes the config.json of a run")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in saved["settings"].items() if key != "config"}
        resolved = saved["resolved"]
        recorded = Resolved(engines.EngineChoice(**resolved["engine"]), str(resolved["training"]))
        if any(type(n) is not int or n < 1 for n in (recorded.engine.batch_size, recorded.engine.threads)):
            raise ValueError("its engine's batch_size and threads must be whole numbers from 1")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no config.json of a run ({error})") from error
    replayed = settings.make(settings.FitSettings, {**kept, **choices})
    # Another network may demand another engine.
    forced = {"engine", "precision", "device", "backbone"} & set(choices)
    if forced:
        return replayed, resolve(replayed, find_network(replayed.backbone))
    try:
        engines.choose(recorded.engine.name, recorded.engine.precision, recorded.engine.device)
        engines.choose("torch", recorded.training, recorded.engine.device)
    except UsageError as error:
        raise UsageError(f"{path} was run on what is not here: {error}. Add --engine auto to choose anew") from error
    return replayed, recorded


def resolve(chosen: settings.EngineSettings, network: Backbone) -> Resolved:
    """What the fixed rule of `topgraft.engines.choose` gives on this machine."""
    engine = engine_for(network, chosen)
    return Resolved(engine, engines.choose("torch", chosen.precision, engine.device).precision)


def engine_for(network: Backbone, chosen: settings.EngineSettings) -> engines.EngineChoice:
    """The engine for a network's base; see `topgraft.engines.choose`."""
    return engines.choose(chosen.engine, chosen.precision, chosen.device, chosen.cache_dir, demand=network.demand)


def open_network(
    chosen: settings.NetworkSettings,
    decode: Any,
    classes: int,
    train: Sequence[Sample],
    seed: int = 0,
    lap: Callable[[str], None] | None = None,
) -> tuple[Network, Classifier]:
    """The network with its weights and a new head, and the classifier of it, in evaluation mode.

    Args:
        chosen: which network, and with which weights.
        decode: how pixels are decoded; see `topgraft.records.ImageSpec`.
        classes: outputs of the head.
        train: images that a baseline's base is learnt from.
        seed: of what is drawn.
        lap: notes the seconds of the parts; see `laps`.
    """
    record = find_network(chosen.backbone)
    network = load_network(
        chosen.backbone,
        chosen.weights,
        input_size=chosen.input_size,
        classes=classes,
        seed=seed,
        folder=chosen.cache_dir,
    )
    classifier = Classifier(network.chain, replace(network.spec, decode=decode)).eval()
    note = lap or (lambda _: None)
    note("network")
    if network.weights == LEARNT:
        learn_base(record, classifier, train, workers=chosen.workers, seed=seed)
        note("dictionary")
    return network, classifier


@dataclass(frozen=True)
class Trained:
    """What training leaves: its records, and the features of the validation images under the trained network.

    Attributes:
        records, outcome: see `topgraft.train.train`.
        rows, samples: of the validation images that could be read.
        unreadable: images that could not, and why.
        decoded, cached: images whose features were computed now, and that the cache held.
    """

    records: list[EpochRecord]
    outcome: Outcome
    rows: NDArray[np.float32]
    samples: list[Sample]
    unreadable: tuple[Unreadable, ...]
    decoded: int
    cached: int


def train_network(
    classifier: Classifier,
    splits: Splits,
    chosen: settings.FitSettings,
    resolved: Resolved,
    seconds: dict[str, float],
) -> Trained:
    """Run the strategy's phases on what they need: features of the frozen base, or pixels.

    Args:
        classifier: changed in place.
        splits: train and validation are used.
        chosen, resolved: see `fit_settings`.
        seconds: gets the seconds of each part.

    Raises:
        DataError: images that cannot be learnt from.
        Stalled: see `topgraft.steps.run_phase`.
    """
    record = find_network(chosen.backbone)
    pretrained = chosen.weights != RANDOM
    facts = Facts(
        train_images=len(splits.train),
        val_images=len(splits.val),
        classes=len(splits.classes),
        epochs=chosen.epochs or defaults.epochs(pretrained),
        lr=_rate(chosen),
    )
    choices = TrainChoices(
        class_weight=chosen.class_weight,
        refit=chosen.refit,
        seed=chosen.seed,
        steps=StepChoices(
            optimizer=chosen.optimizer,
            batch_size=chosen.batch_size,
            precision=resolved.training,
            device=resolved.engine.device,
            l2=record.l2 if chosen.l2 == "published" else 0.0,
            updates_batchnorm=not pretrained,
            stalled=chosen.stalled,
            seed=chosen.seed,
        ),
        solver=record.solver,
    )
    strategy = STRATEGIES[chosen.strategy]
    first = strategy(tuple(classifier.groups), facts, ())
    on_features = first is None or first.solves_head
    if record.learn is not None and not on_features:
        raise UsageError(f"the base of {record.name} is learnt from the images at once and takes no steps; use head")
    if chosen.refit and not on_features:
        raise UsageError("refit solves the head again, and this strategy takes steps instead; leave --refit out")
    run = _on_features if on_features else _on_pixels
    return run(classifier, splits, chosen, resolved, strategy, facts, choices, laps(seconds))


def _open_base(classifier: Classifier, chosen: settings.FitSettings, resolved: Resolved) -> Base:
    libraries = find_network(chosen.backbone).libraries
    return open_base(classifier, resolved.engine, chosen.workers, chosen.cache_dir, libraries)


def _rate(chosen: settings.FitSettings) -> float:
    """The learning rate that was asked for, or the default."""
    return defaults.learning_rate(chosen.optimizer, chosen.weights != RANDOM) if chosen.lr is None else chosen.lr


def _on_features(
    classifier: Classifier,
    splits: Splits,
    chosen: settings.FitSettings,
    resolved: Resolved,
    strategy: Strategy,
    facts: Facts,
    choices: TrainChoices,
    lap: Callable[[str], None],
) -> Trained:
    samples = (*splits.train, *splits.val)
    base = _open_base(classifier, chosen, resolved)
    computed = compute(samples, base, strict=chosen.strict, description="base")
    lap("features")
    inputs = Inputs(features=labelled(computed, samples, len(splits.train), splits.classes))
    records, outcome = drain(train(classifier, strategy, facts, inputs, choices))
    lap("head")
    held = computed.kept >= len(splits.train)
    return Trained(
        records,
        outcome,
        computed.rows[held],
        [samples[index] for index in computed.kept[held]],
        computed.unreadable,
        computed.decoded,
        len(computed.rows) - computed.decoded,
    )


def _on_pixels(
    classifier: Classifier,
    splits: Splits,
    chosen: settings.FitSettings,
    resolved: Resolved,
    strategy: Strategy,
    facts: Facts,
    choices: TrainChoices,
    lap: Callable[[str], None],
) -> Trained:
    workers = decoding_threads(chosen.workers)
    keep = fits(len(splits.train) + len(splits.val), classifier.spec)
    pair = [
        open_pixels(samples, classifier.spec, workers=workers, keep=keep, description=f"decode {name}")
        for name, samples in (("train", splits.train), ("validation", splits.val))
    ]
    lap("decode")
    known = tuple(entry for part in pair for entry in part.unreadable)
    if chosen.strict:
        refuse_unreadable(known)
    there = [part.labels.numpy()[part.readable].tolist() for part in pair]
    require_readable(splits.classes, set(there[0]), there[1])
    with torch_threads(resolved.engine.threads):
        records, outcome = drain(train(classifier, strategy, facts, Inputs(pixels=(pair[0], pair[1])), choices))
    lap("train")
    # The number that is shown is made as `evaluate` and `predict` will make theirs: on the engine.
    base = _open_base(classifier, chosen, resolved)
    computed = run_base(splits.val, base, description="validate")
    unreadable = {entry.name: entry for part in pair for entry in part.unreadable}
    return Trained(
        records,
        outcome,
        computed.rows,
        [splits.val[index] for index in computed.kept],
        tuple(unreadable.values()),
        computed.decoded,
        0,
    )


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


def _replayable(chosen: settings.FitSettings, outcome: Outcome) -> settings.FitSettings:
    """The settings for a replay: it starts with a rate that was lowered on the way, and finds a file from anywhere."""
    asked = _rate(chosen)
    rate = outcome.selection.get("lr", asked)
    file = Path(chosen.weights or "").expanduser()
    weights = os.fspath(file.resolve()) if chosen.weights and file.is_file() else chosen.weights
    return replace(chosen, lr=chosen.lr if rate == asked else rate, weights=weights)


def run_config(
    chosen: settings.FitSettings,
    splits: Splits,
    network: Network,
    outcome: Outcome,
    resolved: Resolved,
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
        "selection": outcome.selection,
        "settings": settings.as_json(_replayable(chosen, outcome)),
        "resolved": {
            "engine": asdict(resolved.engine),
            "engine_why": record.demand.why if record.demand else None,
            "training": resolved.training,
            "workers": decoding_threads(chosen.workers),
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
            "engine": engines.version(resolved.engine.name),
            **library_versions(record.libraries),
        },
    }
