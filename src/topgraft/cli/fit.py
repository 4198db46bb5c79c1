"""``topgraft fit``: fit, save, and say what was done; or continue a fit that was stopped."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topgraft.data.notes import print_notes
from topgraft.errors import TrainingStalledError, UsageError
from topgraft.system import progress, timing
from topgraft.system.files import checkpoint_file

from .output import print_json, results

if TYPE_CHECKING:
    from topgraft.evaluation.results import FittedClassifier


def fit(asked: argparse.Namespace, choices: dict[str, Any], began: float) -> int:
    """Run the verb; returns the exit code.

    Args:
        asked: its flags.
        choices: those of them that are settings and were given.
        began: when the process began, for the seconds that are shown.
    """
    from topgraft.artifacts import folder

    resume = bool(choices.get("resume"))
    if resume and asked.out is None:
        raise UsageError("--resume needs --out: the folder of the fit that is to continue")
    if resume and asked.overwrite:
        raise UsageError("--resume continues a fit, and --overwrite starts again; give one of them")
    out = asked.out or _free_name(asked.where)
    if resume and folder.is_finished(out):
        return _already_finished(asked, choices, out)
    folder.check_target(out, asked.overwrite, resume)
    # Always said, so that a replayed config cannot bring in those of its own run.
    choices |= {"resume": resume, "checkpoint": out}
    from topgraft import api

    start = time.perf_counter() - began
    try:
        with timing.counting_from(began):
            model = _fit_or_lower(asked, choices)
        saving = time.perf_counter()
        stopped = model.config.get("finished") is False
        api.save(model, out, overwrite=asked.overwrite, keep_checkpoint=stopped)
    except KeyboardInterrupt:
        if not checkpoint_file(out).exists():
            raise
        progress.message(f"topgraft: interrupted; {out} holds how far it came; --resume continues")
        return 130
    seconds = {"start": start, **model.cost.seconds, "save": time.perf_counter() - saving}
    seconds["total"] = time.perf_counter() - began
    _show(asked, model, out, seconds)
    if stopped:
        progress.message(f"topgraft: {_how_far(model)}; {out} holds the best epoch; --resume continues")
        return 130
    return 0


def _fit_or_lower(asked: argparse.Namespace, choices: Mapping[str, Any]) -> FittedClassifier:
    from topgraft import api
    from topgraft.cli.render import fit

    try:
        return api.run_fit(asked.where, **choices)
    except TrainingStalledError as stall:
        if not (asked.quiet or asked.json):
            fit.stalled(stall)
        silent = asked.quiet or asked.json or choices.get("stalled", "ask") != "ask"
        if stall.rate is None or silent or not _agrees(stall.rate):
            raise
        again = {**choices, "resume": False}
        checkpoint_file(choices["checkpoint"]).unlink(missing_ok=True)
        if choices.get("rules") is not None or choices.get("config") is not None:  # their phases have their own rates
            return api.run_fit(asked.where, **{**again, "stalled": "lower"})
        again.pop("find_lr", None)
        return api.run_fit(asked.where, **{**again, "lr": stall.rate})


def _show(asked: argparse.Namespace, model: FittedClassifier, out: Path, seconds: Mapping[str, float]) -> None:
    from topgraft.cli.render import fit

    if not asked.json:
        print_notes(model.config["notes"], model.unreadable)
        fit.fitted(model, out, seconds, quiet=asked.quiet)
        return
    result = None if model.validation is None else results(model.validation)
    print_json(
        {
            "artifact": str(out),
            "finished": model.config.get("finished", True),
            "resumed_from": model.config.get("resumed_from"),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "top1": result and result["top1"],
            "validation": result,
            "images": {
                "from_cache": model.cost.images_from_cache,
                "computed": model.cost.images_decoded,
                "copies": model.cost.images_copied,
            },
            "selection": model.config["selection"],
            **{
                name: model.config.get(name)
                for name in ("kept", "largest_class", "forgetting", "trade", "auto", "caching")
            },
            "resolved": model.config["resolved"],
            "unreadable": [asdict(entry) for entry in model.unreadable],
            "notes": model.config["notes"],
        }
    )


def _how_far(model: FittedClassifier) -> str:
    epochs = [record.epoch for record in model.history if record.epoch and not record.folds]
    return f"stopped by Ctrl-C after epoch {epochs[-1]}" if epochs else "stopped by Ctrl-C before the first epoch ended"


def _already_finished(asked: argparse.Namespace, choices: Mapping[str, Any], out: Path) -> int:
    """Say so and change nothing, if it is the same fit that was asked for."""
    from topgraft.artifacts import config_file
    from topgraft.artifacts.results import read_results
    from topgraft.training.replay import fit_settings
    from topgraft.training.resume import require_as_before

    config = config_file.read_config(out)
    saved = {**config.get("asked", config["settings"]), "where": config["data"]["where"]}
    require_as_before(out, saved, fit_settings(choices)[0], asked.where)
    if asked.json:
        found = read_results(out).get("val", {})
        print_json({"artifact": str(out), "finished": True, "resumed_from": None, "top1": found.get("top1")})
    else:
        print(f"{out} is finished; there is nothing to continue")
    return 0


def _agrees(rate: float) -> bool:
    """Ask on a terminal; elsewhere there is no answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"Start again with the learning rate {rate:g}? [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def _free_name(where: str) -> Path:
    name = Path(where).resolve().stem or "run"
    number = 1
    while Path("runs", f"{name}-{number}").exists():
        number += 1
    return Path("runs", f"{name}-{number}")
