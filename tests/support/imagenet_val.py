"""The labeled ImageNet images of `TOPGRAFT_DATA`, and how many of them a network gets right."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from topgraft.data.loader import batches
from topgraft.data.samples import Sample
from topgraft.features.engines import choose
from topgraft.metrics import hits
from topgraft.models.classifier import Classifier
from topgraft.models.weights.load import Network


def count_right(network: Network, images: Path, resize_size: int, cache: Path) -> tuple[int, int]:
    """Top-1 and top-5 hits among the 1,000 images, in float32.

    Args:
        network: with its published top.
        images: the folder ``imagenet-val-1000``.
        resize_size: of the shorter side, before the crop.
        cache: a folder for what the engine compiles.
    """
    with (images / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    samples = [Sample(row["file"], int(row["class_index"]), path=images / row["file"]) for row in rows]
    assert len(samples) == 1000
    spec = replace(network.spec, resize_size=resize_size)
    classifier = Classifier(network.chain, spec).eval()
    choice = replace(choose.choose(precision="fp32", device="cpu"), threads=2)
    engine = choose.build_engine(
        choice, classifier.prefix("head"), input_size=spec.input_size, key=network.sha256, folder=cache
    )
    logits = np.zeros((len(samples), network.build.classes), dtype=np.float32)
    for indices, part in engine.run(batches(samples, spec, batch_size=50, workers=2)):
        logits[indices] = part
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    return hits(logits, labels, 1), hits(logits, labels, 5)
