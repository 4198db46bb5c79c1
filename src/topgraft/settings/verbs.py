"""The settings of each verb: one record, one field for each choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from topgraft.data.samples import SPLIT_NAMES
from topgraft.strategies.defaults import VIEWS
from topgraft.strategies.plan import Phase
from topgraft.strategies.plan_file import read_phases
from topgraft.system.quantities import image_side, loss_limit, time_limit

from .fields import choice

_WEIGHTS = (
    "weights to start from: a name, a file, or random; default, and imagenet: the network's best published ones, "
    "downloaded if need be"
)


_INPUT_SIZE_HELP = "side of the images in pixels, as 224 or 224x224; default: the weights' own"


@dataclass(frozen=True, kw_only=True)
class OpenSettings:
    """How images are found and divided."""

    split_seed: int = choice(0, "seed of the splits that Topgraft makes; independent of --seed", low=0)
    limit: int | None = choice(None, "use a stratified subset of at most N images", low=1)
    data_dir: Path | None = choice(None, "folder that holds a data set's archive (cifar10, cifar100)")
    strict: bool = choice(False, "stop at the first list of unreadable images instead of leaving them out")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What computes the frozen base, and where it keeps what it computed."""

    engine: str = choice(
        "auto",
        "what runs the frozen base: auto is OpenVINO where installed, else PyTorch; "
        "fastest is the best of `topgraft devices --measure`",
        ("auto", "openvino", "torch", "fastest"),
    )
    precision: str = choice(
        "auto",
        "arithmetic of the network: auto is bf16 where the processor has it and is faster in it",
        ("auto", "bf16", "fp32"),
    )
    device: str = choice("auto", "auto is CUDA where there is one, else the processor", ("auto", "cpu", "cuda"))
    workers: int | None = choice(None, "threads that decode images; default: one per usable core", low=0)
    cache_dir: Path | None = choice(
        None, "folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's cache"
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(EngineSettings):
    """Which network, with which weights."""

    backbone: str = choice(
        "efficientnet_lite0", "the published network to build on; see `topgraft backbones`; or timm:NAME"
    )
    weights: str | None = choice(None, _WEIGHTS)
    input_size: int | None = choice(None, _INPUT_SIZE_HELP, low=32, read=image_side)


_STRATEGIES = ("auto", "head", "partial", "full", "rules")


_STRATEGY_HELP = (
    "what trains: head keeps the base and solves the classifier; partial also trains the layers near it; full trains "
    "the whole network; auto starts as head and goes on while it helps and the time lasts; rules are your own"
)


_BATCHNORM = ("auto", "keep", "update")


_BATCHNORM_HELP = (
    "statistics of BatchNorm where its group trains: keep the published ones, or update them from the batches; "
    "auto updates those of random weights only"
)


_EPOCHS_HELP = "passes over the training images, where the base trains; default: by their number"


_OPTIMIZERS, _OPTIMIZER_HELP = ("adam", "adamw", "sgd"), "what steps, where the base trains"


_LR_HELP = "learning rate; default: 3e-4 (sgd 0.01) for published weights, 1e-3 (sgd 0.1) for random ones"


_FROM_HELP = "partial: the first group that trains; default: where the layers' own features stop helping"


@dataclass(frozen=True, kw_only=True)
class FitSettings(OpenSettings, NetworkSettings):
    """The choices of ``fit``."""

    strategy: str = choice("auto", _STRATEGY_HELP, _STRATEGIES)
    from_: str | None = choice(None, _FROM_HELP)
    rules: tuple[Phase, ...] | None = choice(
        None, "your own phases: a TOML file, or a list of phases in Python; see the README", read=read_phases
    )
    budget: str | None = choice(None, "auto: wall time for everything, as 90s, 5m or 1h; default: 5m", read=time_limit)
    epochs: int | None = choice(None, _EPOCHS_HELP, low=1)
    batch_size: int = choice(32, "images of one step, where the base trains", low=1)
    optimizer: str = choice("adam", _OPTIMIZER_HELP, _OPTIMIZERS)
    schedule: str = choice(
        "auto",
        "how rates change within a phase: cosine rises and falls; auto is constant for random weights, else cosine",
        ("auto", "cosine", "constant"),
    )
    find_lr: bool = choice(False, "measure which learning rate the network bears, in a short test, and take that")
    batchnorm: str = choice("auto", _BATCHNORM_HELP, _BATCHNORM)
    augment: str = choice(
        "auto",
        "what is drawn at random for a training image: crop, standard (crop and mirror), strong (and colours); "
        "auto is crop, and none for random weights",
        ("auto", "none", "crop", "standard", "strong"),
    )
    views: int | None = choice(None, f"augmented views of each image that a cache keeps; default: {VIEWS}", low=1)
    boundary_cache: str = choice(
        "auto",
        "whether what the frozen groups make of the images is kept on disk while the others train; "
        "auto does what is faster",
        ("auto", "on", "off"),
    )
    cache_quota: float = choice(8.0, "gigabytes of disk that it may take", low=0)
    label_smoothing: float = choice(0.0, "share of each label that is spread over all classes", share=True)
    mixup: float = choice(0.0, "mix images in pairs: α of Beta(α, α); 0 is off", share=True)
    ema: float = choice(0.0, "keep a running mean of the weights with this decay, as 0.99; 0 is off", share=True)
    l2_sp: float = choice(0.0, "pull the base towards its published weights: α of α/2·‖w - w₀‖²", share=True)
    patience: int | None = choice(
        None, "end a phase where so many epochs in a row are no better than the best; default: 5", low=1
    )
    forget_at_most: float | None = choice(
        None,
        "points of the original task's accuracy (see --source), or of agreement, that may be lost",
        read=loss_limit,
    )
    source: str | None = choice(None, "labelled images of the original task, to measure what is forgotten")
    lr: float | None = choice(None, _LR_HELP, low=0)
    l2: str = choice(
        "published", "the penalty on weights that the network's authors add to the loss", ("published", "none")
    )
    stalled: str = choice(
        "ask",
        "where the loss stays at chance and a lower learning rate does better: ask on a terminal and else stop, "
        "stop, go on with the lower one, or ignore it",
        ("ask", "stop", "lower", "ignore"),
    )
    class_weight: str = choice(
        "none", "balanced weighs each class by the inverse of its share of the images", ("none", "balanced")
    )
    refit: bool = choice(False, "after selection, solve the head again on train and validation together")
    decode: str = choice(
        "scaled", "scaled lets the JPEG decoder shrink large photos while it decodes", ("scaled", "full")
    )
    seed: int = choice(0, "seed of everything random in the fit", low=0)
    config: Path | None = choice(
        None, "a run's config.json: its settings and recorded choices, under those that are given"
    )
    resume: bool = choice(
        False, "go on with the fit that was stopped or killed, from its last checkpoint; the settings must be the same"
    )
    checkpoint: Path | None = choice(
        None, "folder, or .safetensors file, that keeps the state of the unfinished fit; default: none", flag=False
    )
    checkpoint_minutes: float = choice(
        3.0, "minutes after which the state of an unfinished fit is written, beside after each epoch", low=0
    )


WITHOUT_EFFECT = frozenset({"resume", "checkpoint", "checkpoint_minutes", "config", "workers", "cache_dir"})
"""Choices of ``fit`` that cannot change what it ends in; a fit that is resumed may have others.

``config`` is among them because what it says stands in the other choices by then.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(OpenSettings, EngineSettings):
    """The choices of ``evaluate``. `split_seed` None means the artifact's own."""

    split_seed: int | None = choice(None, "default: the seed that the artifact was fitted with", low=0)  # type: ignore[assignment]
    split: str = choice("test", "which split; images that the artifact has never seen count as test", SPLIT_NAMES)
    include_seen: bool = choice(False, "also count images that fitting or selection has used")


@dataclass(frozen=True, kw_only=True)
class ForgettingSettings(OpenSettings, EngineSettings):
    """The choices of ``forgetting``."""

    weights: str | None = choice(
        None, "file of the weights that the model was fitted from, where they have moved; its content must be the same"
    )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(EngineSettings):
    """The choices of ``predict``."""

    top_k: int = choice(5, "answers for each image, best first", low=1)


@dataclass(frozen=True, kw_only=True)
class FeaturesSettings(OpenSettings, NetworkSettings):
    """The choices of ``extract_features``."""

    decode: str = choice(
        "scaled", "scaled lets the JPEG decoder shrink large photos while it decodes", ("scaled", "full")
    )


@dataclass(frozen=True, kw_only=True)
class InspectSettings(OpenSettings, NetworkSettings):
    """The choices of ``inspect``; for an artifact its own stand, but for the engine's."""

    strategy: str = choice("auto", "the strategy whose tables are shown", _STRATEGIES)
    from_: str | None = choice(None, _FROM_HELP)
    rules: tuple[Phase, ...] | None = choice(
        None, "your own phases: a TOML file, or a list of phases", read=read_phases
    )
    epochs: int | None = choice(None, _EPOCHS_HELP, low=1)
    optimizer: str = choice("adam", _OPTIMIZER_HELP, _OPTIMIZERS)
    lr: float | None = choice(None, _LR_HELP, low=0)
    batchnorm: str = choice("auto", _BATCHNORM_HELP, _BATCHNORM)
    placement: bool = choice(False, "also show the device, number type and engine of each group")


OF_A_FIT = frozenset(
    {"backbone", "weights", "input_size", "strategy", "from_", "rules", "epochs", "optimizer", "lr", "batchnorm"}
)
"""Choices of ``inspect`` that are those of ``fit``, and that an artifact has made."""
