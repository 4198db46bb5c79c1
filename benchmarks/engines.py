"""The frozen base on every engine and precision against eager float32: EfficientNet-Lite0 at 224 pixels, in one run.

    python -m benchmarks.engines                  # rates, ratios, share of the matrix-product rate, starts, decoding
    python -m benchmarks.engines --batch-sizes    # also how many images the network should see at a time

Eager float32 is what the usual loops run: batches of 32, channels first. The runs take turns, and a ratio is
taken between neighbors, so that the machine's noise meets both sides. Needs nothing but what Topgraft installs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks import common
from topgraft.data.loader import batches
from topgraft.data.samples import Sample
from topgraft.features import benchmark
from topgraft.features.benchmark import Spread, Work
from topgraft.features.engines import base, choose
from topgraft.features.engines.base import EngineChoice
from topgraft.models.classifier import Classifier, load_pretrained
from topgraft.models.summary import summarize
from topgraft.system.cores import usable_cores
from topgraft.system.hardware import has_bf16

_EAGER_BATCH = 32
_PHOTOS = 96  # decoded in one go
_BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# A process of its own: what a fit pays to have an engine. Torch and the network are there before.
_START = """
import json, sys, time
from pathlib import Path
from topgraft.features.engines import choose
from topgraft.models.classifier import load_pretrained
prefix = load_pretrained("efficientnet_lite0").prefix("stage7")
choice = choose.choose(sys.argv[1], sys.argv[2])
began = time.perf_counter()
choose.build_engine(choice, prefix, input_size=224, key="start", folder=Path(sys.argv[3]))
print(json.dumps(time.perf_counter() - began))
"""


def eager(classifier: Classifier) -> Work:
    """The usual loop's base."""
    prefix = classifier.prefix("stage7")
    side = classifier.spec.input_size
    pixels = torch.randint(0, 256, (_EAGER_BATCH, side, side, 3), dtype=torch.uint8)
    channels_first = classifier.normalise(pixels).contiguous()
    groups = torch.nn.Sequential(*[layer for name, layer in prefix.named_children() if name != "normalise"])

    def run(times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                groups(channels_first)

    return Work(run, _EAGER_BATCH)


def with_decoding(engine: base.Engine | None, classifier: Classifier, folder: Path) -> Work:
    """Photos from files to features; to pixels alone without an engine."""
    path = folder / "photo.jpg"
    path.write_bytes(benchmark.photo())
    samples = [Sample(str(number), None, path=path) for number in range(_PHOTOS)]
    size = 4 if engine is None else engine.choice.batch_size

    def run(times: int) -> None:
        for _ in range(times):
            decoded = batches(samples, classifier.spec, batch_size=size, workers=usable_cores())
            for _ in decoded if engine is None else engine.run(decoded):
                pass

    return Work(run, _PHOTOS)


def starts(choice: EngineChoice, runs: int) -> tuple[list[float], list[float]]:
    """Seconds to build an engine in a new process, its library's import included: with nothing kept, and kept."""
    first, second = [], []
    for _ in range(runs):
        folder = tempfile.mkdtemp()
        command = [sys.executable, "-c", _START, choice.name, choice.precision, folder]
        for seconds in (first, second):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(float(json.loads(done.stdout)))
        shutil.rmtree(folder)
    return first, second


def shown(values: list[float], unit: str, digits: int = 0) -> str:
    """``median unit (lowest to highest)``."""
    found = Spread.of(values)
    return f"{found.median:.{digits}f} {unit} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def label(choice: EngineChoice) -> str:
    """``openvino bf16 on cpu``."""
    return f"{choice.name} {choice.precision} on {choice.device}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one run")
    parser.add_argument("--batch-sizes", action="store_true")
    asked = parser.parse_args(arguments)
    print(common.machine())
    classifier = load_pretrained(benchmark.BACKBONE)
    side = classifier.spec.input_size
    prefix = classifier.prefix("stage7")
    work = summarize(benchmark.BACKBONE, side, 1000)
    multiply_adds = sum(layer.multiply_adds for layer in work.layers if layer.group != "head")
    choices = choose.possible()
    kinds = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if has_bf16() else {})}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def build(choice: EngineChoice) -> base.Engine:
            return choose.build_engine(choice, prefix, input_size=side, key="benchmark", folder=folder)

        built = [build(choice) for choice in choices]
        works = [eager(classifier), *(benchmark.matrix_product(kind) for kind in kinds.values())]
        works += [benchmark.running(engine, side) for engine in built]
        works += [with_decoding(None, classifier, folder), with_decoding(built[0], classifier, folder)]
        rates = benchmark.take_turns(works, seconds=asked.seconds, runs=asked.runs)
        plain, products, rest = rates[0], dict(zip(kinds, rates[1:], strict=False)), rates[1 + len(kinds) :]
        print(f"n = {asked.runs} runs of {asked.seconds:g} s; median (lowest to highest)")
        print(f"base: {multiply_adds / 1e6:.0f} million multiply-adds for one image")
        for name, found in products.items():
            print(f"matrix product {name}: {shown(found, 'GFLOP/s')}")
        print(f"eager fp32, batch {_EAGER_BATCH}: {shown(plain, 'images/s')}")
        for choice, found in zip(choices, rest, strict=False):
            ratios = [ours / theirs for ours, theirs in zip(found, plain, strict=True)]
            share = [
                100 * rate * 2 * multiply_adds / 1e9 / peak
                for rate, peak in zip(found, products[choice.precision], strict=True)
            ]
            print(
                f"{label(choice)}, batch {choice.batch_size}: {shown(found, 'images/s')}; "
                f"{shown(ratios, 'times eager', 1)}; {shown(share, '% of the product rate', 1)}"
            )
        decode, both = rest[len(choices) :]
        alone = rest[0]
        ideal = [1 / (1 / a + 1 / b) for a, b in zip(decode, alone, strict=True)]
        print(f"decode 500×375 JPEG: {shown(decode, 'images/s')}")
        print(
            f"decode and {label(choices[0])} together: {shown(both, 'images/s')}; "
            f"{median(both) / median(ideal):.2f} of what sharing the cores without loss would give"
        )
        if asked.batch_sizes:
            for choice in choices:
                works = [benchmark.running(build(replace(choice, batch_size=size)), side) for size in _BATCH_SIZES]
                found_by_size = benchmark.take_turns(works, seconds=asked.seconds, runs=asked.runs)
                for size, found in zip(_BATCH_SIZES, found_by_size, strict=True):
                    print(f"{label(choice)}, batch {size}: {shown(found, 'images/s')}")
    for choice in choices:
        if choice.device == "cpu":
            first, second = starts(choice, 3)
            print(f"start of {label(choice)}: first {shown(first, 's', 2)}, second {shown(second, 's', 2)}; n = 3")


if __name__ == "__main__":
    main()
