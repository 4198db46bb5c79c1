"""Notice that a user has trained a model on since its fit, and drop the results of its former weights."""

from __future__ import annotations

from dataclasses import replace

from topgraft.models.weights.digest import fingerprint
from topgraft.system import progress

from .results import FittedClassifier

NOTE = (
    "the classifier was changed after the fit: the validation results were of other weights and are left out; settings "
    "and history are those of the fit. Evaluate it on images that it has not seen"
)

_OF_FORMER_WEIGHTS = ("largest_class", "forgetting", "trade", "auto", "kept")  # in the config


def without_former_results(fitted: FittedClassifier) -> FittedClassifier:
    """The model itself, or, where its weights are no longer those of its results, the model without them; that is said.

    The fit has recorded the weights' SHA-256 in the config, as ``classifier_sha256``; of an artifact that is older
    than this record nothing is known, and its results stay.
    """
    recorded = fitted.config.get("classifier_sha256")
    if recorded is None:
        return fitted
    found = fingerprint(fitted.classifier.groups)
    if found == recorded:
        return fitted
    progress.note(f"note: {NOTE}")
    notes = [note for note in fitted.config["notes"] if note != NOTE]
    config = {
        **fitted.config,
        **{name: None for name in _OF_FORMER_WEIGHTS if name in fitted.config},
        "classifier_sha256": found,
        "changed_after_fit": True,
        "notes": [*notes, NOTE],
    }
    return replace(fitted, validation=None, config=config)
