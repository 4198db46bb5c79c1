"""Save a fitted classifier as one folder, and load it. Safetensors, JSON, CSV and plain arrays; nothing is pickled.

config.json         backbone, weights, ImageSpec, classes, settings, resolved choices, seed, versions
model.safetensors   the classifier's tensors
metrics.json        results by split, each number with its n and interval where it has one
history.jsonl       one line per epoch or solve
images.csv          content hash and split of every image of the source
logits/SPLIT.npz    per-image logits, labels and names
README.md           the model card

Next to them, checkpoint.safetensors is the state of a fit that has not come to its end (`topgraft.checkpoint`), and
history.jsonl, or history.unfinished.jsonl where an artifact is there, its history until then (`topgraft.history`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from topgraft.data.samples import SPLIT_NAMES, ImageSpec, SplitName, Unreadable
from topgraft.errors import ArtifactError, UsageError
from topgraft.evaluation.results import Cost, Evaluation, Fitted
from topgraft.models.former_groups import are_former, translated, translated_config, translated_history
from topgraft.strategies.history import epoch_from_json, line_of
from topgraft.system.files import HISTORY_FILE, checkpoint_file, is_draft, link, remove_stale_drafts, replace

from .results import DAMAGE, read_evaluation, read_results, read_text, write_json, write_results

FORMAT_VERSION = 2

_HASHED = ("model.safetensors", HISTORY_FILE, "images.csv")  # what is never written again after the save


def check_target(folder: Path, overwrite: bool, resume: bool = False) -> None:
    """Whether an artifact may be written there; asked before the work.

    A folder with a checkpoint in it, or with the artifact of a fit that was stopped, is an unfinished fit.
    With `overwrite` its checkpoint is removed; so is what killed writes have left there and beside it, in any case.

    Args:
        folder: the artifact's.
        overwrite: replace the artifact that is there, or start an unfinished fit anew.
        resume: go on with an unfinished fit.

    Raises:
        UsageError: it exists and is not empty, and `overwrite` was not asked for; it is an unfinished fit, and neither
            was; or it is no artifact.
    """
    _require_free(folder, overwrite, resume)
    state = checkpoint_file(folder)
    if overwrite:
        state.unlink(missing_ok=True)
    for written in (folder, state, folder / HISTORY_FILE):
        remove_stale_drafts(written)


def _require_free(folder: Path, overwrite: bool, resume: bool) -> None:
    _recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder for the artifact")
    state = checkpoint_file(folder)
    drafts = {path for path in folder.iterdir() if is_draft(path, state.name) or is_draft(path, HISTORY_FILE)}
    others = set(folder.iterdir()) - drafts
    begun = others <= {state, folder / HISTORY_FILE}
    if not others or (overwrite and (begun or (folder / "config.json").is_file())):
        return
    if not overwrite and (begun or _is_unfinished(folder)):
        if resume:
            return
        raise UsageError(
            f"{folder} holds the checkpoint of an unfinished fit; --resume goes on with it, --overwrite starts anew"
        )
    if not overwrite:
        raise UsageError(f"{folder} exists and is not empty; give another folder, or --overwrite to replace it")
    raise UsageError(f"{folder} holds files and is no Topgraft artifact; it will not be replaced. Give another folder")


def is_finished(folder: Path) -> bool:
    """Whether the folder holds an artifact whose fit has come to its end, so that there is nothing to go on with.

    Raises:
        ArtifactError: a damaged artifact, or one from a newer version.
    """
    return (folder / "config.json").is_file() and not _is_unfinished(folder)


def _is_unfinished(folder: Path) -> bool:
    """A fit into this folder was stopped, and its artifact, or the one that it is to replace, may be there."""
    if not (folder / "config.json").is_file():
        return False  # without an artifact, other files beside a checkpoint are somebody's own
    return checkpoint_file(folder).exists() or read_config(folder).get("finished") is False


def save(fitted: Fitted, folder: Path, *, overwrite: bool = False, keep_checkpoint: bool = False) -> Path:
    """Write the artifact: whole or not at all. Returns the folder.

    It is written beside its place and then renamed, so that after a kill or a full disk the previous
    artifact is whole. It takes the place of an unfinished fit, whose checkpoint is gone then.

    Args:
        fitted: the model; see `topgraft.retrained` for what is saved where its weights were changed after the fit.
        folder: where.
        overwrite: replace a finished artifact that is there.
        keep_checkpoint: leave the checkpoint that is there, for a fit that was stopped: its config says
            ``"finished": false``, and `check_target` with `resume` lets it go on.

    Raises:
        UsageError: see `check_target`.
        OSError: as the system says; the previous artifact is whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from topgraft.evaluation.retrained import without_former_results

    _require_free(folder, overwrite, resume=True)
    fitted = without_former_results(fitted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp makes it private; an artifact is as open as any other result
        tensors = {key: tensor.contiguous() for key, tensor in fitted.classifier.groups.state_dict().items()}
        try:
            save_file(tensors, draft / "model.safetensors")
        except SafetensorError as error:  # what it says of a full disk, which is no OSError of Python's
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
            "sha256": {name: _hash(draft / name) for name in _HASHED},
        }
        config["config_sha256"] = _hash_of(config)
        write_json(draft / "config.json", config)
        write_results(draft, fitted.validation, config, folder.resolve().name)
        if keep_checkpoint and checkpoint_file(folder).exists():
            link(checkpoint_file(folder), checkpoint_file(draft))
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


