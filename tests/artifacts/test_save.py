"""An artifact is whole or named as damaged, whatever happens to its files and whenever a save is killed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.disks import small_disk
from support.fitted import CLASSES, TINY, fitted

from topgraft import metrics
from topgraft.artifacts import config_file, load, save
from topgraft.artifacts.folder import check_target, is_finished
from topgraft.artifacts.results import read_results
from topgraft.errors import ArtifactError, TopgraftError, UsageError
from topgraft.evaluation.evaluate import head_logits
from topgraft.evaluation.results import Evaluation, FittedClassifier
from topgraft.models.normalization import NORMALIZATIONS, NormalizedLinear, fit_normalization
from topgraft.models.registry import BACKBONES
from topgraft.system.files import CHECKPOINT_FILE, growing_history_file

FILES = (
    "README.md", "config.json", "history.jsonl", "images.csv", "logits/val.npz", "metrics.json", "model.safetensors",
)  # fmt: skip
NEEDED = FILES[1:]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", TINY)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save.save(fitted(), tmp_path / "run")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def test_what_was_saved_comes_back(saved: Path) -> None:
    made, got = fitted(), load.load(saved)
    assert files(saved) == sorted(FILES)
    assert (got.classes, got.spec, got.config) == (made.classes, made.spec, made.config)
    assert (got.history, got.seen, got.unreadable) == (made.history, made.seen, made.unreadable)
    assert got.cost.seconds == made.cost.seconds
    assert np.array_equal(got.validation.logits, made.validation.logits)
    assert np.array_equal(got.validation.labels, made.validation.labels)
    hidden = {"logits": None, "labels": None}
    assert replace(got.validation, **hidden) == replace(made.validation, **hidden)
    expected = made.classifier.groups.state_dict()
    assert got.classifier.groups.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in got.classifier.groups.state_dict().items())
    assert not got.classifier.training


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_normalized_head_comes_back_with_its_bound(name: str, tmp_path: Path) -> None:
    model, rows = fitted(), np.abs(np.random.default_rng(0).normal(size=(9, 8))).astype(np.float32)
    linear = model.classifier.head
    layer = fit_normalization(name, rows).layer
    model.classifier.set_head(linear.weight.detach().numpy(), linear.bias.detach().numpy(), layer)
    loaded = load.load(save.save(model, tmp_path / "normalized")).classifier
    assert isinstance(loaded.head, NormalizedLinear)
    assert float(loaded.head.norm.radius) == float(layer.radius)
    for factor in (1, 1000):
        before, after = (head_logits(each, factor * rows) for each in (model.classifier, loaded))
        assert np.isfinite(after).all()
        np.testing.assert_array_equal(after, before)


def test_a_head_of_format_1_has_no_normalization(saved: Path) -> None:
    """The artifacts of older versions load as they were."""
    config = json.loads((saved / "config.json").read_text("utf-8")) | {"format_version": 1}
    config["config_sha256"] = config_file.hash_of(config)
    (saved / "config.json").write_text(json.dumps(config))
    loaded = load.load(saved).classifier
    assert type(loaded.head) is torch.nn.Linear
    rows = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    np.testing.assert_array_equal(head_logits(loaded, rows), head_logits(fitted().classifier, rows))


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save.save(load.load(saved), tmp_path / "again" / "run")
    assert bytes_of(again) == bytes_of(saved)


def test_files_can_be_read_by_others_as_the_umask_says(saved: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no such modes")
    umask = os.umask(0)
    os.umask(umask)
    assert {(saved / name).stat().st_mode & 0o777 for name in FILES} == {0o666 & ~umask}


def test_the_card_has_the_folders_name(saved: Path) -> None:
    card = (saved / "README.md").read_text("utf-8")
    assert card.startswith("# run\n")
    assert 'tg.load("run")' in card
    assert "tmp" not in card


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=name if name != "metrics.json" else "damaged"):
        load.load(saved)


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_cut_short_is_damage(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    # The last bytes of JSON and of an archive may be white space or a comment of no meaning.
    for size in sorted({0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 3}):
        (saved / name).write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"damaged|is not the file that was saved|not a Topgraft artifact"):
            load.load(saved)


@pytest.mark.parametrize("name", NEEDED)
def test_flipped_bits_are_found_or_change_nothing(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    before = load.load(saved)
    chance = random.Random(name)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        (saved / name).write_bytes(damaged)
        try:
            got = load.load(saved)
        except ArtifactError:
            continue
        assert name in ("config.json", "logits/val.npz", "metrics.json"), name
        assert np.array_equal(got.validation.logits, before.validation.logits)
        assert (got.classes, got.spec, got.config) == (before.classes, before.spec, before.config)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [1, 2], {"a": 1}])
def test_json_of_another_kind_is_damage(saved: Path, name: str, value: Any) -> None:
    (saved / name).write_text(json.dumps(value))
    with pytest.raises(ArtifactError):
        load.load(saved)


@pytest.mark.parametrize("key", ["classes", "image_spec", "backbone", "sha256", "unreadable", "seconds"])
@pytest.mark.parametrize("value", [None, 3, [3], {"a": []}, "delete"])
def test_a_config_with_wrong_entries_is_damage_even_with_the_right_checksum(saved: Path, key: str, value: Any) -> None:
    config = json.loads((saved / "config.json").read_text("utf-8"))
    config[key] = value
    if value == "delete":
        del config[key]
    config["config_sha256"] = config_file.hash_of(config)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError):
        load.load(saved)


class _Opens:
    """Unpickling it makes the file `trap`."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trap,))


