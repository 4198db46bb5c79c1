"""Build a classifier for a fit: open the backbone with its weights and give it a head of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from topgraft.data.loader import batches, decoding_threads
from topgraft.data.samples import Sample
from topgraft.errors import WeightsError
from topgraft.models.weights.load import Network, load_network
from topgraft.models.weights.names import IMAGENET, LEARNED
from topgraft.system import progress

from .classifier import Classifier
from .registry import find_network
from .spec import Backbone

_IMAGES = 250  # more say little more about what local descriptors look like, and take as long as the base itself
_BATCH = 16


def learn_codebook(
    network: Backbone, classifier: Classifier, samples: Sequence[Sample], *, workers: int | None, seed: int
) -> None:
    """Learn the classifier's base in place.

    Images that cannot be decoded are skipped here; they are named when the base is run.

    Args:
        network: whose `learn` is called; it has one.
        classifier: on the CPU, in evaluation mode.
        samples: the training images; up to 250 of them are drawn.
        workers: decoding threads; one per usable core if None.
        seed: of the draw, and of what the network draws from it.

    Raises:
        DataError: the images are too few, or too small.
    """
    assert network.learn is not None
    count = min(_IMAGES, len(samples))
    drawn = np.sort(np.random.default_rng(seed).choice(len(samples), count, replace=False))
    threads = decoding_threads(workers)
    with progress.bar("dictionary", count) as bar:

        def pixels() -> Iterator[torch.Tensor]:
            chosen = [samples[index] for index in drawn]
            for batch in batches(chosen, classifier.spec, batch_size=_BATCH, workers=threads):
                if len(batch.indices):
                    with torch.no_grad():
                        yield classifier.normalise(batch.pixels)
                bar.advance(len(batch.indices) + len(batch.failed))

        network.learn(dict(classifier.groups.items()), pixels(), count, seed)


class NetworkOptions(Protocol):
    """Which network, with which weights, and what reads its images: a part of a fit's settings."""

    @property
    def backbone(self) -> str: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def input_size(self) -> int | None: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def cache_dir(self) -> Path | None: ...


def build_classifier(
    chosen: NetworkOptions,
    decode: Any,
    classes: int,
    train: Sequence[Sample],
    seed: int = 0,
    lap: Callable[[str], None] | None = None,
    sha256: str = "",
) -> tuple[Network, Classifier]:
    """The network with its weights and a new head, and the classifier of it, in evaluation mode.

    Args:
        chosen: which network, and with which weights.
        decode: how pixels are decoded; see `topgraft.data.samples.ImageSpec`.
        classes: outputs of the head.
        train: images that a baseline's base is learned from.
        seed: of what is drawn.
        lap: notes the seconds of the parts; see `topgraft.system.timing.stopwatch`.
        sha256: what the file of weights must have; any if empty.

    Raises:
        WeightsError: it has another one; see also `topgraft.models.weights.load.load_network`.
    """
    record = find_network(chosen.backbone)
    network = load_network(
        chosen.backbone,
        chosen.weights,
        input_size=chosen.input_size,
        classes=classes,
        seed=seed,
        folder=chosen.cache_dir,
    )
    if sha256 and network.sha256 != sha256:
        raise WeightsError(
            f"the weights {network.weights} are not those that the run of --config began with: their SHA-256 begins "
            f"with {network.sha256[:12]}, not with {sha256[:12]}; bring the file back, or give --weights to fit again "
            "with these"
        )
    if chosen.weights == IMAGENET:
        progress.note(f"weights imagenet: {network.weights}, the default of {chosen.backbone}")
    classifier = Classifier(network.chain, replace(network.spec, decode=decode)).eval()
    note = lap or (lambda _: None)
    note("network")
    if network.weights == LEARNED:
        learn_codebook(record, classifier, train, workers=chosen.workers, seed=seed)
        note("dictionary")
    return network, classifier
