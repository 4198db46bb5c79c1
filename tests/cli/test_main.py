"""The command line: exit codes, what stands on which stream, and one JSON object for every verb."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from topgraft import api, errors
from topgraft.cli import main
from topgraft.system.files import CHECKPOINT_FILE

VERBS = ("fit", "evaluate", "predict", "forgetting", "data", "features", "inspect", "backbones", "summary", "devices")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue images; one cannot be read, one is there under two labels, and one folder has no split's name."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 6), ("test", 3)):
        for label, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((40, 40, 3), np.add(color, number + 9 * (split == "test")), np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    (root / "train" / "red" / "bad.png").write_bytes(b"")
    (root / "train" / "blue" / "twice.png").write_bytes((root / "train" / "red" / "0.png").read_bytes())
    (root / "extra").mkdir()
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "colors"
    assert main.main(["fit", "--strategy", "head", str(photos), "--out", str(out), "--quiet"]) == 0
    return out


def commands(photos: Path, run: Path, out: Path) -> dict[str, list[str]]:
    """One command for each verb."""
    arguments: dict[str, list[object]] = {
        "fit": [photos, "--strategy", "head", "--out", out / "run"],
        "evaluate": [run, photos],
        "predict": [run, photos / "test" / "red" / "0.png"],
        "forgetting": [run],
        "data": [photos],
        "features": [photos, "--out", out / "f.npz"],
        "inspect": [photos],
        "backbones": [],
        "summary": ["efficientnet_lite0", "--input-size", 64],
        "devices": ["--cache-dir", out],
    }
    return {verb: [verb, *map(str, arguments[verb])] for verb in VERBS}


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_every_verb_is_here() -> None:
    subparsers = next(action for action in main._parser()._actions if action.choices)
    assert tuple(subparsers.choices or ()) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_one_object_and_nothing_else(
    verb: str, photos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask(capsys, *commands(photos, run, tmp_path)[verb], "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)
    assert (out.count("\n"), out[-1]) == (1, "\n")


@pytest.mark.parametrize("verb", VERBS)
def test_quiet_says_nothing_on_standard_error(
    verb: str, photos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask(capsys, *commands(photos, run, tmp_path)[verb], "--quiet")
    assert (code, err) == (0, "")
    assert out.strip()


def test_a_fit_says_what_is_odd_on_standard_error(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run")
    assert code == 0
    lines = err.splitlines()
    assert sum(line.startswith("head: solved, C = ") for line in lines) == 1
    assert [line for line in lines if not line.startswith(("head: ", "base: "))] == [  # on a slow machine progress too
        "note: not used, because they are neither train, val nor test: extra",
        "note: 1 image is there under two labels or more, and kept so: train/blue/twice.png = train/red/0.png",
        "left out 1 file that cannot be read:",
        "  train/red/bad.png: is empty (0 bytes)",
    ]
    lines = out.splitlines()
    assert lines[-1].startswith("top-1 (validation, used for selection): ")
    assert f"saved: {tmp_path / 'run'}" in lines


def test_a_fits_json_has_what_a_program_needs(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run", "--json")[1])
    assert said["artifact"] == str(tmp_path / "run")
    assert set(said["top1"]) == {"value", "low", "high", "n"}
    assert {"open", "network", "features", "head", "evaluate", "save", "total"} <= set(said["seconds"])
    assert [entry["name"] for entry in said["unreadable"]] == ["train/red/bad.png"]
    assert [note.split()[0] for note in said["notes"]] == ["not", "1"]


def test_an_evaluations_json_holds_fractions_with_their_interval(
    photos: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.loads(ask(capsys, "evaluate", run, photos, "--json")[1])
    assert (said["split"], said["n"], said["top5"]) == ("test", 6, None)
    assert 0 <= said["top1"]["low"] <= said["top1"]["value"] <= said["top1"]["high"] <= 1
    assert said["top1"]["n"] == 6
    assert said["notes"][0].startswith("not used")


def test_fit_names_its_folder_itself(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [json.loads(ask(capsys, "fit", "--strategy", "head", photos, "--json")[1])["artifact"] for _ in range(2)]
    assert named == [str(Path("runs", f"{photos.name}-{number}")) for number in (1, 2)]


# --- Unfinished fits -----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_going_on_needs_a_folder_and_is_not_starting_anew(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--resume")
    assert (code, "--resume needs --out" in err) == (2, True)
    code, _, err = ask(
        capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run", "--resume", "--overwrite"
    )
    assert (code, "give one of them" in err) == (2, True)


def test_with_no_checkpoint_it_starts_anew_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run", "--resume")
    assert code == 0
    assert err.splitlines()[0] == f"{tmp_path / 'run'} holds no checkpoint to continue from; starting again"
    said = json.loads(
        ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "other", "--resume", "--json")[1]
    )
    assert (said["finished"], said["resumed_from"]) == (True, None)


def test_a_finished_fit_is_left_as_it_is(
    photos: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    code, out, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", run, "--resume")
    assert (code, out, err) == (0, f"{run} is finished; there is nothing to continue\n", "")
    monkeypatch.chdir(photos.parent)
    code, out, _ = ask(
        capsys, "fit", "--strategy", "head", photos.name, "--out", run, "--resume", "--json", "--workers", "1"
    )
    assert code == 0
    assert json.loads(out)["resumed_from"] is None
    assert json.loads(out)["top1"] == json.loads(before["metrics.json"])["val"]["top1"]
    assert contents(run) == before


def test_a_finished_fit_with_other_settings_lists_them(
    photos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    code, out, err = ask(
        capsys, "fit", "--strategy", "head", tmp_path, "--out", run, "--resume", "--seed", 1, "--refit"
    )
    assert (code, out) == (2, "")
    assert set(err.splitlines()[1:]) == {
        "  --refit: off then, on now",
        "  --seed: 0 then, 1 now",
        f"  WHERE: {photos} then, {tmp_path} now",
    }
    assert contents(run) == before


def test_what_was_asked_counts_and_not_what_came_of_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came of it, as a rate that was lowered on the way, stands in the settings of a replay."""
    real = api.run_fit

    def fit(where: str, **choices: Any) -> Any:
        made = real(where, **{**choices, "resume": False})
        settings = made.config["settings"]
        return replace(made, config={**made.config, "asked": settings, "settings": {**settings, "seed": 7}})

    monkeypatch.setattr("topgraft.api.run_fit", fit)
    assert ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run")[0] == 0
    assert ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run", "--resume")[0] == 0
    assert ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run", "--resume", "--seed", 7)[0] == 2


