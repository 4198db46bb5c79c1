"""The verbs. They compose the stations of the line and decide nothing."""

from __future__ import annotations

import inspect as _inspect
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from . import artifact, cost, engines, fitting, inspection, settings
from .backbones import BACKBONES, Backbone
from .baselines import BASELINES
from .dictionary import learn_base
from .errors import DataError, UsageError
from .evaluate import evaluate as score
from .features import Base, compute, open_base
from .networks import find_network
from .plan import table
from .predict import find_images
from .predict import predict as answer
from .published import find_weights
from .records import (
    SPLIT_NAMES,
    Cost,
    Evaluation,
    Features,
    Fitted,
    Inspection,
    Predictions,
    Sample,
    SplitName,
    Splits,
    Unreadable,
)
from .sources import open_source
from .splits import divide, refuse_unreadable
from .strategies import STRATEGIES
from .strategies.spec import Facts
from .summary import Summary, summarise
from .survey import Survey
from .survey import survey as look
from .train import train
from .weights import LEARNT, RANDOM, load_network, locate

V = TypeVar("V", bound=Callable[..., Any])


def _takes(kind: type[Any]) -> Callable[[V], V]:
    """Give a verb the signature of its settings, so that ``help`` and notebooks show every choice."""

    def sign(verb: V) -> V:
        signature = _inspect.signature(verb)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        choices = [
            _inspect.Parameter(entry.name, _inspect.Parameter.KEYWORD_ONLY, default=settings.default(entry))
            for entry in fields(kind)
        ]
        verb.__signature__ = signature.replace(parameters=[*named, *choices])  # type: ignore[attr-defined]
        lines = [f"    {entry.name}: {entry.metadata['help']}." for entry in fields(kind)]
        verb.__doc__ = (
            (verb.__doc__ or "").rstrip() + "\n\n    Choices:\n" + "\n".join("    " + x for x in lines) + "\n"
        )
        return verb

    return sign


@_takes(settings.OpenSettings)
def open_images(where: Any, **choices: Any) -> Splits:
    """Find labelled images and divide them into train, validation and test.

    Args:
        where: a folder of class folders; a CSV file; ``digits``, ``cifar10``, ``cifar100`` or
            ``cifar100_coarse``; or arrays: ``(images, labels)``, or a mapping of split names to such pairs.

    Raises:
        DataError: nothing that can be learnt from; the message says what to do.
        UsageError: an unknown or impossible choice.
    """
    chosen = settings.make(settings.OpenSettings, choices)
    source = open_source(where, data_dir=chosen.data_dir)
    splits = divide(source, split_seed=chosen.split_seed, limit=chosen.limit)
    if chosen.strict:
        refuse_unreadable(splits.unreadable)
    return splits