@pytest.mark.parametrize("name", NEEDED)
def test_a_pickle_in_place_of_a_file_is_not_opened(saved: Path, name: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    (saved / name).write_bytes(pickle.dumps(_Opens(trap)))
    with pytest.raises(ArtifactError):
        load.load(saved)
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.array([_Opens(trap)], dtype=object), labels=np.zeros(1), names=np.array(["a"]))
    (saved / name).write_bytes(buffer.getvalue())
    with pytest.raises(ArtifactError):
        load.load(saved)
    assert not trap.exists()


def test_an_array_in_place_of_the_archive_is_damage(saved: Path) -> None:
    with (saved / "logits" / "val.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ArtifactError, match="damaged"):
        load.load(saved)


def test_logits_that_do_not_fit_are_damage(saved: Path) -> None:
    good = {"logits": np.zeros((2, 3), np.float32), "labels": np.zeros(2, np.int64), "names": np.array(["a", "b"])}
    for change in (
        {"logits": np.zeros((2, 4), np.float32)},
        {"logits": np.full((2, 3), np.nan, np.float32)},
        {"labels": np.array([0, 3])},
        {"labels": np.zeros(2)},
        {"names": np.array(["a"])},
    ):
        np.savez(saved / "logits" / "val.npz", **(good | change))
        with pytest.raises(ArtifactError, match="damaged"):
            load.load(saved)
    np.savez(saved / "logits" / "val.npz", **good)
    assert load.load(saved).validation.names == ("a", "b")


def test_a_newer_format_says_what_to_do(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text("utf-8")) | {"format_version": 3}
    config["versions"]["topgraft"] = "9.1"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"format 3, made by a newer Topgraft \(9\.1\).*pip install --upgrade"):
        load.load(saved)
    with pytest.raises(ArtifactError, match="newer"):
        save.add_results(saved, evaluation("test"))


@pytest.mark.parametrize("version", [True, 0, -1, "1", 1.0, None])
def test_a_format_that_is_no_number_is_damage(saved: Path, version: Any) -> None:
    config = json.loads((saved / "config.json").read_text("utf-8")) | {"format_version": version}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="damaged"):
        load.load(saved)


def test_a_network_that_this_version_lacks_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BACKBONES, "tiny")
    with pytest.raises(ArtifactError, match=r"needs a network that this Topgraft does not have .*tiny"):
        load.load(saved)


def test_what_is_no_artifact_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match="is not a Topgraft artifact"):
            load.load(folder)


def test_only_an_artifact_is_overwritten_and_only_when_asked(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite"):
        save.save(fitted(1), saved)
    save.save(fitted(1), saved, overwrite=True)
    assert load.load(saved).config["seed"] == 1
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "today.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="not a Topgraft artifact"):
        save.save(fitted(), tmp_path / "diary", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        save.save(fitted(), tmp_path / "file", overwrite=True)
    (tmp_path / "bare").mkdir()
    save.save(fitted(), tmp_path / "bare")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "diary", "file", "run"]  # and no drafts


def evaluation(split: str, *, used: bool = False, where: str = "photos", n: int = 4) -> Evaluation:
    logits, labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0][:n]], np.array([0, 1, 1, 0][:n])
    names = tuple(f"{number}.png" for number in range(n))
    measured = metrics.evaluate_logits(logits, labels, CLASSES)
    return Evaluation(split, used, names, logits, labels, CLASSES, measured, where=where)  # type: ignore[arg-type]