def test_an_unfinished_fit_is_not_begun_again_unasked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    state = tmp_path / "run" / CHECKPOINT_FILE
    state.write_bytes(b"")
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run")
    assert (code, "--resume continues it, --overwrite starts again" in err) == (2, True)
    assert state.exists()
    assert ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "run", "--overwrite")[0] == 0
    assert not state.exists()


def test_a_fit_is_told_where_to_keep_its_state(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {}

    def fit(where: str, **choices: Any) -> Any:
        told.update(choices)
        raise errors.DataError("so")

    monkeypatch.setattr("topgraft.api.run_fit", fit)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CHECKPOINT_FILE).write_bytes(b"")
    assert (
        ask(
            capsys,
            "fit",
            "--strategy",
            "head",
            photos,
            "--out",
            tmp_path / "run",
            "--resume",
            "--checkpoint-minutes",
            0.5,
        )[0]
        == 1
    )
    assert told == {"strategy": "head", "resume": True, "checkpoint": tmp_path / "run", "checkpoint_minutes": 0.5}
    assert ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "other")[0] == 1
    assert (told["resume"], told["checkpoint"]) == (False, tmp_path / "other")


@pytest.mark.parametrize("kept", [True, False])
def test_a_second_ctrl_c_says_whether_there_is_something_to_go_on_from(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    out = tmp_path / "run"

    def interrupted(where: str, **choices: Any) -> Any:
        if kept:
            out.mkdir()
            (out / CHECKPOINT_FILE).write_bytes(b"state")
        raise KeyboardInterrupt

    monkeypatch.setattr("topgraft.api.run_fit", interrupted)
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", out)
    assert code == 130
    assert ("--resume continues" in err) == kept


def test_a_fit_that_ctrl_c_stopped_leaves_its_best_epoch_and_its_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    real = api.run_fit

    def fit(where: str, **choices: Any) -> Any:
        made = real(where, **{**choices, "resume": False, "checkpoint": None})
        (out / CHECKPOINT_FILE).parent.mkdir(exist_ok=True)
        (out / CHECKPOINT_FILE).write_bytes(b"state")
        at = {"phase": 0, "epoch": 1, "step": 3}
        epochs = (*made.history, replace(made.history[-1], epoch=2))
        return replace(made, config={**made.config, "finished": False, "resumed_from": at}, history=epochs)

    monkeypatch.setattr("topgraft.api.run_fit", fit)
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", out)
    assert code == 130
    assert err.splitlines()[-1] == (
        f"topgraft: stopped by Ctrl-C after epoch 2; {out} holds the best epoch; --resume continues"
    )
    assert (out / CHECKPOINT_FILE).read_bytes() == b"state"
    code, said, _ = ask(
        capsys, "fit", "--strategy", "head", photos, "--out", out, "--resume", "--json"
    )  # and stopped once more
    assert code == 130
    assert (json.loads(said)["finished"], json.loads(said)["resumed_from"]["step"]) == (False, 3)
    monkeypatch.setattr("topgraft.api.run_fit", real)
    assert ask(capsys, "predict", out, photos / "test" / "red" / "0.png")[0] == 0
    assert ask(capsys, "fit", "--strategy", "head", photos, "--out", out, "--overwrite")[0] == 0
    assert not (out / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["fit", "--help"], 0),
        ([], 2),
        (["fly"], 2),
        (["fit"], 2),
        (["fit", "digits", "--seed", "x"], 2),
        (["fit", "digits", "--strategy", "half"], 2),
        (["summary", "efficientnet_lite0", "--classes", "0"], 2),
        (["features", "digits"], 2),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert (err if code else out).startswith(("usage: topgraft", "topgraft 0"))


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.UsageError("so"), 2),
        (errors.DataError("so"), 1),
        (errors.ArtifactError("so"), 1),
        (OSError(28, "so"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> Any:
        raise raised

    monkeypatch.setattr("topgraft.api.list_backbones", fails)
    got, out, err = ask(capsys, "backbones", "--json")
    assert (got, out) == (code, "")
    assert err.startswith("topgraft: ")
    assert err.count("\n") == 1


def test_a_bad_argument_that_only_the_verb_can_find_ends_with_2(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["evaluate", run, photos, "--split", "val"],
        ["inspect", run, "--backbone", "efficientnet_lite1"],
    ):
        code, out, err = ask(capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("topgraft: ")


def test_strict_lists_all_that_cannot_be_read_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "photos" / "cat" / f"{number}.jpg").write_bytes(b"")
    for verb in (["fit"], ["data"], ["features", "--out", tmp_path / "f.npz"], ["inspect"]):
        code, out, err = ask(capsys, *verb, tmp_path / "photos", "--strict")
        assert (code, out) == (1, "")
        assert [line for line in err.splitlines() if ".jpg" in line] == [
            f"  cat/{number}.jpg: is empty (0 bytes)" for number in range(3)
        ]


def test_data_counts_what_cannot_be_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "1.png")
    code, out, err = ask(capsys, "data", tmp_path)
    assert (code, err) == (0, "")
    assert "1 image, 1 class" in out
    assert "fit would refuse these images: " in out
    said = json.loads(ask(capsys, "data", tmp_path, "--json")[1])
    assert (said["counts"], said["images"]) == ({"undivided": {"cat": 1}}, 1)
    assert "has only one class, cat" in said["problem"]


def test_a_reader_that_has_gone_is_no_failure() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "topgraft", "summary", "efficientnet_lite0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_ends_with_130_and_leaves_no_artifact(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "topgraft",
        "fit",
        "--strategy",
        "head",
        "digits",
        "--out",
        str(tmp_path / "runs" / "run"),
    ]
    with subprocess.Popen(
        [*command, "--cache-dir", str(tmp_path / "cache")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # the base has run for two seconds
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert first.startswith("base: ")
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("topgraft: interrupted")
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