@_takes(settings.FitSettings)
def fit(images: Any, **choices: Any) -> Fitted:
    """Turn a pretrained network into a classifier of your images.

    Args:
        images: `Splits` from `open_images`, or whatever `open_images` takes.

    Raises:
        DataError: images that cannot be learnt from.
        UsageError: an unknown or impossible choice.
        WeightsError: the network's weights are not here or are damaged.
    """
    began = time.perf_counter()
    chosen, recorded = fitting.fit_settings(choices)
    splits, seconds = _opened(images, chosen)
    lap = fitting.laps(seconds)
    record = find_network(chosen.backbone)
    choice = recorded or _engine_for(record, chosen)
    network = load_network(chosen.backbone, classes=len(splits.classes))
    classifier = fitting.classifier_of(network, chosen.decode)
    lap("network")
    if network.weights == LEARNT:
        learn_base(record, classifier, splits.train, workers=chosen.workers, seed=chosen.seed)
        lap("dictionary")
    base = open_base(classifier, choice, chosen.workers, chosen.cache_dir, record.libraries)
    samples = (*splits.train, *splits.val)
    computed = compute(samples, base, strict=chosen.strict, description="base")
    lap("features")
    seconds["decode and base"] = computed.seconds
    sets = fitting.labelled(computed, samples, len(splits.train), splits.classes)
    records, outcome = fitting.drain(
        train(
            classifier,
            STRATEGIES[chosen.strategy],
            *sets,
            classes=len(splits.classes),
            class_weight=chosen.class_weight,
            refit=chosen.refit,
            seed=chosen.seed,
            solver=record.solver,
        )
    )
    lap("head")
    held = computed.kept >= len(splits.train)
    validation = score(
        classifier,
        computed.rows[held],
        [samples[index] for index in computed.kept[held]],
        splits.classes,
        "val",
        used_for_selection=True,
        unreadable=tuple(u for u in computed.unreadable if u.name in {s.name for s in splits.val}),
    )
    lap("evaluate")
    seconds["total"] = time.perf_counter() - began
    return Fitted(
        classifier=classifier.eval(),
        classes=splits.classes,
        spec=classifier.spec,
        config=fitting.run_config(chosen, splits, network, outcome, choice, base),
        history=tuple(records),
        validation=validation,
        seen={sample.digest: split for split in SPLIT_NAMES for sample in splits[split]},
        unreadable=(*splits.unreadable, *computed.unreadable),
        cost=Cost(seconds, computed.decoded, len(computed.rows) - computed.decoded),
    )


@_takes(settings.EvaluateSettings)
def evaluate(model: Fitted, images: Any, **choices: Any) -> Evaluation:
    """Accuracy with its interval, and the other numbers, on labelled images that the model has not used.

    An artifact knows every image that it was fitted or selected with, by content. Those are named in the
    result's `seen` and left out, unless `include_seen`. In a source that Topgraft has divided, ``test``
    is what the fit put into test, and every image that it did not know.

    Args:
        model: from `fit` or `load`.
        images: `Splits`, a split's samples (``photos.test``), or whatever `open_images` takes.

    Raises:
        UsageError: there is no such split; or nothing is left to evaluate on.
        DataError: classes that the model does not have.
    """
    chosen = settings.make(settings.EvaluateSettings, choices)
    split: SplitName = chosen.split  # type: ignore[assignment]  # checked by make
    asked, unreadable = _asked(model, images, chosen, split)
    used = [s for s in asked if model.seen.get(s.digest) in ("train", "val")]
    kept = asked if chosen.include_seen else [s for s in asked if model.seen.get(s.digest) not in ("train", "val")]
    if not kept:
        raise UsageError(
            f"all {len(asked)} images of {split} were used in fitting or selection; "
            "give images that the model has not seen, or --include-seen to count them all the same"
        )
    base = _base_of(model, chosen)
    computed = compute(kept, base, strict=chosen.strict, description="evaluate")
    if not len(computed.kept):
        raise DataError(f"none of the {len(kept)} images can be read; the first: {computed.unreadable[0].reason}")
    return score(
        model.classifier,
        computed.rows,
        [kept[index] for index in computed.kept],
        model.classes,
        split,
        used_for_selection=bool(used) and chosen.include_seen,
        unreadable=(*unreadable, *computed.unreadable),
        seen=() if chosen.include_seen else tuple(s.name for s in used),
    )


@_takes(settings.PredictSettings)
def predict(model: Fitted, images: Any, **choices: Any) -> Predictions:
    """Answers for images without labels.

    Args:
        model: from `fit` or `load`.
        images: paths, folders or glob patterns; or uint8 arrays H×W×3 or H×W, one or a sequence.

    Returns:
        the answers in order, and the images that could not be read with the reason.
    """
    chosen = settings.make(settings.PredictSettings, choices)
    return answer(model, _unlabelled(images), _base_of(model, chosen), chosen.top_k)