def test_results_are_kept_beside_those_that_are_there(saved: Path) -> None:
    before = read_results(saved)
    assert save.add_results(saved, evaluation("test"))
    after = read_results(saved)
    assert after["val"] == before["val"]
    assert after["test"]["top1"] == asdict(evaluation("test").metrics.top1)
    with np.load(saved / "logits" / "test.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["logits"], evaluation("test").logits)
        assert list(arrays["names"]) == ["0.png", "1.png", "2.png", "3.png"]
    assert "| test | 75.0 % (95 % interval 30.1 to 95.4, n = 4)" in (saved / "README.md").read_text("utf-8")
    assert load.load(saved).validation.names == fitted().validation.names


def test_results_on_other_images_are_told_apart(saved: Path) -> None:
    save.add_results(saved, evaluation("test", where="others"))
    assert "| test of `others` | " in (saved / "README.md").read_text("utf-8")
    save.add_results(saved, evaluation("test", where=""))
    assert "| test of other images | " in (saved / "README.md").read_text("utf-8")


def test_the_results_that_chose_the_model_stay(saved: Path) -> None:
    before = bytes_of(saved)
    assert not save.add_results(saved, evaluation("val", where="others"))
    assert bytes_of(saved) == before


@pytest.mark.parametrize("text", ["", "[]", '{"test": 3}', '{"test": {}}', "{"])
def test_damaged_results_are_named_before_anything_is_added(saved: Path, text: str) -> None:
    (saved / "metrics.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"metrics\.json is damaged"):
        save.add_results(saved, evaluation("train", used=True))
    assert (saved / "metrics.json").read_text() == text


def full_disk(monkeypatch: pytest.MonkeyPatch, what: str, after: int) -> None:
    """The call number `after` of one function fails as on a full disk, and every later one."""
    module, name = {"fsync": (os, "fsync"), "replace": (Path, "replace"), "open": (Path, "open")}[what]
    real, calls = getattr(module, name), iter(range(10**6))

    def fails(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= after:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, fails)


@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("what", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_the_previous_artifact(saved: Path, what: str, after: int) -> None:
    before = bytes_of(saved)
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, what, after)
        try:
            save.save(fitted(1), saved, overwrite=True)
            failed = False
        except OSError:
            failed = True
    if failed:
        assert load.load(saved).config["seed"] == 0
        assert bytes_of(saved) == before
    else:
        assert load.load(saved).config["seed"] == 1
    assert [path.name for path in saved.parent.iterdir()] == ["run"]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path, 40) as disk:
        save.save(fitted(), disk / "run")
        (disk / "filler").write_bytes(bytes(40960 - sum(-(-len(b) // 4096) * 4096 for b in bytes_of(disk).values())))
        with pytest.raises(OSError, match="No space left"):
            save.save(fitted(1), disk / "run", overwrite=True)
        assert load.load(disk / "run").config["seed"] == 0
        with pytest.raises(OSError, match="No space left"):
            save.add_results(disk / "run", evaluation("test"))
        assert load.load(disk / "run").config["seed"] == 0


SAVING = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from support.fitted import add_tiny, fitted
from topgraft.artifacts import save as artifact
add_tiny()
for number in range(10**6):
    artifact.save(fitted(number), Path({folder!r}), overwrite=True)
    print(number, flush=True)
"""


@pytest.fixture
def saving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    code = SAVING.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("moment", range(4))
def test_a_save_that_is_killed_leaves_a_whole_artifact(
    saving: subprocess.Popen[str], tmp_path: Path, moment: int
) -> None:
    assert saving.stdout is not None
    assert saving.stdout.readline() == "0\n"
    time.sleep(random.Random(moment).uniform(0, 0.1))
    saving.kill()
    saving.wait()
    said = int(([0] + [int(line) for line in saving.stdout.read().split()])[-1])
    got = load.load(tmp_path / "run")
    assert got.config["seed"] in (said, said + 1)
    expected = fitted(got.config["seed"]).classifier.groups.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in got.classifier.groups.state_dict().items())
    save.save(fitted(7), tmp_path / "run", overwrite=True)
    assert load.load(tmp_path / "run").config["seed"] == 7


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_at_a_rename_leaves_a_whole_artifact(saved: Path, renames: int) -> None:
    """The process ends right after so many of the two renames of an overwriting save."""
    code = SAVING.format(tests=str(Path(__file__).parents[1]), folder=str(saved)).replace("for number", f"""
import os
real, calls = artifact.replace, iter(range(100))
def replace(source, target):
    real(source, target)
    if next(calls) == {renames - 1}:
        os._exit(9)
artifact.replace = replace
for number""")  # fmt: skip
    code = code.replace("fitted(number)", "fitted(number + 1)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert saved.exists() == (renames == 2)
    assert load.load(saved).config["seed"] == renames - 1
    save.save(fitted(7), saved, overwrite=True)
    assert [p.name for p in saved.parent.iterdir() if p.name.endswith("previous")] == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_in_a_save_takes_its_draft_away(saving: subprocess.Popen[str], tmp_path: Path) -> None:
    assert saving.stdout is not None
    assert saving.stdout.readline() == "0\n"
    time.sleep(0.02)
    saving.send_signal(signal.SIGINT)
    saving.wait()
    load.load(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


# --- Unfinished fits -----------------------------------------------------------------------------------------------

STATE = b"the state of a fit"


def unfinished(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CHECKPOINT_FILE).write_bytes(STATE)
    return folder


def stopped(seed: int = 0) -> FittedClassifier:
    made = fitted(seed)
    return replace(made, config={**made.config, "finished": False})


def test_a_number_from_before_the_refit_stays_named_so(tmp_path: Path) -> None:
    made = fitted()
    folder = save.save(replace(made, validation=replace(made.validation, before_refit=True)), tmp_path / "run")
    assert load.load(folder).validation.before_refit
    assert "| validation, used for selection, before the refit |" in (folder / "README.md").read_text()
    assert not save.add_results(folder, evaluation("val", used=True)), "the head was fitted to these images since"
    assert load.load(folder).validation.before_refit


def test_a_folder_with_nothing_but_a_history_is_of_an_unfinished_fit(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "history.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"--resume continues .*--overwrite starts again"):
        check_target(folder, overwrite=False)
    check_target(folder, overwrite=False, resume=True)
    check_target(folder, overwrite=True)
    (folder / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="holds files and is not a Topgraft artifact"):
        check_target(folder, overwrite=True)


def test_an_unfinished_fit_is_gone_on_with_or_started_anew(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run")
    (folder / f".{CHECKPOINT_FILE}-0123456789ab.tmp").write_bytes(b"half")
    with pytest.raises(
        UsageError, match=r"checkpoint of an unfinished fit; --resume continues .*--overwrite starts again"
    ):
        check_target(folder, overwrite=False)
    assert not is_finished(folder)
    check_target(folder, overwrite=False, resume=True)
    assert (folder / CHECKPOINT_FILE).read_bytes() == STATE
    check_target(folder, overwrite=True)
    assert not (folder / CHECKPOINT_FILE).exists()
    check_target(folder, overwrite=False)  # what a kill has left of a checkpoint is nothing to lose


def test_somebodys_own_files_beside_a_checkpoint_stay(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run")
    (folder / "diary.txt").write_text("dear diary")
    for overwrite, resume in ((False, False), (False, True), (True, False)):
        with pytest.raises(UsageError, match=r"is not empty|not a Topgraft artifact"):
            check_target(folder, overwrite, resume)
        with pytest.raises(UsageError, match=r"is not empty|not a Topgraft artifact"):
            save.save(fitted(), folder, overwrite=overwrite)
    assert files(folder) == [CHECKPOINT_FILE, "diary.txt"]


def test_the_finished_artifact_takes_the_place_of_its_checkpoint(tmp_path: Path) -> None:
    folder = save.save(fitted(), unfinished(tmp_path / "run"))
    assert files(folder) == sorted(FILES)
    assert is_finished(folder)
    with pytest.raises(UsageError, match="not empty"):
        check_target(folder, overwrite=False, resume=True)


def test_a_stopped_fit_leaves_an_artifact_and_its_checkpoint(tmp_path: Path) -> None:
    folder = save.save(stopped(), unfinished(tmp_path / "run"), keep_checkpoint=True)
    assert files(folder) == sorted([*FILES, CHECKPOINT_FILE])
    assert (folder / CHECKPOINT_FILE).read_bytes() == STATE
    assert not is_finished(folder)
    assert load.load(folder).config["finished"] is False
    assert save.add_results(folder, evaluation("test"))
    with pytest.raises(UsageError, match="--resume"):
        check_target(folder, overwrite=False)
    check_target(folder, overwrite=False, resume=True)
    save.save(stopped(1), folder, keep_checkpoint=True)  # stopped once more
    assert (folder / CHECKPOINT_FILE).read_bytes() == STATE
    save.save(fitted(2), folder)
    assert files(folder) == sorted(FILES)
    assert load.load(folder).config["seed"] == 2


def test_a_stopped_fit_whose_checkpoint_is_lost_may_begin_again(tmp_path: Path) -> None:
    folder = save.save(stopped(), tmp_path / "run", keep_checkpoint=True)
    assert not is_finished(folder)
    check_target(folder, overwrite=False, resume=True)
    with pytest.raises(UsageError, match="--overwrite"):
        check_target(folder, overwrite=False)


def test_the_history_of_a_fit_that_runs_does_not_touch_an_artifacts(saved: Path, tmp_path: Path) -> None:
    growing = growing_history_file(saved)
    growing.write_text("a line")
    assert growing.parent == saved
    assert load.load(saved).history
    save.save(fitted(), saved, overwrite=True)
    assert not growing.exists()
    assert growing_history_file(tmp_path / "new").name == "history.jsonl"


def test_a_killed_fit_that_is_to_replace_an_artifact_is_unfinished(saved: Path) -> None:
    unfinished(saved)
    assert load.load(saved).config["seed"] == 0
    assert not is_finished(saved)
    check_target(saved, overwrite=False, resume=True)
    save.save(fitted(1), saved)
    assert load.load(saved).config["seed"] == 1
    assert files(saved) == sorted(FILES)


def test_starting_anew_keeps_the_artifact_until_the_new_one_is_there(saved: Path) -> None:
    unfinished(saved)
    check_target(saved, overwrite=True)
    assert files(saved) == sorted(FILES)
    assert load.load(saved).config["seed"] == 0


@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("what", ["fsync", "replace", "open"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_at_the_save_leaves_the_checkpoint(tmp_path: Path, what: str, after: int, overwrite: bool) -> None:
    folder = unfinished(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, what, after)
        try:
            save.save(fitted(), folder, overwrite=overwrite)
            failed = False
        except OSError:
            failed = True
    if failed:
        check_target(folder, overwrite=False, resume=True)  # which puts back what was moved aside
    assert files(folder) == ([CHECKPOINT_FILE] if failed else sorted(FILES))
    assert not failed or (folder / CHECKPOINT_FILE).read_bytes() == STATE
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_killed_saves_have_left_goes_at_the_next_fit(saved: Path) -> None:
    left = saved.with_name(f".{saved.name}-abcd_123.tmp")
    left.mkdir()
    os.utime(left, (0, 0))
    check_target(saved, overwrite=True)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_equal_tensors_are_equal_files(saved: Path, tmp_path: Path) -> None:
    """In whatever order and layout they come, and without a word on when or where."""
    data = (saved / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert len(header.get("__metadata__", {})) <= 1
    made = fitted()
    tensors = made.classifier.groups.state_dict()

    class Turned:
        """The same tensors, the last first and laid out otherwise."""

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {key: tensors[key].t().contiguous().t() if tensors[key].dim() == 2 else tensors[key].to(
                memory_format=torch.channels_last) if tensors[key].dim() == 4 else tensors[key].clone()
                for key in reversed(tensors)}  # fmt: skip

    other = replace(made, classifier=SimpleNamespace(groups=Turned()), config={**made.config, "seed": 9})
    save.save(other, tmp_path / "elsewhere" / "other")
    assert (tmp_path / "elsewhere" / "other" / "model.safetensors").read_bytes() == data


def test_errors_are_topgrafts_own() -> None:
    assert issubclass(ArtifactError, TopgraftError)
