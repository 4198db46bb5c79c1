"""Training from nothing as the notes do: their VGG16 and ResNet50 at 32×32, here and in Keras, in one run.

    python -m benchmarks.notes --keras PYTHON     # a Python that has keras and tensorflow

Two ratios of images a second, never mixed: what Topgraft does unless asked against the notebook as it stands (Keras in
float32), and both in bfloat16 (Keras's policy ``mixed_bfloat16``). Both sides take the same number of Adam steps on the
same number of random images, with the networks, the penalty and the optimizer of the notes. Each run is one epoch,
after a few steps that warm up; the runs take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks import common

NETWORKS = {"vgg16": "vgg16", "resnet50": "resnet50_notes"}
CLASSES = 100


def ours(network: str, batch: int, images: int, precision: str) -> float:
    """Images a second of `topgraft.training.sgd.epochs.run_phase`; called in a process of its own."""
    import numpy as np

    from topgraft.data.pixel_cache import open_pixels
    from topgraft.data.samples import Sample
    from topgraft.models import freeze
    from topgraft.models.classifier import Classifier
    from topgraft.models.registry import find_backbone
    from topgraft.models.weights.load import load_network
    from topgraft.strategies.plan import Phase, Rule, table
    from topgraft.system import progress
    from topgraft.training.inputs import PixelInputs
    from topgraft.training.sgd.epochs import run_phase
    from topgraft.training.sgd.step import StepChoices

    name = NETWORKS[network]
    loaded = load_network(name, "random", input_size=32, classes=CLASSES)
    classifier = Classifier(loaded.chain, loaded.spec)
    generator = np.random.default_rng(0)
    samples = [
        Sample(str(k), k % CLASSES, array=generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        for k in range(images)
    ]
    pixels = open_pixels(samples, loaded.spec, workers=0, keep=True, description="decode")
    everything = np.arange(images)
    rules = (Rule("*", 1.0),)
    rows = table(tuple(classifier.groups), rules)
    freeze.apply(dict(classifier.groups.items()), rows)
    choices = StepChoices(
        "adam", batch, precision, "cpu", l2=find_backbone(name).l2, updates_batchnorm=True, stalled="ignore"
    )
    with progress.quiet():
        (record,) = run_phase(
            classifier,
            Phase("full", rules, 1, 1e-4),
            0,
            rows,
            PixelInputs(pixels),
            everything,
            everything[:1],
            choices,
        )
    return images / record.seconds


def main(arguments: list[str] | None = None) -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keras", metavar="PYTHON", help="interpreter that has keras and tensorflow")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        network, batch, precision = asked.one
        print(json.dumps(ours(network, int(batch), asked.images, precision)))
        return
    if asked.keras is None:
        print("skipped: --keras names a Python that has keras and tensorflow")
        return
    from topgraft.features.engines.choose import choose

    default = choose("torch", device="cpu").precision
    print(common.machine())
    us = [sys.executable, "-m", "benchmarks.notes"]
    peer = str(Path(__file__).with_name("keras_notes.py"))
    for network in NETWORKS:
        for batch in (32, 128):
            commands = {
                f"topgraft {precision}": [*us, "--images", str(asked.images), "--one", network, str(batch), precision]
                for precision in dict.fromkeys((default, "bf16"))
            }
            commands |= {
                "keras float32": [asked.keras, peer, network, str(batch), str(asked.images), "float32"],
                "keras mixed_bfloat16": [asked.keras, peer, network, str(batch), str(asked.images), "mixed_bfloat16"],
            }
            rates: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(asked.runs):
                for name, command in commands.items():
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    rates[name].append(float(json.loads(done.stdout.splitlines()[-1])))
            print(f"{network}, batch {batch}:", flush=True)
            for mine, peer_name in (
                (f"topgraft {default}", "keras float32"),
                ("topgraft bf16", "keras mixed_bfloat16"),
            ):
                ratios = [a / b for a, b in zip(rates[mine], rates[peer_name], strict=True)]
                print(
                    f"  {mine} {_shown(rates[mine])} images/s, {peer_name} {_shown(rates[peer_name])}: "
                    f"{_shown(ratios, 2)} times as fast",
                    flush=True,
                )
    print(f"n = {asked.runs} runs of {asked.images} images; median (lowest to highest)")


def _shown(values: list[float], digits: int = 0) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
