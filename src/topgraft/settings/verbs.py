"""The options of each verb: one record, one field for each option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from topgraft.data.samples import SPLIT_NAMES
from topgraft.strategies.defaults import VIEWS
from topgraft.strategies.plan import Phase
from topgraft.strategies.plan_file import read_phases
from topgraft.system.quantities import image_side, loss_limit, time_limit

from .fields import Notation, choice

WHAT_TRAINS = "what trains"
OPTIMIZATION = "optimization"
DATA = "data"
SPEED = "speed and cache"
SAFETY = "safety and resume"
OUTPUT = "output"
HEADINGS = (WHAT_TRAINS, OPTIMIZATION, DATA, SPEED, SAFETY, OUTPUT)
"""Groups of options in help texts, in order."""

_FILE = Notation(metavar="FILE")
_DIR = Notation(metavar="DIR")
_DECODE = ("scaled", "full")
_DECODE_HELP = "how JPEG files are decoded: scaled lets the decoder shrink large photos, full does not"


@dataclass(frozen=True, kw_only=True)
class OpenSettings:
    """How images are found and divided."""

    heading: ClassVar[str] = DATA

    split_seed: int = choice(0, "seed of the splits that Topgraft makes; independent of the fit's seed", low=0)
    limit: int | None = choice(None, "use a stratified subset of at most N images; default: all", low=1)
    data_dir: Path | None = choice(
        None, "folder that holds a data set's archive (cifar10, cifar100); default: the usual places", notation=_DIR
    )
    strict: bool = choice(False, "stop at unreadable images instead of leaving them out")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What computes the frozen base, and where it keeps what it computed."""

    heading: ClassVar[str] = SPEED

    engine: str = choice(
        "auto",
        "what runs the frozen base: auto is OpenVINO where installed, else PyTorch; "
        "fastest is the best of `topgraft devices --measure`",
        ("auto", "openvino", "torch", "fastest"),
    )
    precision: str = choice(
        "auto",
        "arithmetic of the network: auto is bf16 where the processor supports it and is faster with it",
        ("auto", "bf16", "fp32"),
    )
    device: str = choice(
        "auto", "where the network runs: auto is CUDA if available, else the CPU", ("auto", "cpu", "cuda")
    )
    workers: int | None = choice(None, "threads that decode images; default: one per usable core", low=0)
    cache_dir: Path | None = choice(
        None,
        "folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's cache",
        notation=_DIR,
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(EngineSettings):
    """Which network, with which weights."""

    heading: ClassVar[str] = WHAT_TRAINS

    backbone: str = choice(
        "efficientnet_lite0", "published network to build on; `topgraft backbones` lists them; or timm:NAME"
    )
    weights: str | None = choice(
        None,
        "weights to start from: a name, a file, or random; default, and imagenet: the network's best published ones, "
        "downloaded if needed",
        notation=Notation("NAME|FILE|random", "StrPath | None"),
    )
    input_size: int | None = choice(
        None,
        "side of the images in pixels, as 224 or 224x224; default: the weights' own",
        low=32,
        read=image_side,
        notation=Notation("N", "int | str | Sequence[int] | None"),
    )


@dataclass(frozen=True, kw_only=True)
class StrategySettings:
    """Which groups train, for how long, and at what rates: the options that `fit` and `inspect` share."""

    heading: ClassVar[str] = WHAT_TRAINS

    strategy: str = choice(
        "auto",
        "what trains: head keeps the base and solves the classifier; partial also trains the layers near it; full "
        "trains the whole network; auto starts as head and unfreezes more while it helps and the time lasts; rules "
        "are your own",
        ("auto", "head", "partial", "full", "rules"),
    )
    unfreeze_from: str | None = choice(
        None,
        "partial: the first group that trains; default: where the layers' own features stop helping",
        notation=Notation("GROUP"),
    )
    rules: tuple[Phase, ...] | None = choice(
        None,
        "your own phases: a TOML file, or a list of phases in Python; default: those of the strategy",
        read=read_phases,
        notation=Notation("FILE", "StrPath | Sequence[Phase | Mapping[str, Any]] | None"),
    )


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How groups of the base are trained: the options that `fit` and `inspect` share."""

    heading: ClassVar[str] = OPTIMIZATION

    epochs: int | None = choice(
        None, "passes over the training images, where the base trains; default: by their number", low=1
    )
    lr: float | None = choice(
        None, "learning rate; default: 3e-4 (sgd 0.01) for published weights, 1e-3 (sgd 0.1) for random ones", low=0
    )
    optimizer: str = choice("adam", "optimizer, where the base trains", ("adam", "adamw", "sgd"))
    batchnorm: str = choice(
        "auto",
        "statistics of BatchNorm where its group trains: keep the published ones, or update them from the batches; "
        "auto updates those of random weights only",
        ("auto", "keep", "update"),
    )


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings(StepSettings):
    """How `fit` trains."""

    heading: ClassVar[str] = OPTIMIZATION

    find_lr: bool = choice(False, "run a learning-rate range test and use the suggested rate")
    batch_size: int = choice(32, "images of one step, where the base trains", low=1)
    schedule: str = choice(
        "auto",
        "how rates change within a phase: cosine rises and falls; auto is constant for random weights, else cosine",
        ("auto", "cosine", "constant"),
    )
    label_smoothing: float = choice(0.0, "share of each label that is spread over all classes", share=True)
    mixup: float = choice(0.0, "mix images in pairs: α of Beta(α, α); 0 is off", share=True)
    ema: float = choice(0.0, "decay of a running mean of the weights, as 0.99; 0 is off", share=True)
    l2: str = choice(
        "published", "penalty on weights that the network's authors add to the loss", ("published", "none")
    )
    l2_sp: float = choice(0.0, "pull the base towards its published weights: α of α/2·‖w - w₀‖²; 0 is off", share=True)
    patience: int | None = choice(
        None, "early stopping: end a phase after so many epochs in a row without a new best; default: 5", low=1
    )
    class_weight: str = choice(
        "none", "balanced weighs each class by the inverse of its share of the images", ("none", "balanced")
    )
    refit: bool = choice(False, "after selection, solve the head again on train and validation together")
    seed: int = choice(0, "seed of everything random in the fit", low=0)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How `fit` makes training images."""

    heading: ClassVar[str] = DATA

    augment: str = choice(
        "auto",
        "random changes to training images: crop, standard (crop and mirror), strong (and colors); "
        "auto is crop, and none for random weights",
        ("auto", "none", "crop", "standard", "strong"),
    )
    decode: str = choice("scaled", _DECODE_HELP, _DECODE)


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What `fit` keeps on disk while it trains."""

    heading: ClassVar[str] = SPEED

    views: int | None = choice(None, f"augmented copies of each image to cache; default: {VIEWS}", low=1)
    boundary_cache: str = choice(
        "auto",
        "whether the output of the frozen groups is kept on disk while the others train; auto does what is faster",
        ("auto", "on", "off"),
    )
    cache_quota: float = choice(8.0, "gigabytes of disk that the boundary cache may use", low=0)


@dataclass(frozen=True, kw_only=True)
class SafetySettings:
    """Limits of a fit, and what is needed to resume or repeat it."""

    heading: ClassVar[str] = SAFETY

    budget: str | None = choice(
        None,
        "auto: wall time for everything, as 90s, 5m or 1h; default: 5m",
        read=time_limit,
        notation=Notation("TIME"),
    )
    forget_at_most: float | None = choice(
        None,
        "percentage points of the original task's accuracy, or of agreement with the original network, that may be "
        "lost; default: no limit",
        read=loss_limit,
        notation=Notation("POINTS", "float | str | None"),
    )
    source: str | None = choice(
        None,
        "labeled images of the original task, to measure what is forgotten; default: none",
        notation=Notation("WHERE", "StrPath | None"),
    )
    stalled: str = choice(
        "ask",
        "what to do where the loss stays at chance and a lower learning rate does better: ask on a terminal and else "
        "stop; stop; lower continues with the lower rate; ignore",
        ("ask", "stop", "lower", "ignore"),
    )
    config: Path | None = choice(
        None,
        "config.json of a run: its settings and recorded choices are used for all options not given; default: none",
        notation=_FILE,
    )
    resume: bool = choice(False, "continue an unfinished fit from its last checkpoint; the settings must be the same")
    checkpoint: Path | None = choice(
        None,
        "folder, or .safetensors file, for the state of the unfinished fit; default: none",
        notation=Notation(flag=False),
    )
    checkpoint_minutes: float = choice(
        3.0, "minutes between checkpoints of an unfinished fit, besides those after each epoch", low=0
    )


@dataclass(frozen=True, kw_only=True)
class FitSettings(
    SafetySettings, CacheSettings, ImageSettings, OptimizationSettings, StrategySettings, NetworkSettings, OpenSettings
):
    """The options of ``fit``."""


WITHOUT_EFFECT = frozenset({"resume", "checkpoint", "checkpoint_minutes", "config", "workers", "cache_dir"})
"""Options of ``fit`` that cannot change its result; a fit that is resumed may have others.

``config`` is among them because its settings are already in the other options when the fit begins.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(EngineSettings, OpenSettings):
    """The options of ``evaluate``. `split_seed` None means the artifact's own."""

    heading: ClassVar[str] = DATA

    split_seed: int | None = choice(  # type: ignore[assignment]
        None, "seed of the splits that Topgraft makes; default: the seed that the artifact was fitted with", low=0
    )
    split: str = choice("test", "split to use; images that the artifact has never seen count as test", SPLIT_NAMES)
    include_seen: bool = choice(False, "also count images that fitting or selection has used")


@dataclass(frozen=True, kw_only=True)
class ForgettingSettings(EngineSettings, OpenSettings):
    """The options of ``forgetting``."""

    heading: ClassVar[str] = WHAT_TRAINS

    weights: str | None = choice(
        None,
        "file of the weights that the model was fitted from, if it has moved; its content must be the same; "
        "default: where it was",
        notation=Notation("FILE", "StrPath | None"),
    )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(EngineSettings):
    """The options of ``predict``."""

    heading: ClassVar[str] = OUTPUT

    top_k: int = choice(5, "classes listed for each image, best first", low=1)


@dataclass(frozen=True, kw_only=True)
class FeaturesSettings(NetworkSettings, OpenSettings):
    """The options of ``extract_features``."""

    heading: ClassVar[str] = DATA

    decode: str = choice("scaled", _DECODE_HELP, _DECODE)


@dataclass(frozen=True, kw_only=True)
class InspectSettings(StepSettings, StrategySettings, NetworkSettings, OpenSettings):
    """The options of ``inspect``; for an artifact its own stand, except the engine's."""

    heading: ClassVar[str] = OUTPUT

    placement: bool = choice(False, "also show the device, number type and engine of each group")


OF_A_FIT = frozenset(
    {
        "backbone",
        "weights",
        "input_size",
        "strategy",
        "unfreeze_from",
        "rules",
        "epochs",
        "optimizer",
        "lr",
        "batchnorm",
    }
)
"""Options of ``inspect`` that belong to ``fit``, and that an artifact already has."""
