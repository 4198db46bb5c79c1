"""Kill `topgraft fit … --resume` at random moments until it ends, and compare it with a fit that was not killed.

    python -m benchmarks.kills digits -- --backbone resnet18 --weights random --strategy full --epochs 3
    python -m benchmarks.kills WHERE --kills 50 --seed 0 -- FIT'S OWN FLAGS

A fit is started with `--resume` into a folder and killed (SIGKILL) after a time drawn evenly between nothing and the
seconds of the uninterrupted fit, again and again, until once it ends by itself; then the next fit, until so many
kills are done. Every kill is followed by a start that continues. Counted are the fits that end in the same bytes of
model.safetensors and in the same history, and the finished epochs that were run again: a start must continue exactly
from the last checkpoint, and checkpoints never go back. A damaged checkpoint ends the benchmark. Each fit has a cache
of its own, so that kills also meet a cache that is half full.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import common

Position = tuple[int, int, int, int]  # phase, fold (0 where there is none), epoch, step


@dataclass(frozen=True)
class Ended:
    """A fit that has come to its end: its kills, the positions of the checkpoints that they left, and its files."""

    kills: int
    found: tuple[Position | None, ...]
    repeated: int
    tensors: bytes
    history: list[dict[str, Any]]


def start(where: str, flags: list[str], out: Path, cache: Path, seconds: float | None) -> dict[str, Any] | None:
    """Run one fit; what it printed, or None if it was killed after so many seconds."""
    command = [sys.executable, "-m", "topgraft", "fit", where, *flags, "--out", str(out), "--cache-dir", str(cache)]
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen([*command, "--resume", "--json"], stdout=said, stderr=errors) as process,
    ):
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()  # this child alone, and it has no children
            process.wait()
            return None
        said.seek(0)
        errors.seek(0)
        if code:
            raise SystemExit(f"{' '.join(command)} ended with {code}: {errors.read()}")
        found: dict[str, Any] = json.loads(said.read())
        return found


def position_of(found: dict[str, Any] | None) -> Position | None:
    """``{"phase": 0, "epoch": 2, "step": 7}`` as a tuple that can be compared."""
    return (found["phase"], found.get("fold", 0), found["epoch"], found["step"]) if found else None


def checkpointed(out: Path) -> Position | None:
    """Where the checkpoint that is there continues; None if there is none.

    Raises:
        topgraft.CheckpointError: it is damaged.
    """
    from topgraft.system import files
    from topgraft.training import checkpoint

    found = checkpoint.read(files.checkpoint_file(out))
    return None if found is None else position_of(found.state["position"])


def files(out: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The tensors' file, and the history without its seconds."""
    lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    history = [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
    return (out / "model.safetensors").read_bytes(), history


def until_it_ends(
    where: str, flags: list[str], folder: Path, longest: float, most: int, chance: random.Random
) -> Ended:
    """Kill one fit, at most so many times, until it has ended."""
    from topgraft.errors import CheckpointError

    out, cache = folder / "run", folder / "cache"
    found: list[Position | None] = []
    repeated = 0
    while True:
        seconds = chance.uniform(0, longest) if len(found) < most else None
        ended = start(where, flags, out, cache, seconds)
        if ended is not None:
            break
        try:
            found.append(None if (out / "config.json").exists() else checkpointed(out))
        except CheckpointError as error:
            raise SystemExit(f"a kill has damaged the checkpoint: {error}") from error
    reached = [position for position in found if position is not None]
    repeated += sum(later < earlier for earlier, later in pairwise(reached))
    resumed = position_of(ended["resumed_from"])
    if found and found[-1] is not None:
        repeated += resumed != found[-1]
    tensors, history = files(out)
    epochs = Counter((record["phase"], record["epoch"]) for record in history if record["epoch"])
    repeated += sum(times - 1 for times in epochs.values())
    return Ended(len(found), tuple(found), repeated, tensors, history)


def main(arguments: list[str] | None = None) -> None:
    """Print how many fits ended in the same bytes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("where", nargs="?", default="digits", help="what fit takes")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--minutes", type=float, default=0.02, help="between checkpoints, besides each epoch's")
    parser.epilog = "What stands behind -- are flags of fit."
    given = sys.argv[1:] if arguments is None else arguments
    end = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:end])
    flags = [*given[end + 1 :], "--checkpoint-minutes", str(asked.minutes)]
    chance = random.Random(asked.seed)
    print(common.machine())
    print(f"topgraft fit {asked.where} {' '.join(flags)}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        began = time.perf_counter()
        start(asked.where, flags, whole / "run", whole / "cache", None)
        longest = time.perf_counter() - began
        tensors, history = files(whole / "run")
        print(f"not killed: {longest:.1f} s, {len(history)} records, {len(tensors):,} bytes of tensors", flush=True)
        fits: list[Ended] = []
        kills = 0
        while kills < asked.kills:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                fits.append(until_it_ends(asked.where, flags, Path(folder), longest, asked.kills - kills, chance))
            kills += fits[-1].kills
            same = "the same bytes" if fits[-1].tensors == tensors else "OTHER BYTES"
            print(f"fit {len(fits)}: {fits[-1].kills} kills at {fits[-1].found}: {same}", flush=True)
    identical = [fit for fit in fits if fit.tensors == tensors]
    resumed = sum(position is not None for fit in fits for position in fit.found)
    print(
        f"{kills} kills in {len(fits)} fits, {resumed} of them with a checkpoint to continue from, "
        f"{kills - resumed} before the first one or after the last\n"
        f"resumes whose fit ended in the same bytes: {sum(fit.kills for fit in identical)} of {kills}; "
        f"fits with the same history: {sum(fit.history == history for fit in fits)} of {len(fits)}\n"
        f"finished epochs that were run again: {sum(fit.repeated for fit in fits)}"
    )


if __name__ == "__main__":
    main()