def add_results(folder: Path, evaluation: Evaluation) -> bool:
    """Keep an evaluation's logits and metrics in an artifact, beside those it has, and renew the model card.

    The validation results that chose the model are not replaced by those of other images, nor by those of images that
    a refit has fitted the head to; False says so.
    """
    refitted = read_results(folder).get("val", {}).get("before_refit", False)
    if evaluation.split == "val" and (refitted or not evaluation.used_for_selection):
        return False
    write_results(folder, evaluation, read_config(folder), folder.resolve().name)
    return True


def load(folder: Path) -> Fitted:
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

    _recover(folder)
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
        if are_former(backbone.name, tensors):
            history, config = translated_history(backbone.name, history), translated_config(config)
        seen = _seen(read_text(folder / "images.csv"))
        absent = config.get("changed_after_fit") and "val" not in read_results(folder)
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
        config = json.loads(read_text(path))
        version = config["format_version"]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"format_version is {version!r}")
        if version > FORMAT_VERSION:
            maker = str(config.get("versions", {}).get("topgraft", "?"))
            raise ArtifactError(
                f"{folder} has format {version}, made by a newer Topgraft ({maker}); "
                f"this one reads up to format {FORMAT_VERSION}: pip install --upgrade topgraft"
            )
        if config["config_sha256"] != _hash_of(config):
            raise ValueError("what it says is not what was saved: its SHA-256 differs")
    except DAMAGE as error:
        raise ArtifactError(f"{path} is damaged ({error}); copy the artifact again or refit") from None
    return cast("dict[str, Any]", config)


def _seen(text: str) -> dict[str, SplitName]:
    seen: dict[str, SplitName] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if row["split"] not in SPLIT_NAMES or row["sha256"] is None:
            raise ValueError(f"images.csv names a split {row['split']!r}")
        seen[row["sha256"]] = cast("SplitName", row["split"])
    return seen


def _require_whole(folder: Path, config: Mapping[str, Any]) -> None:
    for name in _HASHED:
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder} has no {name}; the artifact is not complete, copy it whole or refit")
        if _hash(path) != config["sha256"].get(name):
            raise ArtifactError(
                f"{path} is not the file that was saved (its SHA-256 differs); copy the artifact again or refit"
            )


def _hash_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config without its own entry, so that a changed byte is found."""
    said = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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
