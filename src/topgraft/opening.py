"""The network that a fit starts from: its base with weights, and a new head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from . import progress, settings
from .classifier import Classifier
from .dictionary import learn_base
from .errors import WeightsError
from .networks import find_network
from .records import Sample
from .weights import IMAGENET, LEARNT, Network, load_network


def open_network(
    chosen: settings.NetworkSettings,
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
        decode: how pixels are decoded; see `topgraft.records.ImageSpec`.
        classes: outputs of the head.
        train: images that a baseline's base is learnt from.
        seed: of what is drawn.
        lap: notes the seconds of the parts; see `topgraft.fitting.laps`.
        sha256: what the file of weights must have; any if empty.

    Raises:
        WeightsError: it has another one; see also `topgraft.weights.load_network`.
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
            f"with {network.sha256[:12]}, not with {sha256[:12]}; bring the file back, or give --weights to fit anew "
            "with these"
        )
    if chosen.weights == IMAGENET:
        progress.note(f"weights imagenet: {network.weights}, the default of {chosen.backbone}")
    classifier = Classifier(network.chain, replace(network.spec, decode=decode)).eval()
    note = lap or (lambda _: None)
    note("network")
    if network.weights == LEARNT:
        learn_base(record, classifier, train, workers=chosen.workers, seed=seed)
        note("dictionary")
    return network, classifier