@_takes(settings.FeaturesSettings)
def extract_features(images: Any, **choices: Any) -> Features:
    """The pooled features of every image, the network's base as a feature extractor.

    Args:
        images: `Splits`, or whatever `open_images` takes.
    """
    chosen = settings.make(settings.FeaturesSettings, choices)
    splits, _ = _opened(images, chosen)
    record = find_network(chosen.backbone)
    choice = _engine_for(record, chosen)
    network = load_network(chosen.backbone)
    classifier = fitting.classifier_of(network, chosen.decode)
    if network.weights == LEARNT:
        learn_base(record, classifier, splits.train, workers=chosen.workers, seed=0)
    samples = [sample for split in SPLIT_NAMES for sample in splits[split]]
    names = [split for split in SPLIT_NAMES for _ in splits[split]]
    base = open_base(classifier, choice, chosen.workers, chosen.cache_dir, record.libraries)
    computed = compute(samples, base, strict=chosen.strict, description="base")
    return Features(
        names=tuple(samples[index].name for index in computed.kept),
        features=computed.rows,
        labels=np.array([fitting.label_of(samples[index]) for index in computed.kept], dtype=np.int64),
        splits=tuple(names[index] for index in computed.kept),
        classes=splits.classes,
        backbone=chosen.backbone,
        unreadable=(*splits.unreadable, *computed.unreadable),
    )


