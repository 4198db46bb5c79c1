"""Results in an artifact: metrics.json, the logits of each split, and the model card that is made of them."""

from __future__ import annotations

import csv
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from topgraft.data.samples import SplitName, Unreadable
from topgraft.errors import ArtifactError
from topgraft.evaluation.chance import judged
from topgraft.evaluation.results import Evaluation
from topgraft.metrics import evaluate_logits
from topgraft.system.files import atomic_write

from .model_card import model_card

# What reading a damaged JSON, CSV, safetensors or NumPy file may raise; the fuzz test shows that it is all of it.
DAMAGE = (
    AttributeError, EOFError, LookupError, TypeError, ValueError, RuntimeError, csv.Error, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_results(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of an artifact: results by split.

    Raises:
        ArtifactError: it is damaged.
    """
    path = folder / "metrics.json"
    try:
        found = json.loads(read_text(path)) if path.is_file() else {}
        if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
            raise ValueError("it is not a mapping of splits to results")
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); copy the artifact again or refit") from None
    return found


def write_results(folder: Path, evaluation: Evaluation | None, config: Mapping[str, Any], name: str) -> None:
    """Add results, if there are any, to those that are there, and write the model card."""
    kept = read_results(folder)
    if evaluation is not None:
        _write_logits(folder, evaluation)
        kept[evaluation.split] = _entry(evaluation)
    try:
        card = model_card(name, config, kept)
    except DAMAGE as error:
        raise ArtifactError(f"{folder / 'metrics.json'} is damaged ({error}); refit, or copy it again") from error
    write_json(folder / "metrics.json", kept)
    with atomic_write(folder / "README.md") as file:
        file.write(card.encode())


def _write_logits(folder: Path, evaluation: Evaluation) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        logits=evaluation.logits,
        labels=evaluation.labels,
        names=np.array(evaluation.names, dtype=np.str_),
    )
    with atomic_write(folder / "logits" / f"{evaluation.split}.npz") as file:
        file.write(buffer.getvalue())


def _entry(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as ``metrics.json`` has it."""
    return {
        "where": evaluation.where,
        "used_for_selection": evaluation.used_for_selection,
        "before_refit": evaluation.before_refit,
        **asdict(evaluation.metrics),
        "largest_class": asdict(judged(evaluation)),
        "unreadable": [asdict(image) for image in evaluation.unreadable],
    }


def read_evaluation(folder: Path, split: SplitName, classes: tuple[str, ...]) -> Evaluation:
    path = folder / "logits" / f"{split}.npz"
    if not path.is_file():
        raise ArtifactError(f"{folder} has no logits/{split}.npz; the artifact is not complete, copy it whole or refit")
    # From memory: NumPy leaves a file open that turns out to be no archive.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        logits, labels = arrays["logits"], arrays["labels"]
        names = tuple(str(name) for name in arrays["names"])
    if (logits.dtype, labels.dtype, labels.shape) != (np.float32, np.int64, (len(names),)):
        raise ValueError(f"{path.name} holds {logits.dtype} and {labels.dtype} for {len(names)} images")
    entry = read_results(folder)[split]
    return Evaluation(
        split=split,
        used_for_selection=bool(entry["used_for_selection"]),
        names=names,
        logits=logits,
        labels=labels,
        classes=classes,
        metrics=evaluate_logits(logits, labels, classes),
        unreadable=tuple(Unreadable(**image) for image in entry["unreadable"]),
        where=str(entry["where"]),
        before_refit=bool(entry.get("before_refit", False)),
    )


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(
            f"{path.parent} has no {path.name}; the artifact is not complete, copy it whole or refit"
        ) from None


def write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
