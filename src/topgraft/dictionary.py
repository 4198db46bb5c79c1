"""Learn a base from training images, where none is published: before it is run, and from a sample of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from . import progress
from .backbones import Backbone
from .classifier import Classifier
from .dataset import batches
from .features import decoding_threads
from .records import Sample

_IMAGES = 250  # more say little more about what local descriptors look like, and take as long as the base itself
_BATCH = 16


def learn_base(
    network: Backbone, classifier: Classifier, samples: Sequence[Sample], *, workers: int | None, seed: int
) -> None:
    """Learn the classifier's base in place.

    Images that cannot be decoded are passed over here; whoever runs the base on them names them.

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
