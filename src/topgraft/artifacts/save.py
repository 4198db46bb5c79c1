"""Save a fitted classifier as one folder, and load it. Safetensors, JSON, CSV and plain arrays; nothing is pickled.

config.json         backbone, weights, ImageSpec, classes, settings, resolved choices, seed, versions
model.safetensors   the classifier's tensors
metrics.json        results by split, each number with its n and interval where it has one
history.jsonl       one line per epoch or solve
images.csv          content hash and split of every image of the source
logits/SPLIT.npz    per-image logits, labels and names
README.md           the model card

Next to them, checkpoint.safetensors is the state of a fit that has not come to its end
(`topgraft.training.checkpoint`), and
history.jsonl, or history.unfinished.jsonl where an artifact is there, its history until then
(`topgraft.training.history_file`).
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from topgraft.evaluation.results import Evaluation, FittedClassifier
from topgraft.strategies.history import line_of
from topgraft.system.files import HISTORY_FILE, checkpoint_file, link, replace

from .config_file import FORMAT_VERSION, HASHED, file_hash, hash_of, read_config
from .folder import previous_folder, recover, require_free
from .results import read_results, write_json, write_results


def save(fitted: FittedClassifier, folder: Path, *, overwrite: bool = False, keep_checkpoint: bool = False) -> Path:
    """Write the artifact: whole or not at all. Returns the folder.

    It is written next to its place and then renamed, so that after a kill or a full disk the previous
    artifact is whole. It takes the place of an unfinished fit, whose checkpoint is gone then.

    Args:
        fitted: the model; see `topgraft.evaluation.retrained` for what is saved where its weights were changed after
            the fit.
        folder: where.
        overwrite: replace a finished artifact that is there.
        keep_checkpoint: leave the checkpoint that is there, for a fit that was stopped: its config says
            ``"finished": false``, and `check_target` with `resume` lets it continue.

    Raises:
        UsageError: see `check_target`.
        OSError: as the system says; the previous artifact is whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from topgraft.evaluation.retrained import without_former_results

    require_free(folder, overwrite, resume=True)
    fitted = without_former_results(fitted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp makes it private; an artifact is as open as any other result
        tensors = {key: tensor.contiguous() for key, tensor in fitted.classifier.groups.state_dict().items()}
        try:
            save_file(tensors, draft / "model.safetensors")
        except SafetensorError as error:  # what it says of a full disk, which is not an OSError of Python's
            raise OSError(f"{folder} cannot be written: {error}") from None
        with (draft / HISTORY_FILE).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(map(line_of, fitted.history))
        with (draft / "images.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sha256", "split"])
            writer.writerows(fitted.seen.items())
        shutil.copymode(draft / "images.csv", draft / "model.safetensors")  # safetensors makes it private
        config = {
            "format_version": FORMAT_VERSION,
            **fitted.config,
            "classes": list(fitted.classes),
            "image_spec": asdict(fitted.spec),
            "seconds": dict(fitted.cost.seconds),
            "unreadable": [asdict(entry) for entry in fitted.unreadable],
            "sha256": {name: file_hash(draft / name) for name in HASHED},
        }
        config["config_sha256"] = hash_of(config)
        write_json(draft / "config.json", config)
        write_results(draft, fitted.validation, config, folder.resolve().name)
        if keep_checkpoint and checkpoint_file(folder).exists():
            link(checkpoint_file(folder), checkpoint_file(draft))
        if folder.exists():
            previous = previous_folder(folder)
            shutil.rmtree(previous, ignore_errors=True)
            replace(folder, previous)
        replace(draft, folder)
        shutil.rmtree(previous_folder(folder), ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        recover(folder)
        raise
    return folder


def add_results(folder: Path, evaluation: Evaluation) -> bool:
    """Keep an evaluation's logits and metrics in an artifact, in addition to those it has, and renew the model card.

    The validation results that chose the model are not replaced by those of other images, nor by those of images that
    a refit has fitted the head to; False says so.
    """
    refitted = read_results(folder).get("val", {}).get("before_refit", False)
    if evaluation.split == "val" and (refitted or not evaluation.used_for_selection):
        return False
    write_results(folder, evaluation, read_config(folder), folder.resolve().name)
    return True
