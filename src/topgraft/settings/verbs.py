"""Every choice a user has, written once: Python arguments, command-line flags and the run's saved config.

A verb's settings are a frozen dataclass. `api` builds it from the keyword arguments, `cli` makes one flag of
each field, and `artifact` saves it. A field's metadata holds its help, and its options where it has a fixed list.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from topgraft.data.samples import SPLIT_NAMES
from topgraft.errors import UsageError
from topgraft.strategies.defaults import VIEWS
from topgraft.strategies.plan import Phase
from topgraft.strategies.plan_file import read_phases
from topgraft.system.quantities import image_side, loss_limit, time_limit

S = TypeVar("S")

_WEIGHTS = (
    "weights to start from: a name, a file, or random; default, and imagenet: the network's best published ones, "
    "downloaded if need be"
)


_INPUT_SIZE_HELP = "side of the images in pixels, as 224 or 224x224; default: the weights' own"


def _choice(
    default: Any,
    help: str,
    options: tuple[str, ...] = (),
    low: int | None = None,
    flag: bool = True,
    share: bool = False,
    read: Callable[[Any], Any] | None = None,
) -> Any:
    """What a choice is; see `_checked`.

    Args:
        low: the least whole number; what a fraction must be above.
        flag: False where the command line knows the value from elsewhere.
        share: a fraction from 0 up to, but not including, 1.
        read: makes the value of what was given, or raises.
    """
    metadata = {"help": help, "options": options, "low": low, "flag": flag, "share": share, "read": read}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class OpenSettings:
    """How images are found and divided."""

    split_seed: int = _choice(0, "seed of the splits that Topgraft makes; independent of --seed", low=0)
    limit: int | None = _choice(None, "use a stratified subset of at most N images", low=1)
    data_dir: Path | None = _choice(None, "folder that holds a data set's archive (cifar10, cifar100)")
    strict: bool = _choice(False, "stop at the first list of unreadable images instead of leaving them out")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What computes the frozen base, and where it keeps what it computed."""

    engine: str = _choice(
        "auto",
        "what runs the frozen base: auto is OpenVINO where installed, else PyTorch; "
        "fastest is the best of `topgraft devices --measure`",
        ("auto", "openvino", "torch", "fastest"),
    )
    precision: str = _choice(
        "auto",
        "arithmetic of the network: auto is bf16 where the processor has it and is faster in it",
        ("auto", "bf16", "fp32"),
    )
    device: str = _choice("auto", "auto is CUDA where there is one, else the processor", ("auto", "cpu", "cuda"))
    workers: int | None = _choice(None, "threads that decode images; default: one per usable core", low=0)
    cache_dir: Path | None = _choice(
        None, "folder of cached features, converted networks and downloads; default: TOPGRAFT_CACHE or the user's cache"
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(EngineSettings):
    """Which network, with which weights."""

    backbone: str = _choice(
        "efficientnet_lite0", "the published network to build on; see `topgraft backbones`; or timm:NAME"
    )
    weights: str | None = _choice(None, _WEIGHTS)
    input_size: int | None = _choice(None, _INPUT_SIZE_HELP, low=32, read=image_side)


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

    strategy: str = _choice("auto", _STRATEGY_HELP, _STRATEGIES)
    from_: str | None = _choice(None, _FROM_HELP)
    rules: tuple[Phase, ...] | None = _choice(
        None, "your own phases: a TOML file, or a list of phases in Python; see the README", read=read_phases
    )
    budget: str | None = _choice(None, "auto: wall time for everything, as 90s, 5m or 1h; default: 5m", read=time_limit)
    epochs: int | None = _choice(None, _EPOCHS_HELP, low=1)
    batch_size: int = _choice(32, "images of one step, where the base trains", low=1)
    optimizer: str = _choice("adam", _OPTIMIZER_HELP, _OPTIMIZERS)
    schedule: str = _choice(
        "auto",
        "how rates change within a phase: cosine rises and falls; auto is constant for random weights, else cosine",
        ("auto", "cosine", "constant"),
    )
    find_lr: bool = _choice(False, "measure which learning rate the network bears, in a short test, and take that")
    batchnorm: str = _choice("auto", _BATCHNORM_HELP, _BATCHNORM)
    augment: str = _choice(
        "auto",
        "what is drawn at random for a training image: crop, standard (crop and mirror), strong (and colours); "
        "auto is crop, and none for random weights",
        ("auto", "none", "crop", "standard", "strong"),
    )
    views: int | None = _choice(None, f"augmented views of each image that a cache keeps; default: {VIEWS}", low=1)
    boundary_cache: str = _choice(
        "auto",
        "whether what the frozen groups make of the images is kept on disk while the others train; "
        "auto does what is faster",
        ("auto", "on", "off"),
    )
    cache_quota: float = _choice(8.0, "gigabytes of disk that it may take", low=0)
    label_smoothing: float = _choice(0.0, "share of each label that is spread over all classes", share=True)
    mixup: float = _choice(0.0, "mix images in pairs: α of Beta(α, α); 0 is off", share=True)
    ema: float = _choice(0.0, "keep a running mean of the weights with this decay, as 0.99; 0 is off", share=True)
    l2_sp: float = _choice(0.0, "pull the base towards its published weights: α of α/2·‖w - w₀‖²", share=True)
    patience: int | None = _choice(
        None, "end a phase where so many epochs in a row are no better than the best; default: 5", low=1
    )
    forget_at_most: float | None = _choice(
        None,
        "points of the original task's accuracy (see --source), or of agreement, that may be lost",
        read=loss_limit,
    )
    source: str | None = _choice(None, "labelled images of the original task, to measure what is forgotten")
    lr: float | None = _choice(None, _LR_HELP, low=0)
    l2: str = _choice(
        "published", "the penalty on weights that the network's authors add to the loss", ("published", "none")
    )
    stalled: str = _choice(
        "ask",
        "where the loss stays at chance and a lower learning rate does better: ask on a terminal and else stop, "
        "stop, go on with the lower one, or ignore it",
        ("ask", "stop", "lower", "ignore"),
    )
    class_weight: str = _choice(
        "none", "balanced weighs each class by the inverse of its share of the images", ("none", "balanced")
    )
    refit: bool = _choice(False, "after selection, solve the head again on train and validation together")
    decode: str = _choice(
        "scaled", "scaled lets the JPEG decoder shrink large photos while it decodes", ("scaled", "full")
    )
    seed: int = _choice(0, "seed of everything random in the fit", low=0)
    config: Path | None = _choice(
        None, "a run's config.json: its settings and recorded choices, under those that are given"
    )
    resume: bool = _choice(
        False, "go on with the fit that was stopped or killed, from its last checkpoint; the settings must be the same"
    )
    checkpoint: Path | None = _choice(
        None, "folder, or .safetensors file, that keeps the state of the unfinished fit; default: none", flag=False
    )
    checkpoint_minutes: float = _choice(
        3.0, "minutes after which the state of an unfinished fit is written, beside after each epoch", low=0
    )


WITHOUT_EFFECT = frozenset({"resume", "checkpoint", "checkpoint_minutes", "config", "workers", "cache_dir"})
"""Choices of ``fit`` that cannot change what it ends in; a fit that is resumed may have others.

``config`` is among them because what it says stands in the other choices by then.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(OpenSettings, EngineSettings):
    """The choices of ``evaluate``. `split_seed` None means the artifact's own."""

    split_seed: int | None = _choice(None, "default: the seed that the artifact was fitted with", low=0)  # type: ignore[assignment]
    split: str = _choice("test", "which split; images that the artifact has never seen count as test", SPLIT_NAMES)
    include_seen: bool = _choice(False, "also count images that fitting or selection has used")


@dataclass(frozen=True, kw_only=True)
class ForgettingSettings(OpenSettings, EngineSettings):
    """The choices of ``forgetting``."""

    weights: str | None = _choice(
        None, "file of the weights that the model was fitted from, where they have moved; its content must be the same"
    )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(EngineSettings):
    """The choices of ``predict``."""

    top_k: int = _choice(5, "answers for each image, best first", low=1)


@dataclass(frozen=True, kw_only=True)
class FeaturesSettings(OpenSettings, NetworkSettings):
    """The choices of ``extract_features``."""

    decode: str = _choice(
        "scaled", "scaled lets the JPEG decoder shrink large photos while it decodes", ("scaled", "full")
    )


@dataclass(frozen=True, kw_only=True)
class InspectSettings(OpenSettings, NetworkSettings):
    """The choices of ``inspect``; for an artifact its own stand, but for the engine's."""

    strategy: str = _choice("auto", "the strategy whose tables are shown", _STRATEGIES)
    from_: str | None = _choice(None, _FROM_HELP)
    rules: tuple[Phase, ...] | None = _choice(
        None, "your own phases: a TOML file, or a list of phases", read=read_phases
    )
    epochs: int | None = _choice(None, _EPOCHS_HELP, low=1)
    optimizer: str = _choice("adam", _OPTIMIZER_HELP, _OPTIMIZERS)
    lr: float | None = _choice(None, _LR_HELP, low=0)
    batchnorm: str = _choice("auto", _BATCHNORM_HELP, _BATCHNORM)
    placement: bool = _choice(False, "also show the device, number type and engine of each group")


def flag_of(name: str) -> str:
    """How a choice is written on the command line."""
    return "--" + name.rstrip("_").replace("_", "-")  # from_: `from` is a word of Python's own


OF_A_FIT = frozenset(
    {"backbone", "weights", "input_size", "strategy", "from_", "rules", "epochs", "optimizer", "lr", "batchnorm"}
)
"""Choices of ``inspect`` that are those of ``fit``, and that an artifact has made."""


def make(kind: type[S], given: Mapping[str, Any]) -> S:
    """The settings record of a verb from the choices that a user gave.

    Raises:
        UsageError: an unknown name, a value of the wrong kind, out of range or not among the options.
    """
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; the settings are {', '.join(known)}"
            raise UsageError(f"there is no setting named {name}{hint}")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(known[name], hints[name], value) for name, value in given.items()})


