"""The public functions. They compose the packages below and decide nothing.

Training code is imported inside the functions that train, so that `load` and `predict` do without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topgraft.artifacts import load as load_module
from topgraft.artifacts import save as artifact
from topgraft.data.notes import print_notes
from topgraft.data.samples import SPLIT_NAMES, Sample, Splits, Unreadable, labels_of, unread
from topgraft.data.sources import open_source
from topgraft.data.sources.base import Source
from topgraft.data.split_checks import refuse_unreadable
from topgraft.data.splits import divide, divide_if_possible, without
from topgraft.data.survey import Survey
from topgraft.data.survey import survey as look
from topgraft.evaluation import chance
from topgraft.evaluation.evaluate import evaluate as score
from topgraft.evaluation.forgetting import Forgetting, settled
from topgraft.evaluation.forgetting import measure as compare
from topgraft.evaluation.predict import predict as answer
from topgraft.evaluation.predict import unlabeled
from topgraft.evaluation.pretrained_reference import reference_of, source_samples
from topgraft.evaluation.results import Cost, Evaluation, FittedClassifier, Predictions
from topgraft.evaluation.unseen import leave_out_seen, select_unseen
from topgraft.features import benchmark
from topgraft.features.engines.base import EngineChoice
from topgraft.features.engines.choose import choose_for
from topgraft.features.export import Features
from topgraft.features.extract import compute
from topgraft.features.frozen_base import Base, open_base
from topgraft.models.build import build_classifier
from topgraft.models.catalog import list_backbones as list_backbones
from topgraft.models.catalog import summary as summary
from topgraft.models.plain_network import create_network as create_network  # a verb that needs nothing composed
from topgraft.models.registry import find_network
from topgraft.models.spec import Backbone
from topgraft.models.weights.digest import fingerprint
from topgraft.models.weights.names import RANDOM
from topgraft.settings import conflicts, verbs
from topgraft.settings.fields import changed, flag_of, from_arguments, make
from topgraft.settings.quiet import with_quiet
from topgraft.strategies.history import History
from topgraft.strategies.plan import Phase, table
from topgraft.system import progress, timing
from topgraft.system.files import StrPath
from topgraft.system.timing import stopwatch

from .errors import DataError, UsageError

if TYPE_CHECKING:
    from topgraft.training.inspection import Inspection


@with_quiet
def open_images(
    where: Any,
    *,  # options of OpenSettings
    # data
    split_seed: int = 0,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> Splits:
    """Find labeled images and divide them into train, validation and test.

    Args:
        where: a folder of class folders; a CSV file; ``digits``, ``cifar10``, ``cifar100`` or
            ``cifar100_coarse``; or arrays: ``(images, labels)``, or a mapping of split names to such pairs.
        split_seed: seed of the splits that Topgraft makes; independent of the fit's seed; default: 0.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        quiet: show no progress and no notes.

    Raises:
        DataError: nothing that can be learned from; the message says what to do.
        UsageError: an unknown or impossible choice.
    """
    chosen = from_arguments(verbs.OpenSettings, locals())
    return divide(_source(where, chosen), split_seed=chosen.split_seed, limit=chosen.limit)


@with_quiet
def fit(
    images: Any,
    *,  # options of FitSettings
    # what trains
    backbone: str = "efficientnet_lite0",
    weights: StrPath | None = None,
    input_size: int | str | Sequence[int] | None = None,
    strategy: Literal["auto", "head", "partial", "full", "rules"] = "auto",
    unfreeze_from: str | None = None,
    rules: StrPath | Sequence[Phase | Mapping[str, Any]] | None = None,
    # optimization
    epochs: int | None = None,
    lr: float | None = None,
    optimizer: Literal["adam", "adamw", "sgd"] = "adam",
    batchnorm: Literal["auto", "keep", "update"] = "auto",
    find_lr: bool = False,
    batch_size: int = 32,
    schedule: Literal["auto", "cosine", "constant"] = "auto",
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    ema: float = 0.0,
    l2: Literal["published", "none"] = "published",
    l2_sp: float = 0.0,
    patience: int | None = None,
    class_weight: Literal["none", "balanced"] = "none",
    refit: bool = False,
    seed: int = 0,
    # data
    split_seed: int = 0,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    augment: Literal["auto", "none", "crop", "standard", "strong"] = "auto",
    decode: Literal["scaled", "full"] = "scaled",
    # speed and cache
    engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cache_dir: StrPath | None = None,
    views: int | None = None,
    boundary_cache: Literal["auto", "on", "off"] = "auto",
    cache_quota: float = 8.0,
    # safety and resume
    budget: str | None = None,
    forget_at_most: float | str | None = None,
    source: StrPath | None = None,
    stalled: Literal["ask", "stop", "lower", "ignore"] = "ask",
    config: StrPath | None = None,
    resume: bool = False,
    checkpoint: StrPath | None = None,
    checkpoint_minutes: float = 3.0,
    quiet: bool = False,
) -> FittedClassifier:
    """Turn a pretrained network into a classifier of your images.

    Progress, notes and at the end a short result, the one of the command line, are printed on standard error;
    ``quiet=True`` prints none of them.

    Args:
        images: `Splits` from `open_images`, or whatever `open_images` takes.
        backbone: published network to build on; `topgraft backbones` lists them; or timm:NAME; default:
            efficientnet_lite0.
        weights: weights to start from: a name, a file, or random; default, and imagenet: the network's best published
            ones, downloaded if needed.
        input_size: side of the images in pixels, as 224 or 224x224; default: the weights' own.
        strategy: what trains: head keeps the base and solves the classifier; partial also trains the layers near it;
            full trains the whole network; auto starts as head and unfreezes more while it helps and the time lasts;
            rules are your own; default: auto.
        unfreeze_from: partial: the first group that trains; default: where the layers' own features stop helping.
        rules: your own phases: a TOML file, or a list of phases in Python; default: those of the strategy.
        epochs: passes over the training images, where the base trains; default: by their number.
        lr: learning rate; default: 3e-4 (sgd 0.01) for published weights, 1e-3 (sgd 0.1) for random ones.
        optimizer: optimizer, where the base trains; default: adam.
        batchnorm: statistics of BatchNorm where its group trains: keep the published ones, or update them from the
            batches; auto updates those of random weights only; default: auto.
        find_lr: run a learning-rate range test and use the suggested rate; default: False.
        batch_size: images of one step, where the base trains; default: 32.
        schedule: how rates change within a phase: cosine rises and falls; auto is constant for random weights, else
            cosine; default: auto.
        label_smoothing: share of each label that is spread over all classes; default: 0.0.
        mixup: mix images in pairs: α of Beta(α, α); 0 is off; default: 0.0.
        ema: decay of a running mean of the weights, as 0.99; 0 is off; default: 0.0.
        l2: penalty on weights that the network's authors add to the loss; default: published.
        l2_sp: pull the base towards its published weights: α of α/2·‖w - w₀‖²; 0 is off; default: 0.0.
        patience: early stopping: end a phase after so many epochs in a row without a new best; default: 5.
        class_weight: balanced weighs each class by the inverse of its share of the images; default: none.
        refit: after selection, solve the head again on train and validation together; default: False.
        seed: seed of everything random in the fit; default: 0.
        split_seed: seed of the splits that Topgraft makes; independent of the fit's seed; default: 0.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        augment: random changes to training images: crop, standard (crop and mirror), strong (and colors); auto is crop,
            and none for random weights; default: auto.
        decode: how JPEG files are decoded: scaled lets the decoder shrink large photos, full does not; default: scaled.
        engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
            `topgraft devices --measure`; default: auto.
        precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
            default: auto.
        device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
        workers: threads that decode images; default: one per usable core.
        cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's
            cache.
        views: augmented copies of each image to cache; default: 3.
        boundary_cache: whether the output of the frozen groups is kept on disk while the others train; auto does what
            is faster; default: auto.
        cache_quota: gigabytes of disk that the boundary cache may use; default: 8.0.
        budget: auto: wall time for everything, as 90s, 5m or 1h; default: 5m.
        forget_at_most: percentage points of the original task's accuracy, or of agreement with the original network,
            that may be lost; default: no limit.
        source: labeled images of the original task, to measure what is forgotten; default: none.
        stalled: what to do where the loss stays at chance and a lower learning rate does better: ask on a terminal and
            else stop; stop; lower continues with the lower rate; ignore; default: ask.
        config: config.json of a run: its settings and recorded choices are used for all options not given; default:
            none.
        resume: continue an unfinished fit from its last checkpoint; the settings must be the same; default: False.
        checkpoint: folder, or .safetensors file, for the state of the unfinished fit; default: none.
        checkpoint_minutes: minutes between checkpoints of an unfinished fit, besides those after each epoch; default:
            3.0.
        quiet: show no progress and no notes.

    Raises:
        DataError: images that cannot be learned from.
        UsageError: an unknown or impossible choice.
        WeightsError: the network's weights are damaged or do not fit.
        DownloadError: they are not here, and cannot be downloaded.
    """
    model = run_fit(images, **changed(verbs.FitSettings, locals()))
    from topgraft.training import summary

    print_notes(model.config["notes"], model.unreadable)
    for line in summary.lines(model, model.cost.seconds):
        progress.note(line)
    return model


def run_fit(images: Any, **choices: Any) -> FittedClassifier:
    """Fit as `fit` does, but print no result: for a caller that shows it in its own way."""
    from topgraft.training import forgetting_limit, replay, run_config
    from topgraft.training.fit import train_network

    began = timing.began()
    chosen, resolved = replay.fit_settings(choices)
    splits, seconds = _opened(images, chosen)
    lap = stopwatch(seconds)
    network, classifier = build_classifier(
        chosen, chosen.decode, len(splits.classes), splits.train, chosen.seed, lap, resolved.weights
    )
    source = None if chosen.source is None else _whole(chosen.source, replace(chosen, limit=None))
    past = forgetting_limit.open_past(chosen, classifier, network, splits, source)
    later = forgetting_limit.later(past, splits, chosen)
    resolved = replace(resolved, weights=network.sha256)
    trained = train_network(classifier, splits, chosen, resolved, seconds, began, later)
    lap = stopwatch(seconds)
    trained, lost, trade = forgetting_limit.check_forgetting(chosen, classifier, network, past, splits, trained)
    if not trained.untouched:
        lap("forgetting")
    held = {sample.name for sample in splits.val}
    used = without(splits, trained.unreadable)
    validation = (
        None
        if not splits.val
        else score(
            classifier,
            trained.rows,
            trained.samples,
            splits.classes,
            "val",
            used_for_selection=True,
            unreadable=tuple(entry for entry in trained.unreadable if entry.name in held),
            where=splits.where,
            before_refit=trained.outcome.before_refit,
        )
    )
    lap("evaluate")
    extra = {
        **trained.extra,
        **forgetting_limit.as_config(lost, trade),
        **chance.as_config(trained.out_of_fold, validation),
    }
    extra["classifier_sha256"] = fingerprint(classifier.groups)
    seconds["total"] = time.perf_counter() - began
    return FittedClassifier(
        classifier=classifier.eval(),
        classes=splits.classes,
        spec=classifier.spec,
        config=run_config.run_config(chosen, used, network, trained.outcome, trained.resolved, extra),
        history=History(trained.records),
        validation=validation,
        seen={sample.digest: split for split in SPLIT_NAMES for sample in used[split]},
        unreadable=(*splits.unreadable, *trained.unreadable),
        cost=Cost(seconds, trained.decoded, trained.cached, trained.copies),
    )


@with_quiet
def evaluate(
    model: FittedClassifier,
    images: Any,
    *,  # options of EvaluateSettings
    # data
    split_seed: int | None = None,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    split: Literal["train", "val", "test"] = "test",
    include_seen: bool = False,
    # speed and cache
    engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cache_dir: StrPath | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Accuracy with its interval, and the other numbers, on labeled images that the model has not used.

    An artifact knows every image that it was fitted or selected with, by content. Those are named in the
    result's `seen` and left out, unless `include_seen`. In a source without splits of its own, ``test``
    is what the fit put into test and every image that it did not know; `notes` says what else is there.

    Args:
        model: from `fit` or `load`.
        images: `Splits`, or whatever `open_images` takes, which need not be enough to be divided; or samples
            (``photos.test``) whose labels count into the model's classes.
        split_seed: seed of the splits that Topgraft makes; default: the seed that the artifact was fitted with.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        split: split to use; images that the artifact has never seen count as test; default: test.
        include_seen: also count images that fitting or selection has used; default: False.
        engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
            `topgraft devices --measure`; default: auto.
        precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
            default: auto.
        device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
        workers: threads that decode images; default: one per usable core.
        cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's
            cache.
        quiet: show no progress and no notes.

    Raises:
        UsageError: there is no such split; or nothing is left to evaluate on.
        DataError: classes that the model does not have.
    """
    chosen = from_arguments(verbs.EvaluateSettings, locals())
    unreadable: tuple[Unreadable, ...]
    if isinstance(images, Sequence) and images and all(isinstance(image, Sample) for image in images):
        unreadable, where = (), ""
        asked = leave_out_seen(model, images, split, include_seen=chosen.include_seen)
    else:
        if chosen.split_seed is None:
            chosen = replace(chosen, split_seed=model.config["data"]["split_seed"])
        splits = _whole(images, chosen)
        unreadable, where = splits.unreadable, splits.where
        asked = select_unseen(model, splits, split, include_seen=chosen.include_seen)
    computed = compute(asked.samples, _base_of(model, chosen), strict=chosen.strict, description="evaluate")
    if not len(computed.kept):
        raise DataError(f"none of the images to evaluate on can be read.\n{unread(computed.unreadable, 20)}")
    return score(
        model.classifier,
        computed.rows,
        [asked.samples[index] for index in computed.kept],
        model.classes,
        split,
        used_for_selection=asked.used,
        unreadable=(*unreadable, *computed.unreadable),
        seen=asked.seen,
        notes=asked.notes,
        where=where,
    )


