"""Load a fitted classifier from the folder of an artifact."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from topgraft.data.samples import SPLIT_NAMES, ImageSpec, SplitName, Unreadable
from topgraft.errors import ArtifactError, UsageError
from topgraft.evaluation.results import Cost, FittedClassifier
from topgraft.models.former_groups import are_former, translated, translated_config, translated_history
from topgraft.settings.former_names import with_option_names
from topgraft.strategies.history import History, epoch_from_json
from topgraft.system.files import HISTORY_FILE

from .config_file import HASHED, file_hash, read_config
from .folder import recover
from .results import DAMAGE, read_evaluation, read_results, read_text


def load(folder: Path) -> FittedClassifier:
    """The fitted classifier of an artifact, in evaluation mode on the CPU.

    Raises:
        ArtifactError: no artifact, a damaged one, or one from a newer version.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from topgraft.models.classifier import Classifier
    from topgraft.models.registry import find_network
    from topgraft.models.spec import Build, put_constants
    from topgraft.system.threads import aligned

    recover(folder)
    config = read_config(folder)
    try:
        _require_whole(folder, config)
        spec_fields = dict(config["image_spec"])
        spec_fields["mean"], spec_fields["std"] = tuple(spec_fields["mean"]), tuple(spec_fields["std"])
        spec = ImageSpec(**spec_fields)
        classes = tuple(config["classes"])
        backbone, build = find_network(config["backbone"]["name"]), Build(**config["backbone"]["build"])
        with torch.device("meta"):  # every value is replaced by the file's
            chain = backbone.build(build)
        put_constants(backbone, build, chain)
        classifier = Classifier(chain, spec)
        tensors = {key: aligned(tensor) for key, tensor in load_file(folder / "model.safetensors").items()}
        classifier.load_groups(translated(backbone.name, tensors))
        history = tuple(epoch_from_json(json.loads(line)) for line in read_text(folder / HISTORY_FILE).splitlines())
        config = with_option_names(config)
        if are_former(backbone.name, tensors):
            history, config = translated_history(backbone.name, history), translated_config(config)
        seen = _seen(read_text(folder / "images.csv"))
        unknown = config.get("changed_after_fit") or not config["data"]["images"]["val"]
        absent = unknown and "val" not in read_results(folder)
        validation = None if absent else read_evaluation(folder, "val", classes)
        unreadable = tuple(Unreadable(**entry) for entry in config["unreadable"])
        seconds = {name: float(value) for name, value in config["seconds"].items()}
    except (*DAMAGE, SafetensorError) as error:
        raise ArtifactError(f"{folder} is damaged ({type(error).__name__}: {error}); copy it again or refit") from error
    except UsageError as error:
        raise ArtifactError(
            f"{folder} needs a network that this Topgraft does not have ({error}): pip install --upgrade topgraft"
        ) from None
    written = ("format_version", "classes", "image_spec", "sha256", "config_sha256", "seconds", "unreadable")
    rest = {key: value for key, value in config.items() if key not in written}
    return FittedClassifier(
        classifier.eval(), classes, spec, rest, History(history), validation, seen, unreadable, Cost(seconds=seconds)
    )


def _seen(text: str) -> dict[str, SplitName]:
    seen: dict[str, SplitName] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if row["split"] not in SPLIT_NAMES or row["sha256"] is None:
            raise ValueError(f"images.csv names a split {row['split']!r}")
        seen[row["sha256"]] = cast("SplitName", row["split"])
    return seen


def _require_whole(folder: Path, config: Mapping[str, Any]) -> None:
    for name in HASHED:
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder} has no {name}; the artifact is not complete, copy it whole or refit")
        if file_hash(path) != config["sha256"].get(name):
            raise ArtifactError(
                f"{path} is not the file that was saved (its SHA-256 differs); copy the artifact again or refit"
            )
