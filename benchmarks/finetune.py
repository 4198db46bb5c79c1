"""Fine-tuning: `topgraft fit --strategy full` against the tutorial loop, and `partial` with its cache and without.

    TOPGRAFT_DATA=… python -m benchmarks.finetune               # both, on sign-digits
    TOPGRAFT_DATA=… python -m benchmarks.finetune --only cache

The loop is the tutorial's "Finetuning the ConvNet" (`tutorial_loop`): every parameter trains, SGD 1e-3, batches of 32,
float32. Whole processes, the same photos, network, weights and number of epochs, one after the other in one run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import common
from benchmarks.fit import _move, timed
from topgraft.strategies.defaults import VIEWS


def unpack(target: Path) -> Path:
    """sign-digits, divided as `topgraft` divides it, into train/, val/ and test/."""
    with zipfile.ZipFile(Path(os.environ["TOPGRAFT_DATA"], "data", "sign-digits.zip")) as archive:
        archive.extractall(target)
    import topgraft as tg

    splits = tg.open_images(target / "sign-digits" / "Dataset")
    root = target / "divided"
    for name in ("train", "val", "test"):
        for sample in splits[name]:  # type: ignore[index]
            assert sample.path is not None
            assert sample.label is not None
            _move(sample.path, root / name / splits.classes[sample.label])
    return root


def against_the_loop(root: Path, scratch: Path, runs: int, epochs: int) -> None:
    """Print the ratio, and both accuracies on the validation images, which chose the epoch on both sides."""
    ours, peer = [], []
    for run in range(runs):
        fit = ["topgraft", "fit", str(root), "--strategy", "full", "--epochs", str(epochs), "--seed", str(run)]
        fit += ["--out", f"{scratch}/full{run}", "--cache-dir", f"{scratch}/cache-full{run}", "--json"]
        seconds, result = timed(fit)
        ours.append(seconds)
        loop_seconds, other = timed(["benchmarks.tutorial_loop", str(root), str(epochs), "32", "all"])
        peer.append(loop_seconds)
        print(
            f"run {run + 1}: full {seconds:.1f} s, top-1 {_top1(result)}; loop {loop_seconds:.1f} s, "
            f"top-1 {100 * float(other['top1']):.2f} %",  # type: ignore[arg-type]
            flush=True,
        )
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    print(
        f"full, {epochs} epochs: {median(ours):.1f} s, loop {median(peer):.1f} s: "
        f"{median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f}), n = {runs}"
    )


def with_and_without_cache(root: Path, scratch: Path, runs: int, epochs: int, first: str, views: list[int]) -> None:
    """Print the ratio of the training seconds, the filling of the cache included, and the accuracies of both."""
    kinds = [f"{number} views" for number in views]
    seconds: dict[str, list[float]] = {kind: [] for kind in (*kinds, "not cached")}
    for run in range(runs):
        fit = ["topgraft", "fit", str(root), "--strategy", "partial", "--unfreeze-from", first, "--epochs", str(epochs)]
        fit += ["--seed", str(run), "--json", "--out", f"{scratch}/partial{run}", "--overwrite"]
        for kind in seconds:
            cached = kind in kinds
            own = ["--boundary-cache", "auto" if cached else "off", "--cache-dir", f"{scratch}/cache-{run}-{kind}"]
            _, result = timed([*fit, *own, *(["--views", kind.split()[0]] if cached else [])])
            seconds[kind].append(result["seconds"]["train"])  # type: ignore[index]
            said = f"; decided: {result['resolved']['caching']}" if cached else ""  # type: ignore[index]
            print(f"run {run + 1}, {kind}: {seconds[kind][-1]:.1f} s, top-1 {_top1(result)}{said}", flush=True)
    plain = seconds["not cached"]
    for kind in kinds:
        ratios = [b / a for a, b in zip(seconds[kind], plain, strict=True)]
        print(
            f"partial from {first}, {epochs} epochs, {kind}: {median(seconds[kind]):.1f} s, not {median(plain):.1f}: "
            f"{median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f}), n = {runs}"
        )


def _top1(result: dict[str, Any]) -> str:
    found = result["top1"]
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.2f} % ({low:.1f} to {high:.1f}, n = {found['n']})"


def main(arguments: list[str] | None = None) -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("loop", "cache"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--first", default="stage7", help="first group that trains in partial")
    parser.add_argument("--views", type=int, nargs="+", default=[VIEWS], help="that the cache keeps of each image")
    asked = parser.parse_args(arguments)
    if "TOPGRAFT_DATA" not in os.environ:
        print("skipped: set TOPGRAFT_DATA to a folder that holds data/sign-digits.zip")
        return
    print(common.machine())
    with tempfile.TemporaryDirectory() as scratch:
        root = unpack(Path(scratch))
        if asked.only != "cache":
            against_the_loop(root, Path(scratch), asked.runs, asked.epochs)
        if asked.only != "loop":
            with_and_without_cache(root, Path(scratch), asked.runs, asked.epochs, asked.first, asked.views)


if __name__ == "__main__":
    main()