@with_quiet
def forgetting(
    model: Any,
    images: Any = None,
    source: Any = None,
    *,  # options of ForgettingSettings
    # what trains
    weights: StrPath | None = None,
    # data
    split_seed: int = 0,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    # speed and cache
    engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cache_dir: StrPath | None = None,
    quiet: bool = False,
) -> Forgetting:
    """How much of its original task a fitted model's base still does, under the published network's own classifier.

    With a source of labeled images of that task: accuracy before and after. Without one: agreement with the original
    network's answers, and similarity of features, on your own images. A base that is as published has lost exactly 0,
    and no image is opened.

    Args:
        model: from `fit` or `load`; or the folder of an artifact.
        images: `Splits`, or whatever `open_images` takes; those that the model was trained on are left out. If None,
            and no source is given, the images that it was validated on.
        source: the same, of the original task. Its classes are the numbers of the original's outputs, or exactly as
            many as it has, in the order of their names.
        weights: file of the weights that the model was fitted from, if it has moved; its content must be the same;
            default: where it was.
        split_seed: seed of the splits that Topgraft makes; independent of the fit's seed; default: 0.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
            `topgraft devices --measure`; default: auto.
        precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
            default: auto.
        device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
        workers: threads that decode images; default: one per usable core.
        cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's
            cache.
        quiet: show no progress and no notes.

    Raises:
        UsageError: classes of the source that cannot be matched with the original's outputs.
        DataError: images that are not there, or that cannot be read.
        WeightsError: the weights that the model was fitted from are gone, or have changed.
    """
    chosen = from_arguments(verbs.ForgettingSettings, locals())
    model = load(model) if isinstance(model, str | os.PathLike) else model
    before = reference_of(model, chosen.weights, chosen.cache_dir)
    found = settled(model.classifier, before)
    if found is not None:
        return found
    own: list[Sample] = []
    labeled: tuple[Sample, ...] = ()
    opened: list[Splits] = []
    if source is not None:
        opened.append(_whole(source, chosen))
        everything = [s for part in opened[0].parts.values() for s in part]
        labeled = source_samples(everything, opened[0].classes, before)
    if images is not None:
        opened.append(_whole(images, chosen))
        own = [s for part in opened[-1].parts.values() for s in part if model.seen.get(s.digest) != "train"]
    elif source is None:
        own = [s for s in _of_artifact(model).val if model.seen.get(s.digest) == "val"]
    record = find_network(before.backbone)
    found = compare(
        model.classifier,
        before,
        _engine(record, chosen),
        own=own,
        source=labeled,
        where=opened[0].where if labeled else "",
        workers=chosen.workers,
        folder=chosen.cache_dir,
        libraries=record.libraries,
        strict=chosen.strict,
    )
    left_out = [entry for splits in opened for entry in splits.unreadable]
    return replace(found, unreadable=(*left_out, *found.unreadable))