def base_type(hint: Any) -> type:
    """``int`` of ``int | None``: the type that a given value has."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    first: type = kinds[0] if get_origin(hint) is not tuple else hint
    return first


def default(entry: Field[Any]) -> Any:
    """The default of a settings field."""
    return None if entry.default is MISSING else entry.default


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON types, every field written out."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return os.fspath(value)
    if isinstance(value, tuple):  # phases, as `topgraft.plan.read_phases` takes them
        return [
            {"name": p.name, "epochs": p.epochs, "lr": p.lr, "rules": {r.pattern: r.lr_multiplier for r in p.rules}}
            for p in value
        ]
    return value


def _checked(entry: Field[Any], hint: Any, value: Any) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    if entry.metadata["read"] is not None:
        read = entry.metadata["read"](value)
        return read if entry.metadata["low"] is None else _at_least(entry, read)
    kind = base_type(hint)
    if kind is Path and isinstance(value, str | os.PathLike):
        return Path(value).expanduser()
    if kind is str and isinstance(value, os.PathLike):  # a file where a name may also stand
        value = os.fspath(value)
    if type(value) is not kind:
        if kind is int and hasattr(value, "__index__") and not isinstance(value, bool):
            value = int(value)  # NumPy's integers
        elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = float(value)
        elif kind is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        else:
            raise UsageError(f"{entry.name} must be {_article(kind)}, not {value!r}")
    options = entry.metadata["options"]
    if options and value not in options:
        raise UsageError(f"{entry.name} must be one of {', '.join(options)}, not {value!r}")
    low = entry.metadata["low"]
    if kind is float and not math.isfinite(value):
        raise UsageError(f"{entry.name} must be a finite number, not {value}")
    if entry.metadata["share"] and not 0 <= value < 1:
        raise UsageError(f"{entry.name} must be at least 0 and below 1, not {value:g}")
    if kind is float and low is not None and value <= low:
        raise UsageError(f"{entry.name} must be more than {low}, not {value:g}")
    return value if low is None else _at_least(entry, value)


def _at_least(entry: Field[Any], value: Any) -> Any:
    if value < entry.metadata["low"]:
        raise UsageError(f"{entry.name} must be at least {entry.metadata['low']}, not {value}")
    return value


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "True or False", Path: "a path"}[kind]
