"""Every strategy on sets that are near to ImageNet and far from it: accuracy, seconds, and what is forgotten.

    TOPGRAFT_DATA=… python -m benchmarks.strategies                      # all sets, strategies and three seeds
    TOPGRAFT_DATA=… python -m benchmarks.strategies --sets sign-digits --seeds 0 --backbone resnet50_v1 --weights F

Accuracy is on the test images where the set has some, which chose nothing; on hymenoptera it is on the validation
images, which did. Forgetting is the top-1 lost on 1,000 labeled ImageNet images, under the published classifier.
Features of the published base are cached by the first strategy; the seconds of the others are without them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import zipfile
from pathlib import Path

from benchmarks import common
from benchmarks.fit import timed

SETS: dict[str, tuple[str, list[str]]] = {
    "hymenoptera": ("hymenoptera", []),
    "sign-digits": ("sign-digits/Dataset", []),
    "cifar10-500": ("cifar10", ["--limit", "500"]),
    "cifar10-5000": ("cifar10", ["--limit", "5000"]),
}
STRATEGIES: dict[str, list[str]] = {
    "head": [],
    "partial": [],
    "full": ["--epochs", "5"],
    "auto": [],
}


def main(arguments: list[str] | None = None) -> None:
    """Print one row for each fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", default="5m", help="of auto")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights")
    asked = parser.parse_args(arguments)
    if "TOPGRAFT_DATA" not in os.environ:
        print("skipped: set TOPGRAFT_DATA to a folder that holds data/*.zip")
        return
    data = Path(os.environ["TOPGRAFT_DATA"], "data")
    print(common.machine())
    print(f"{asked.backbone}; top-1 in % with its 95 % interval; budget of auto {asked.budget}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in {*(SETS[chosen][0].split("/")[0] for chosen in asked.sets), "imagenet-val-1000"}:
            with zipfile.ZipFile(data / f"{name}.zip") as archive:
                archive.extractall(scratch)
        network = ["--backbone", asked.backbone, *(["--weights", asked.weights] if asked.weights else [])]
        for chosen in asked.sets:
            where, extra = SETS[chosen]
            for seed in asked.seeds:
                for strategy in asked.strategies:
                    own = ["--budget", asked.budget] if strategy == "auto" else STRATEGIES[strategy]
                    row(Path(scratch), chosen, where, [*network, *extra], strategy, own, seed)


def row(scratch: Path, name: str, where: str, given: list[str], strategy: str, own: list[str], seed: int) -> None:
    """Fit, evaluate, measure what is forgotten, print."""
    root, cache = str(scratch / where), ["--cache-dir", f"{scratch}/cache"]
    out = f"{scratch}/{name}-{strategy}-{seed}"
    fit = ["topgraft", "fit", root, *given, *cache, "--strategy", strategy, *own, "--seed", str(seed), "--out", out]
    seconds, result = timed([*fit, "--json"])
    shown = dict(result["top1"])  # type: ignore[call-overload]
    on = "validation"
    if name != "hymenoptera":
        limit = given[given.index("--limit") :][:2] if "--limit" in given else []
        _, tested = timed(["topgraft", "evaluate", out, root, *limit, *cache, "--json"])
        shown, on = dict(tested["top1"]), "test"  # type: ignore[call-overload]
    source = str(scratch / "imagenet-val-1000" / "labels.csv")
    _, lost = timed(["topgraft", "forgetting", out, "--source", source, *cache, "--json"])
    config = json.loads(Path(out, "config.json").read_text(encoding="utf-8"))
    kept = config["selection"]
    print(
        f"{name:<13} {strategy:<8} seed {seed}: {on} {100 * shown['value']:.1f} "
        f"({100 * shown['low']:.1f} to {100 * shown['high']:.1f}, n = {shown['n']}); {seconds:.0f} s; "
        f"forgotten {lost['lost']:.1f} points; kept {kept['phase']}"
        + (f", epoch {kept['epoch']}" if "epoch" in kept else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
