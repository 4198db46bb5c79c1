"""The published network that a base was tuned from, with its own classifier, and which of its outputs a class is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from topgraft.data.samples import ImageSpec, Sample
from topgraft.errors import DataError, UsageError, WeightsError
from topgraft.models.classifier import Classifier
from topgraft.models.registry import find_network
from topgraft.models.spec import Build
from topgraft.models.weights.digest import file_sha256, weights_digest
from topgraft.models.weights.load import Network, load_network
from topgraft.models.weights.names import RANDOM
from topgraft.models.weights.published import WEIGHTS
from topgraft.system.formatting import listing

from .results import FittedClassifier


@dataclass(frozen=True, eq=False)
class PretrainedReference:
    """The published network that a base was tuned from.

    Attributes:
        backbone, weights: their names.
        classifier: on the CPU, in evaluation mode; None where there was no original task.
        answers: whether its head is the published top. If not, only features can be compared.
        why: what cannot be measured and why, one sentence; empty where everything can.
    """

    backbone: str
    weights: str
    classifier: Classifier | None
    answers: bool
    why: str = ""


def reference_of(
    model: FittedClassifier, weights: str | None = None, folder: Path | None = None
) -> PretrainedReference:
    """The published network that a fitted model's base was tuned from; see `find_reference`.

    Args:
        model: from `topgraft.fit` or `topgraft.load`.
        weights: the file of its weights, where they have moved.
        folder: of the cache, where downloads are kept.
    """
    backbone = model.config["backbone"]
    return find_reference(
        backbone["name"],
        Build(**backbone["build"]),
        model.spec,
        weights=backbone["weights"],
        sha256=backbone["weights_sha256"],
        asked=weights or model.config["settings"].get("weights"),
        folder=folder,
    )


def find_reference(
    backbone: str,
    build: Build,
    spec: ImageSpec,
    *,
    weights: str,
    sha256: str,
    asked: str | None = None,
    folder: Path | None = None,
) -> PretrainedReference:
    """The published network again, with its own top where that is one dense layer on the features of the base.

    Args:
        backbone: a name that `topgraft.models.registry.find_network` knows.
        build: of the tuned network.
        spec: how pixels are made for the tuned network; the original gets the same.
        weights: name of the weights that the base started from, as `topgraft.models.weights.load.Network` has it.
        sha256: of their file; empty where another package keeps it.
        asked: what the user gave for them: a name or a file, or None.
        folder: of the cache; `topgraft.system.files.cache_folder` if None.

    Raises:
        WeightsError: the file is gone, or holds something else now.
        DownloadError: published weights are not here, and cannot be downloaded.
    """
    record = find_network(backbone)
    if record.learn is not None:
        why = f"the base of {backbone} is learned from your own images, so it had no task before"
        return PretrainedReference(backbone, weights, None, False, why)
    if weights == RANDOM:
        return PretrainedReference(
            backbone, weights, None, False, "the weights were random at the start: no task was learned before"
        )
    given = _weights_again(weights, sha256, asked)
    top = _published_top(backbone, given, build, folder)
    network = top or load_network(
        backbone, given, input_size=build.input_size, classes=1, channels=build.channels, folder=folder
    )
    if sha256:
        _require_same(given, network.sha256, sha256)
    why = "" if top else f"the published top of {backbone} does not fit these features, so its answers cannot be asked"
    return PretrainedReference(backbone, weights, Classifier(network.chain, spec).eval(), top is not None, why)


def _weights_again(weights: str, sha256: str, asked: str | None) -> str | None:
    """What `load_network` takes for the weights that a model was fitted from."""
    if asked is not None and (file := Path(asked).expanduser()).is_file():
        if sha256:  # before it is read: other weights may not even fit
            _require_same(asked, file_sha256(file), sha256)
        return asked
    if weights in WEIGHTS:
        return weights
    if not sha256:  # another package keeps them
        return None
    raise WeightsError(
        f"{asked or weights}, the weights that the model was fitted from, is no longer there; give the file "
        f"with --weights (its SHA-256 is {sha256})"
    )


def _require_same(given: str | None, found: str, sha256: str) -> None:
    if found != sha256:
        raise WeightsError(
            f"{given} is not the file that the model was fitted from: its SHA-256 should be {sha256} and is {found}. "
            "Give that file with --weights"
        )


def _published_top(backbone: str, given: str | None, build: Build, folder: Path | None) -> Network | None:
    """The network with its published top; None where that is not one dense layer, or takes another size."""
    try:
        network = load_network(backbone, given, input_size=build.input_size, channels=build.channels, folder=folder)
    except UsageError:  # what is wrong with the name is found again by the caller
        return None
    return network if isinstance(network.chain["head"], nn.Linear) else None


def base_state(classifier: Classifier) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the groups before the head, by the chain's names."""
    return {key: value for key, value in classifier.groups.state_dict().items() if not key.startswith("head.")}


def untouched(classifier: Classifier, original: PretrainedReference) -> bool:
    """Whether the base is bit for bit the original one."""
    if original.classifier is None:
        return False
    return weights_digest(base_state(classifier)) == weights_digest(base_state(original.classifier))


def output_indices(classes: Sequence[str], outputs: int) -> tuple[int, ...]:
    """The output of the original classifier that each class of a source is.

    Names that are all whole numbers from 0 to outputs - 1 are the outputs. Else, where there are exactly as many
    classes as outputs, they are the outputs in the order of their names: the convention of torchvision's ImageFolder,
    by which ImageNet's classes are numbered (https://docs.pytorch.org/vision/stable/datasets.html).

    Raises:
        UsageError: neither; the message says what is needed.
    """
    numbers = [int(name) if name.isascii() and name.isdecimal() else -1 for name in classes]
    if all(0 <= number < outputs for number in numbers):
        return tuple(numbers)
    if len(set(classes)) == outputs and any(number < 0 for number in numbers):
        place = {name: number for number, name in enumerate(sorted(classes))}
        return tuple(place[name] for name in classes)
    raise UsageError(
        f"the source's {len(classes):,} classes ({listing(classes, 4)}) cannot be matched with the {outputs:,} outputs "
        f"of the original classifier. Name each class by the number of its output, 0 to {outputs - 1} (as folders, or "
        f"in a CSV with the columns file,class_index), or give exactly {outputs:,} classes, which are taken in the "
        "order of their names"
    )


def source_samples(
    samples: Sequence[Sample], classes: Sequence[str], original: PretrainedReference
) -> tuple[Sample, ...]:
    """Labeled images of the original task, with labels that count the outputs of the original classifier.

    Raises:
        UsageError: see `output_indices`; or the original has no classifier.
        DataError: there are no images.
    """
    if original.classifier is None or not original.answers:
        raise UsageError(f"no accuracy on the original task can be measured: {original.why}; leave the source out")
    if not samples:
        raise DataError("the source holds no images that can be read; give labeled images of the original task")
    outputs = output_indices(classes, original.classifier.head.out_features)
    return tuple(replace(s, label=None if s.label is None else outputs[s.label]) for s in samples)
