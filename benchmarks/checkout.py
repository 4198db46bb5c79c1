"""Run the command line of any checkout of Topgraft: with a fixed number of threads, a cache of its own, no network.

It is for scripts that compare checkouts, or keep what one has written: fits can be killed at a wanted place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "--unfreeze-from": ("--unfreeze-from", "--from"),
}
"""What an option of `fit` has been called, the newest name first; the key is the name that scripts use."""

TIMM = """
import sys, torch
if torch.version.cuda is None:  # torchvision's own operators may be made for another build; these two suffice
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""Run before timm is imported, where it cannot be imported otherwise; as in ``tests/conftest.py``."""


class FitFailedError(Exception):
    """A command of the checkout did not end as it should; says how."""


@dataclass(frozen=True)
class Checkout:
    """The code that is run: its interpreter, where it may write, and what it is started with.

    Attributes:
        python: the interpreter of its virtual environment.
        folder: of inputs, artifacts and cache.
        threads: of the processor.
        help: what ``topgraft fit --help`` prints.
        timm: what has to run before timm can be imported; None where it cannot.
        cache: folder of the cache; one in `folder` if None.
    """

    python: str
    folder: Path
    threads: int
    help: str = ""
    timm: str | None = None
    cache: Path | None = None

    def environment(self) -> dict[str, str]:
        """Of every process: as many threads as asked for, a cache of its own, no network."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        return {
            **os.environ,
            **threads,
            "TOPGRAFT_CACHE": str(self.cache or self.folder / "cache"),
            "TOPGRAFT_OFFLINE": "1",
        }

    def command(self, arguments: Sequence[str], needs: str = "") -> list[str]:
        """How the command line is started, with what its fit needs."""
        if needs == "timm" and self.timm:
            start = f"{self.timm}\nimport runpy\nrunpy.run_module('topgraft', run_name='__main__', alter_sys=True)"
            return [self.python, "-c", start, *arguments]
        return [self.python, "-m", "topgraft", *arguments]

    def run(self, arguments: Sequence[str], needs: str = "") -> str:
        """Run a verb; returns what it printed.

        Raises:
            FitFailedError: it did not end with 0.
        """
        command = self.command(arguments, needs)
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(), check=False, cwd=self.folder
        )
        if done.returncode:
            raise FitFailedError(f"topgraft {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-800:]}")
        return done.stdout

    def python_says(self, code: str) -> str | None:
        """What a few lines of Python print with this interpreter; None where they fail."""
        done = subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, env=self.environment(), check=False
        )
        return None if done.returncode else done.stdout.strip()

    def has(self, module: str) -> bool:
        """Whether a module that a fit needs is there."""
        return self.timm is not None if module == "timm" else self.python_says(f"import {module}") is not None

    def spelled(self, options: Sequence[str]) -> list[str]:
        """Options as this checkout calls them."""
        return [self._spelled(word) if word.startswith("--") else self._filled(word) for word in options]

    def _filled(self, word: str) -> str:
        return word.replace("{folder}", str(self.folder))

    def _spelled(self, option: str) -> str:
        names = SPELLINGS.get(option, (option,))
        for name in names:
            if f" {name} " in self.help or f"[{name}" in self.help:
                return name
        raise FitFailedError(f"`topgraft fit --help` has no {' or '.join(names)}: add its new name to SPELLINGS")


def open_checkout(python: str, folder: Path, threads: int = 1) -> Checkout:
    """The checkout of an interpreter, and what it knows: options, and whether timm can be imported."""
    plain = Checkout(python, folder, threads)
    helped = " ".join(plain.run(["fit", "--help"]).split()) + " "
    timm = next((code for code in ("", TIMM) if plain.python_says(f"{code}\nimport timm") is not None), None)
    return Checkout(python, folder, threads, helped, timm)


OFTEN = ("--checkpoint-minutes", "1e-6")
"""A state of the fit is written after each stretch of 25 steps."""


def kill_within(
    checkout: Checkout, arguments: Sequence[str], out: Path, wanted: Callable[[Mapping[str, int]], bool]
) -> Mapping[str, int]:
    """Kill a fit as soon as it has written a state of a wanted place; returns the place.

    Args:
        checkout: the code.
        arguments: of its command line.
        out: folder of the artifact.
        wanted: of a place, as ``{"phase": 1, "epoch": 1, "step": 25}``; within a fold it has ``fold`` too.

    Raises:
        FitFailedError: again and again it ended before, or wrote another state while it was killed.
    """
    state = out / "checkpoint.safetensors"
    for _ in range(_TRIALS):
        with subprocess.Popen(
            checkout.command(arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=checkout.environment(),
            cwd=checkout.folder,
        ) as process:
            while process.poll() is None and not ((place := place_of(state)) and wanted(place)):
                time.sleep(0.001)
            process.kill()  # this child alone; it has no children
            process.wait()
        place = place_of(state)
        if place and wanted(place):
            return place
        shutil.rmtree(out, ignore_errors=True)  # the next state was written in between
    raise FitFailedError(
        f"{_TRIALS} times the fit in {out} was not killed where it should be, the last time at {place}"
    )


_TRIALS = 5


def place_of(state: Path) -> dict[str, int] | None:
    """Phase, epoch and step from which the fit of a checkpoint is resumed; None where there is no checkpoint."""
    try:
        with state.open("rb") as file:
            metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    except FileNotFoundError:
        return None
    place: dict[str, int] = json.loads(next(iter(metadata.values())))["state"]["position"]
    return place
