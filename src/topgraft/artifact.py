"""Save a fitted classifier as one folder, and load it. Safetensors, JSON, CSV and plain arrays; nothing is pickled.

config.json         backbone, weights, ImageSpec, classes, settings, resolved choices, seed, versions
model.safetensors   the classifier's tensors
metrics.json        results by split, each number with its n and interval where it has one
history.jsonl       one line per epoch or solve
images.csv          content hash and split of every image of the source
logits/SPLIT.npz    per-image logits, labels and names
README.md           the model card
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from .card import model_card
from .errors import ArtifactError, UsageError
from .folders import atomic_write, replace
from .metrics import measure
from .records import (
    SPLIT_NAMES,
    Cost,
    EpochRecord,
    Evaluation,
    Fitted,
    ImageSpec,
    Interval,
    SplitName,
    Unreadable,
)

FORMAT_VERSION = 1


def check_target(folder: Path, overwrite: bool) -> None:
    """Whether an artifact may be written there; asked before the work.

    Raises:
        UsageError: it exists and is not empty, and `overwrite` was not asked for; or it is no artifact.
    """
    _recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder for the artifact")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{folder} exists and is not empty; give another folder, or --overwrite to replace it")
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} holds files and is no Topgraft artifact; it will not be replaced. Give another folder"
        )


def save(fitted: Fitted, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the artifact: whole or not at all. Returns the folder.

    It is written beside its place and then renamed, so that after a kill or a full disk the previous
    artifact is whole.

    Raises:
        UsageError: see `check_target`.
    """
    from safetensors.torch import save_file

    check_target(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp makes it private; an artifact is as open as any other result
        save_file(
            {key: tensor.contiguous() for key, tensor in fitted.classifier.groups.state_dict().items()},
            draft / "model.safetensors",
        )
        config = {
            "format_version": FORMAT_VERSION,
            **fitted.config,
            "classes": list(fitted.classes),
            "image_spec": asdict(fitted.spec),
            "model_sha256": _hash(draft / "model.safetensors"),
            "seconds": dict(fitted.cost.seconds),
            "unreadable": [asdict(entry) for entry in fitted.unreadable],
        }
        _write_json(draft / "config.json", config)
        shutil.copymode(draft / "config.json", draft / "model.safetensors")  # safetensors makes it private
        with (draft / "history.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(asdict(record)) + "\n" for record in fitted.history)
        with (draft / "images.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sha256", "split"])
            writer.writerows(fitted.seen.items())
        _write_results(draft, fitted.validation, config)
        if folder.exists():
            previous = _previous(folder)
            shutil.rmtree(previous, ignore_errors=True)
            replace(folder, previous)
        replace(draft, folder)
        shutil.rmtree(_previous(folder), ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        _recover(folder)
        raise
    return folder


def add_results(folder: Path, evaluation: Evaluation) -> None:
    """Keep an evaluation's logits and metrics in an artifact, beside those it has, and renew the model card."""
    _write_results(folder, evaluation, read_config(folder))


def load(folder: Path) -> Fitted:
    """The fitted classifier of an artifact, in evaluation mode on the CPU.

    Raises:
        ArtifactError: no artifact, a damaged one, or one from a newer version.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .backbones import Build
    from .classifier import Classifier
    from .networks import find_network

    _recover(folder)
    config = read_config(folder)
    model = folder / "model.safetensors"
    if not model.is_file():
        raise ArtifactError(
            f"{folder} has no model.safetensors; the artifact is not complete, fit again or copy it whole"
        )
    if _hash(model) != config.get("model_sha256"):
        raise ArtifactError(
            f"{model} is not the file that was saved (its SHA-256 differs); copy the artifact again or refit"
        )
    try:
        spec_fields = dict(config["image_spec"])
        spec_fields["mean"], spec_fields["std"] = tuple(spec_fields["mean"]), tuple(spec_fields["std"])
        spec = ImageSpec(**spec_fields)
        classes = tuple(config["classes"])
        with torch.device("meta"):  # every value is replaced by the file's
            chain = find_network(config["backbone"]["name"]).build(Build(**config["backbone"]["build"]))
        classifier = Classifier(chain, spec)
        classifier.groups.load_state_dict(load_file(model), assign=True)
        history = tuple(_epoch(json.loads(line)) for line in _read(folder / "history.jsonl").splitlines())
        seen = _seen(_read(folder / "images.csv"))
        validation = _results(folder, "val", classes)
        unreadable = tuple(Unreadable(**entry) for entry in config["unreadable"])
        seconds = dict(config["seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{folder} is damaged ({type(error).__name__}: {error}); copy it again or refit") from error
    written = ("format_version", "classes", "image_spec", "model_sha256", "seconds", "unreadable")
    rest = {key: value for key, value in config.items() if key not in written}
    return Fitted(classifier.eval(), classes, spec, rest, history, validation, seen, unreadable, Cost(seconds=seconds))


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of an artifact.

    Raises:
        ArtifactError: no artifact, a damaged one, or one from a newer version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is no Topgraft artifact: there is no config.json in it; give the folder that fit made"
        )
    try:
        config = json.loads(_read(path))
        version = config["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); copy the artifact again or refit") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        maker = config.get("versions", {}).get("topgraft", "?")
        raise ArtifactError(
            f"{folder} has format {version}, made by a newer Topgraft ({maker}); "
            f"this one reads up to format {FORMAT_VERSION}: pip install --upgrade topgraft"
        )
    return cast("dict[str, Any]", config)


def results(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of an artifact: results by split."""
    path = folder / "metrics.json"
    return cast("dict[str, Any]", json.loads(_read(path))) if path.is_file() else {}


def _write_results(folder: Path, evaluation: Evaluation, config: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        logits=evaluation.logits,
        labels=evaluation.labels,
        names=np.array(evaluation.names, dtype=np.str_),
    )
    with atomic_write(folder / "logits" / f"{evaluation.split}.npz") as file:
        file.write(buffer.getvalue())
    entry = {"used_for_selection": evaluation.used_for_selection, **asdict(evaluation.metrics)}
    entry["unreadable"] = [asdict(image) for image in evaluation.unreadable]
    kept = results(folder) | {evaluation.split: entry}
    _write_json(folder / "metrics.json", kept)
    with atomic_write(folder / "README.md") as file:
        file.write(model_card(folder.name.strip("."), config, kept).encode())


def _results(folder: Path, split: SplitName, classes: tuple[str, ...]) -> Evaluation:
    path = folder / "logits" / f"{split}.npz"
    if not path.is_file():
        raise ArtifactError(f"{folder} has no logits/{split}.npz; the artifact is not complete, copy it whole or refit")
    with np.load(path, allow_pickle=False) as arrays:
        logits, labels = arrays["logits"], arrays["labels"]
        names = tuple(str(name) for name in arrays["names"])
    entry = results(folder)[split]
    return Evaluation(
        split=split,
        used_for_selection=bool(entry["used_for_selection"]),
        names=names,
        logits=logits,
        labels=labels,
        classes=classes,
        metrics=measure(logits, labels, classes),
        unreadable=tuple(Unreadable(**image) for image in entry["unreadable"]),
    )


def _epoch(entry: dict[str, Any]) -> EpochRecord:
    if entry["val_top1"] is not None:
        entry["val_top1"] = Interval(**entry["val_top1"])
    return EpochRecord(**entry)


def _seen(text: str) -> dict[str, SplitName]:
    seen: dict[str, SplitName] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if row["split"] not in SPLIT_NAMES or row["sha256"] is None:
            raise ValueError(f"images.csv names a split {row['split']!r}")
        seen[row["sha256"]] = cast("SplitName", row["split"])
    return seen


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path.parent} has no {path.name}; the artifact is not complete, copy it whole or refit"
        ) from error


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _recover(folder: Path) -> None:
    """Put back the artifact that an overwrite had moved aside when it was killed between its two renames."""
    previous = _previous(folder)
    if previous.exists() and not folder.exists():
        replace(previous, folder)