def save(model: Fitted, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a fitted model as one folder, whole or not at all; see `topgraft.artifact`."""
    return artifact.save(model, Path(folder), overwrite=overwrite)


def load(folder: str | os.PathLike[str]) -> Fitted:
    """The fitted model of an artifact's folder; see `topgraft.artifact.load` for what is refused."""
    return artifact.load(Path(folder))


@_takes(settings.OpenSettings)
def survey(where: Any, **choices: Any) -> Survey:
    """What is in a source: classes and counts, sizes, unreadable files, duplicates, imbalance."""
    return look(open_images(where, **choices))


@_takes(settings.InspectSettings)
def inspect(what: Any, **choices: Any) -> Inspection:
    """The freeze table before training, and shape, type and range at each station of the line for one batch.

    Args:
        what: an artifact's folder, whose own source is shown then; or whatever `open_images` takes.
    """
    chosen = settings.make(settings.InspectSettings, choices)
    if isinstance(what, str | os.PathLike) and Path(what, "config.json").is_file():
        model = load(what)
        splits = open_images(model.config["data"]["where"], split_seed=model.config["data"]["split_seed"])
        classifier, backbone, strategy = (
            model.classifier,
            model.config["backbone"]["name"],
            model.config["strategy"],
        )
    else:
        splits, _ = _opened(what, chosen)
        network = load_network(chosen.backbone, classes=len(splits.classes))
        classifier = fitting.classifier_of(network, "scaled")
        if network.weights == LEARNT:
            learn_base(find_network(chosen.backbone), classifier, splits.train, workers=None, seed=0)
        backbone, strategy = chosen.backbone, chosen.strategy
    facts = Facts(len(splits.train), len(splits.val), len(splits.classes))
    phase = STRATEGIES[strategy](tuple(classifier.groups), facts, ())
    assert phase is not None  # a strategy has at least one phase; its contract test says so
    rows = table(tuple(classifier.groups), phase.rules)
    return inspection.inspect_line(classifier, splits.train, rows, backbone=backbone, strategy=strategy)


def list_backbones() -> tuple[dict[str, Any], ...]:
    """One row for each network: name, year, parameters, published top-1, licence, whether its weights are here."""
    rows = []
    for network in (*BASELINES.values(), *BACKBONES.values()):
        weights = find_weights(network.weights[0]) if network.weights else None
        side, classes = _published_shape(network)
        described = summarise(network.name, side, classes)
        rows.append(
            {
                "name": network.name,
                "year": network.year,
                "parameters": None if network.learn else described.parameters.total,
                "multiply_adds": None if network.learn else described.multiply_adds,
                "input_size": side,
                "features": network.feature_width,
                "top1": weights and weights.top1,
                "weights": weights.name if weights else LEARNT if network.learn else RANDOM,
                "licence": weights.licence if weights else "–",
                "here": weights is None or locate(weights.name) is not None,
                "paper": network.paper,
            }
        )
    return tuple(rows)


def summary(backbone: str, input_size: int | None = None, classes: int | None = None) -> Summary:
    """Layers, output shapes, parameters, multiply-adds of a network; its published size and top if not given."""
    side, published = _published_shape(find_network(backbone))
    return summarise(backbone, input_size or side, classes or published)


def devices(measure: bool = False, cache_dir: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The processor, engines and default choice; with `measure` also what they do in a second, kept for later."""
    folder = None if cache_dir is None else Path(cache_dir)
    if measure:
        cost.measure_machine(folder)
    return cost.describe_devices(folder)


def _opened(images: Any, chosen: settings.OpenSettings) -> tuple[Splits, dict[str, float]]:
    if isinstance(images, Splits):
        return images, {}
    began = time.perf_counter()
    names = [entry.name for entry in fields(settings.OpenSettings)]
    splits = open_images(images, **{name: getattr(chosen, name) for name in names})
    return splits, {"open": time.perf_counter() - began}


def _asked(
    model: Fitted, images: Any, chosen: settings.EvaluateSettings, split: SplitName
) -> tuple[list[Sample], tuple[Unreadable, ...]]:
    """The samples of the split that is asked for, labelled by the model's classes."""
    if isinstance(images, Sequence) and images and all(isinstance(image, Sample) for image in images):
        return list(images), ()
    if chosen.split_seed is None:
        chosen = replace(chosen, split_seed=model.config["data"]["split_seed"])
    splits, _ = _opened(images, chosen)
    if split in splits.made:
        samples = [s for name in SPLIT_NAMES for s in splits[name] if model.seen.get(s.digest, "test") == split]
    else:
        samples = list(splits[split])
    if not samples:
        there = ", ".join(name for name in SPLIT_NAMES if splits[name])
        raise UsageError(f"{splits.where} has no {split} images; its splits are {there}: choose one with --split")
    unknown = sorted(set(splits.classes) - set(model.classes))
    if unknown:
        raise DataError(
            f"the model does not know the classes {', '.join(unknown[:10])}; it knows {', '.join(model.classes[:20])}"
        )
    label = {index: model.classes.index(name) for index, name in enumerate(splits.classes)}
    return [replace(s, label=None if s.label is None else label[s.label]) for s in samples], splits.unreadable


def _base_of(model: Fitted, chosen: settings.EngineSettings) -> Base:
    record = find_network(model.config["backbone"]["name"])
    choice = _engine_for(record, chosen)
    return open_base(model.classifier, choice, chosen.workers, chosen.cache_dir, record.libraries)


def _engine_for(network: Backbone, chosen: settings.EngineSettings) -> engines.EngineChoice:
    return engines.choose(chosen.engine, chosen.precision, chosen.device, chosen.cache_dir, demand=network.demand)


def _published_shape(network: Backbone) -> tuple[int, int]:
    """Side of the images and number of classes of the published weights; ImageNet's where there are none."""
    if not network.weights:
        return network.untrained.input_size, 1000
    weights = find_weights(network.weights[0])
    return weights.spec.input_size, weights.classes


def _unlabelled(images: Any) -> list[Sample]:
    if isinstance(images, str | os.PathLike):
        images = [images]
    if isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3)):
        images = [images]
    given: Iterable[Any] = list(images)
    arrays = [image for image in given if isinstance(image, np.ndarray)]
    if arrays:
        wrong = [image for image in arrays if image.dtype != np.uint8 or image.ndim not in (2, 3)]
        if wrong or len(arrays) != len(list(given)):
            raise UsageError("arrays to predict must be uint8, H×W×3 or H×W, and not mixed with paths")
        return [Sample(f"image {number}", None, array=array) for number, array in enumerate(arrays)]
    return [Sample(path.as_posix(), None, path=path) for path in find_images(given)]