@with_quiet
def predict(
    model: FittedClassifier,
    images: Any,
    *,  # options of PredictSettings
    # speed and cache
    engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cache_dir: StrPath | None = None,
    # output
    top_k: int = 5,
    quiet: bool = False,
) -> Predictions:
    """Answers for images without labels.

    Args:
        model: from `fit` or `load`.
        images: paths, folders or glob patterns; or uint8 arrays H×W×3 or H×W, one or a sequence.
        engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
            `topgraft devices --measure`; default: auto.
        precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
            default: auto.
        device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
        workers: threads that decode images; default: one per usable core.
        cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's
            cache.
        top_k: classes listed for each image, best first; default: 5.
        quiet: show no progress and no notes.

    Returns:
        the answers in order, and the images that could not be read with the reason.
    """
    chosen = from_arguments(verbs.PredictSettings, locals())
    return answer(model, unlabeled(images), _base_of(model, chosen), chosen.top_k)


@with_quiet
def extract_features(
    images: Any,
    *,  # options of FeaturesSettings
    # what trains
    backbone: str = "efficientnet_lite0",
    weights: StrPath | None = None,
    input_size: int | str | Sequence[int] | None = None,
    # data
    split_seed: int = 0,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    decode: Literal["scaled", "full"] = "scaled",
    # speed and cache
    engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cache_dir: StrPath | None = None,
    quiet: bool = False,
) -> Features:
    """The pooled features of every image, the network's base as a feature extractor.

    Args:
        images: `Splits`, or whatever `open_images` takes.
        backbone: published network to build on; `topgraft backbones` lists them; or timm:NAME; default:
            efficientnet_lite0.
        weights: weights to start from: a name, a file, or random; default, and imagenet: the network's best published
            ones, downloaded if needed.
        input_size: side of the images in pixels, as 224 or 224x224; default: the weights' own.
        split_seed: seed of the splits that Topgraft makes; independent of the fit's seed; default: 0.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        decode: how JPEG files are decoded: scaled lets the decoder shrink large photos, full does not; default: scaled.
        engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
            `topgraft devices --measure`; default: auto.
        precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
            default: auto.
        device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
        workers: threads that decode images; default: one per usable core.
        cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's
            cache.
        quiet: show no progress and no notes.
    """
    chosen = from_arguments(verbs.FeaturesSettings, locals())
    record = find_network(chosen.backbone)
    choice = _engine(record, chosen)
    splits = _whole(images, chosen)
    samples = [sample for part in splits.parts.values() for sample in part]
    if not samples:
        raise DataError(str(splits.problem))
    names = [name for name, part in splits.parts.items() for _ in part]
    # With a head of its own, as a published top need not stand on one vector.
    _, classifier = build_classifier(chosen, chosen.decode, 1, splits.train or samples)
    base = open_base(classifier, choice, chosen.workers, chosen.cache_dir, record.libraries)
    computed = compute(samples, base, strict=chosen.strict, description="base")
    return Features(
        names=tuple(samples[index].name for index in computed.kept),
        features=computed.rows,
        labels=labels_of(samples)[computed.kept],
        splits=tuple(names[index] for index in computed.kept),
        classes=splits.classes,
        backbone=chosen.backbone,
        unreadable=(*splits.unreadable, *computed.unreadable),
        notes=splits.notes,
    )


