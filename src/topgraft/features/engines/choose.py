"""Choose what runs a frozen prefix: a fixed rule picks, and anything can be forced."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from torch import get_num_threads, nn

from topgraft.errors import UsageError
from topgraft.features.engines import ENGINES, available
from topgraft.models.spec import Backbone, Demand
from topgraft.system import progress
from topgraft.system.cores import usable_cores
from topgraft.system.files import cache_folder
from topgraft.system.gpu import gpu_names, gpu_problem
from topgraft.system.hardware import processor_features

from .base import Engine, EngineChoice, EngineKind, Precision, Tolerance

_PRECISIONS = ("bf16", "fp32")


_DEVICES = ("cpu", "cuda")


def tolerance(choice: EngineChoice) -> Tolerance:
    """How far its features may be from eager float32; tested for every engine and precision."""
    return ENGINES[choice.name].tolerance[_precision(choice.precision)]


def choose(
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    folder: Path | None = None,
    *,
    demand: Demand | None = None,
) -> EngineChoice:
    """The engine that runs the frozen base, by a fixed rule that measures nothing.

    With a GPU that computes, PyTorch on it. Else OpenVINO where it is installed, else PyTorch, on the processor.
    bf16 where the GPU has it, or the processor has it and is faster in it (`topgraft.system.hardware.bf16_pays`), else
    fp32. What is given by name is used or refused.

    Args:
        engine: ``auto``, a key of `ENGINES`, or ``fastest``: the best that ``topgraft devices --measure`` saw.
        precision: ``auto``, ``bf16`` or ``fp32``.
        device: ``auto``, ``cpu`` or ``cuda``.
        folder: where a measurement is kept; `topgraft.system.files.cache_folder` if None.
        demand: what alone can run this base. ``auto`` and ``fastest`` then are that.

    Raises:
        UsageError: an unknown name, or what this machine or the base does not have; the message says what it has.
    """
    _check("engine", engine, ("auto", *ENGINES, "fastest"))
    _check("precision", precision, ("auto", *_PRECISIONS))
    _check("device", device, ("auto", *_DEVICES))
    if demand is not None:
        engine, precision, device = _demanded(demand, engine, precision, device)
    if engine == "fastest":
        return _fastest(precision, device, folder)
    name = engine if engine != "auto" else _default_engine(device)
    kind = ENGINES[name]
    here = _devices(kind, device)
    if not here:
        raise UsageError(f"the engine {name} is not installed; pip install {kind.package}, or use {_others()}")
    if device != "auto" and device not in here:
        if device in kind.devices():
            raise UsageError(
                f"PyTorch sees a GPU, but computes nothing on it ({gpu_problem()}); install a PyTorch that is made for "
                "it (https://pytorch.org/get-started), or use --device cpu"
            )
        raise UsageError(f"the engine {name} has no {device} here; it can use {', '.join(here)}")
    place = device if device != "auto" else here[0]
    can = kind.precisions(place)
    if precision != "auto" and precision not in can:
        raise UsageError(
            f"the engine {name} has no {precision} on this {_called(place)}; it can compute in {', '.join(can)}"
        )
    return EngineChoice(
        name=name,
        precision=precision if precision != "auto" else can[0],
        device=place,
        batch_size=kind.batch_size(place),
        threads=min(get_num_threads(), usable_cores()),
    )


def choose_for(network: Backbone, engine: str, precision: str, device: str, folder: Path | None) -> EngineChoice:
    """The engine for a network's base; see `choose`.

    Raises:
        UsageError: as there; or what the base computes with is not installed.
    """
    if network.require is not None:
        network.require()
    return choose(engine, precision, device, folder, demand=network.demand)


def possible() -> list[EngineChoice]:
    """Every engine, device and precision that this machine has, the default first."""
    choices = [
        choose(name, precision, device)
        for name, kind in ENGINES.items()
        for device in _devices(kind, "auto")
        for precision in kind.precisions(device)
    ]
    default = choose()
    return [default, *(choice for choice in choices if choice != default)]


def build_engine(choice: EngineChoice, prefix: nn.Module, *, input_size: int, key: str, folder: Path) -> Engine:
    """Make a frozen prefix ready to run.

    Args:
        choice: see `choose`.
        prefix: uint8 N×H×W×3 to activations, in evaluation mode, on the processor. It is not changed.
        input_size: side of its images, in pixels.
        key: names the prefix by content: its weights, its boundary and how it normalizes. What an engine
            keeps on disk is found again by it.
        folder: where an engine may keep what it converted.

    Raises:
        UsageError: the choice is not possible on this machine, or the prefix is in training mode.
    """
    if any(module.training for module in prefix.modules()):
        raise ValueError("a frozen prefix runs in evaluation mode; call eval() on it first")
    _check("engine", choice.name, tuple(ENGINES))
    kind = ENGINES[choice.name]
    # A choice may come from another machine's config.
    choose(choice.name, choice.precision, choice.device)
    return kind.build(choice, prefix, input_size, key, folder)


def machine_fingerprint() -> str:
    """This machine as far as speed goes, in 16 hex digits: processor features, threads, versions, GPUs; no name."""
    record = [processor_features(), get_num_threads(), available(), *gpu_names()]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def measurement_path(folder: Path | None = None) -> Path:
    """Where the measurement of this machine is kept."""
    return (folder or cache_folder()) / f"machine-{machine_fingerprint()}.json"


def _fastest(precision: str, device: str, folder: Path | None) -> EngineChoice:
    path = measurement_path(folder)
    measure = "run `topgraft devices --measure` first"
    try:
        rates = json.loads(path.read_text(encoding="utf-8"))["engines"]
        seen = [(float(rate["images_per_second"]["median"]), EngineChoice(**rate["choice"])) for rate in rates]
    except FileNotFoundError:
        raise UsageError(
            f"the engine fastest needs a measurement of this machine with these versions; {measure}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a measurement ({error}); {measure}") from error
    fitting = [
        (rate, choice)
        for rate, choice in seen
        if precision in ("auto", choice.precision) and device in ("auto", choice.device)
    ]
    if not fitting:
        raise UsageError(f"no engine with precision {precision} on device {device} was measured; {measure}")
    return max(fitting, key=lambda pair: pair[0])[1]


def _demanded(demand: Demand, engine: str, precision: str, device: str) -> tuple[str, str, str]:
    for given, only in ((engine, demand.engine), (precision, demand.precision), (device, demand.device)):
        if given not in ("auto", "fastest", only):
            raise UsageError(
                f"this base runs on {demand.engine} in {demand.precision} on {demand.device} only, not with {given}: "
                f"{demand.why}; leave --engine, --precision and --device out"
            )
    return demand.engine, demand.precision, demand.device


def _default_engine(device: str) -> str:
    if device == "cuda" or (device == "auto" and "cuda" in _devices(ENGINES["torch"], device)):
        return "torch"
    return next(name for name, kind in ENGINES.items() if kind.devices())


def _devices(kind: EngineKind, asked: str) -> tuple[str, ...]:
    """What an engine can run on here, best first, without a GPU that computes nothing."""
    here = kind.devices()
    if asked == "cpu" or "cuda" not in here:  # who asks for the processor wakes no GPU
        return here
    problem = gpu_problem()
    if problem is None:
        return here
    if asked == "auto":
        _leave_alone(problem)
    return tuple(device for device in here if device != "cuda")


@functools.cache
def _leave_alone(problem: str) -> None:
    progress.note(f"PyTorch sees a GPU, but computes nothing on it ({problem}); the processor works alone")


def _check(what: str, given: str, options: tuple[str, ...]) -> None:
    if given not in options:
        raise UsageError(f"there is no {what} {given!r}; it is one of {', '.join(options)}")


def _precision(name: str) -> Precision:
    return "bf16" if name == "bf16" else "fp32"


def _others() -> str:
    return " or ".join(f"--engine {name}" for name, kind in ENGINES.items() if kind.devices())


def _called(device: str) -> str:
    return "processor" if device == "cpu" else "GPU"
