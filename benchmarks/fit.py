"""`topgraft fit` against the usual tutorial loop: the same photos, network and weights, whole processes, in one run.

    TOPGRAFT_DATA=… python -m benchmarks.fit                   # hymenoptera, 398 photos
    TOPGRAFT_DATA=… python -m benchmarks.fit --set photos      # 3,400 photos of 13 classes

Cold: an empty cache. Warm: the same fit again. The peer runs five epochs with a frozen base; see `tutorial_loop`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median

from benchmarks import common


def unpack(target: Path, name: str) -> Path:
    """A folder with train/ and val/ of class folders."""
    data = Path(os.environ["TOPGRAFT_DATA"], "data")
    sets = {"hymenoptera": ["hymenoptera"], "photos": ["hymenoptera", "sign-digits", "imagenet-val-1000"]}[name]
    for part in sets:
        with zipfile.ZipFile(data / f"{part}.zip") as archive:
            archive.extractall(target)
    if name == "hymenoptera":
        return target / "hymenoptera"
    flat = target / "flat"
    for folder in [*(target / "hymenoptera").glob("*/*"), *(target / "sign-digits" / "Dataset").iterdir()]:
        for path in folder.iterdir():
            _move(path, flat / folder.name)
    for path in (target / "imagenet-val-1000").glob("*.jpeg"):
        _move(path, flat / "other")
    import topgraft as tg

    splits = tg.open_images(flat)
    root = target / "photos"
    for split, samples in (("train", splits.train), ("val", (*splits.val, *splits.test))):
        for sample in samples:
            assert sample.path is not None
            assert sample.label is not None
            _move(sample.path, root / split / splits.classes[sample.label])
    return root


def _move(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.move(path, folder / path.name)


def timed(command: list[str]) -> tuple[float, dict[str, object]]:
    """Wall seconds of a whole process, and the JSON object that it printed."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=("hymenoptera", "photos"), default="hymenoptera")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="of the loop; the tutorial itself has 4")
    asked = parser.parse_args(arguments)
    if "TOPGRAFT_DATA" not in os.environ:
        print("skipped: set TOPGRAFT_DATA to a folder that holds data/*.zip")
        return
    print(common.machine())
    cold, warm, peer, parts = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        root = unpack(Path(scratch), asked.set)
        for run in range(asked.runs):
            fit = [
                "topgraft",
                "fit",
                str(root),
                "--strategy",
                "head",
                "--out",
                f"{scratch}/out{run}",
                "--cache-dir",
                f"{scratch}/cache{run}",
            ]
            seconds, result = timed([*fit, "--json"])
            cold.append(seconds)
            parts.append(result["seconds"])
            seconds, again = timed([*fit, "--json", "--overwrite"])
            warm.append(seconds)
            assert again["top1"] == result["top1"]
            seconds, other = timed(["benchmarks.tutorial_loop", str(root), str(asked.epochs), str(asked.batch)])
            peer.append(seconds)
            print(
                f"run {run + 1}: cold {cold[-1]:.2f} s, warm {warm[-1]:.2f} s, tutorial loop {peer[-1]:.1f} s",
                flush=True,
            )
    print(f"set {asked.set}; n = {asked.runs} runs; the loop: {asked.epochs} epochs, batches of {asked.batch}")
    print(f"topgraft validation top-1 {result['top1']}; tutorial loop (best of its epochs) {other['top1']:.4f}")
    for name, ours in (("cold", cold), ("warm", warm)):
        ratios = [b / a for a, b in zip(ours, peer, strict=True)]
        print(
            f"{name}: {median(ours):.2f} s ({min(ours):.2f} to {max(ours):.2f}), loop {median(peer):.1f} s: "
            f"{median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})"
        )
    print("seconds of the last cold run by part:", json.dumps(parts[-1]))


if __name__ == "__main__":
    main()