def save(model: FittedClassifier, folder: StrPath, *, overwrite: bool = False, keep_checkpoint: bool = False) -> Path:
    """Write a fitted model as one folder, whole or not at all; see `topgraft.artifacts.save.save`."""
    return artifact.save(model, Path(folder), overwrite=overwrite, keep_checkpoint=keep_checkpoint)


def load(folder: StrPath) -> FittedClassifier:
    """The fitted model of an artifact's folder; see `topgraft.artifacts.load.load` for what is refused."""
    return load_module.load(Path(folder))


@with_quiet
def survey(
    where: Any,
    *,  # options of OpenSettings
    # data
    split_seed: int = 0,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> Survey:
    """What is in a source: classes and counts, sizes, unreadable files, duplicates, imbalance.

    A source that cannot be divided is shown as well; `Survey.problem` says why `fit` would refuse it.

    Args:
        where: `Splits`, or whatever `open_images` takes.
        split_seed: seed of the splits that Topgraft makes; independent of the fit's seed; default: 0.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        quiet: show no progress and no notes.
    """
    chosen = from_arguments(verbs.OpenSettings, locals())
    found = look(_whole(where, chosen))
    if chosen.strict:
        refuse_unreadable(found.unreadable)
    return found


@with_quiet
def inspect(
    what: Any,
    *,  # options of InspectSettings
    # what trains
    backbone: str = "efficientnet_lite0",
    weights: StrPath | None = None,
    input_size: int | str | Sequence[int] | None = None,
    strategy: Literal["auto", "head", "partial", "full", "rules"] = "auto",
    unfreeze_from: str | None = None,
    rules: StrPath | Sequence[Phase | Mapping[str, Any]] | None = None,
    # optimization
    epochs: int | None = None,
    lr: float | None = None,
    optimizer: Literal["adam", "adamw", "sgd"] = "adam",
    batchnorm: Literal["auto", "keep", "update"] = "auto",
    # data
    split_seed: int = 0,
    limit: int | None = None,
    data_dir: StrPath | None = None,
    strict: bool = False,
    # speed and cache
    engine: Literal["auto", "openvino", "torch", "fastest"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cache_dir: StrPath | None = None,
    # output
    placement: bool = False,
    quiet: bool = False,
) -> Inspection:
    """The freeze table before training, and shape, type and range at each station of the line for one batch.

    Args:
        what: an artifact's folder, whose own source is shown then; or whatever `open_images` takes.
        backbone: published network to build on; `topgraft backbones` lists them; or timm:NAME; default:
            efficientnet_lite0.
        weights: weights to start from: a name, a file, or random; default, and imagenet: the network's best published
            ones, downloaded if needed.
        input_size: side of the images in pixels, as 224 or 224x224; default: the weights' own.
        strategy: what trains: head keeps the base and solves the classifier; partial also trains the layers near it;
            full trains the whole network; auto starts as head and unfreezes more while it helps and the time lasts;
            rules are your own; default: auto.
        unfreeze_from: partial: the first group that trains; default: where the layers' own features stop helping.
        rules: your own phases: a TOML file, or a list of phases in Python; default: those of the strategy.
        epochs: passes over the training images, where the base trains; default: by their number.
        lr: learning rate; default: 3e-4 (sgd 0.01) for published weights, 1e-3 (sgd 0.1) for random ones.
        optimizer: optimizer, where the base trains; default: adam.
        batchnorm: statistics of BatchNorm where its group trains: keep the published ones, or update them from the
            batches; auto updates those of random weights only; default: auto.
        split_seed: seed of the splits that Topgraft makes; independent of the fit's seed; default: 0.
        limit: use a stratified subset of at most N images; default: all.
        data_dir: folder that holds a data set's archive (cifar10, cifar100); default: the usual places.
        strict: stop at unreadable images instead of leaving them out; default: False.
        engine: what runs the frozen base: auto is OpenVINO where installed, else PyTorch; fastest is the best of
            `topgraft devices --measure`; default: auto.
        precision: arithmetic of the network: auto is bf16 where the processor supports it and is faster with it;
            default: auto.
        device: where the network runs: auto is CUDA if available, else the CPU; default: auto.
        workers: threads that decode images; default: one per usable core.
        cache_dir: folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's
            cache.
        placement: also show the device, number type and engine of each group; default: False.
        quiet: show no progress and no notes.
    """
    given = changed(verbs.InspectSettings, locals())
    from topgraft.training import inspection, replay
    from topgraft.training.fit import strategy_and_facts

    chosen = make(verbs.InspectSettings, given)
    if isinstance(what, str | os.PathLike) and Path(what, "config.json").is_file():
        wrong = verbs.OF_A_FIT & set(given)
        if wrong:
            own = " and ".join(sorted(map(flag_of, wrong)))
            raise UsageError(f"{what} is an artifact, which has its own {own}; leave it out")
        model = load(what)
        splits = _of_artifact(model)
        classifier, config = model.classifier, model.config
        name, shown, network_weights = config["backbone"]["name"], config["strategy"], config["backbone"]["weights"]
        fitted, asked = replay.recorded_phases(config), config["settings"].get("batchnorm", "auto")
    else:
        conflicts.require_effect(given, chosen)
        splits, _ = _opened(what, chosen)
        network, classifier = build_classifier(chosen, "scaled", len(splits.classes), splits.train)
        name, shown, network_weights = chosen.backbone, chosen.strategy, network.weights
        fitted, asked = (), chosen.batchnorm
    groups = tuple(classifier.groups)
    phases = list(fitted) or inspection.planned_phases(*strategy_and_facts(chosen, splits), groups)
    rows = table(groups, phases[-1].rules)
    updates = conflicts.updates_batchnorm(asked, network_weights != RANDOM)
    found = inspection.inspect_line(
        classifier, splits.train, rows, backbone=name, strategy=shown, updates_batchnorm=updates
    )
    found = replace(found, phases=inspection.planned(phases, groups))
    if not chosen.placement:
        return found
    resolved = replay.resolve(chosen, find_network(name))
    return replace(found, placement=inspection.place(rows, phases[-1], resolved.engine, resolved.training))


def devices(measure: bool = False, cache_dir: StrPath | None = None) -> dict[str, Any]:
    """The processor, engines and default choice; with `measure` also what they do in a second, kept for later."""
    folder = None if cache_dir is None else Path(cache_dir)
    if measure:
        benchmark.measure_machine(folder)
    return benchmark.describe_devices(folder)


def _of_artifact(model: FittedClassifier) -> Splits:
    """The images that a model was fitted to, found as then."""
    where = model.config["data"]["where"]
    if where == "arrays":
        raise UsageError("the model was fitted to arrays, which an artifact does not hold; give those instead")
    kept = {name: model.config["settings"][name] for name in ("split_seed", "limit", "data_dir")}
    return open_images(where, **kept)


def _source(where: Any, chosen: verbs.OpenSettings) -> Source:
    source = open_source(where, data_dir=chosen.data_dir)
    if chosen.strict:
        refuse_unreadable(source.unreadable)
    return source


def _whole(images: Any, chosen: verbs.OpenSettings) -> Splits:
    """All images, also of a source that cannot be divided."""
    if isinstance(images, Splits):
        return images
    return divide_if_possible(_source(images, chosen), split_seed=chosen.split_seed, limit=chosen.limit)


def _opened(images: Any, chosen: verbs.OpenSettings) -> tuple[Splits, dict[str, float]]:
    if isinstance(images, Splits):
        return images, {}
    began = time.perf_counter()
    splits = open_images(images, **{entry.name: getattr(chosen, entry.name) for entry in fields(verbs.OpenSettings)})
    return splits, {"open": time.perf_counter() - began}


def _engine(network: Backbone, chosen: verbs.EngineSettings) -> EngineChoice:
    return choose_for(network, chosen.engine, chosen.precision, chosen.device, chosen.cache_dir)


def _base_of(model: FittedClassifier, chosen: verbs.EngineSettings) -> Base:
    record = find_network(model.config["backbone"]["name"])
    choice = _engine(record, chosen)
    return open_base(model.classifier, choice, chosen.workers, chosen.cache_dir, record.libraries)
