"""The whole line, from real images to predictions, through every verb, in Python and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import topgraft as tg
from topgraft.cli.main import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three digits as PNG files in class folders, one file of it damaged, one an exact copy."""
    root = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for label in (0, 1, 2):
        folder = root / f"digit {label}"
        folder.mkdir()
        for number, image in enumerate(digits.images[digits.target == label][:120]):
            Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number:02}.png")
    (root / "digit 0" / "damaged.png").write_bytes((root / "digit 0" / "00.png").read_bytes()[:60])
    (root / "digit 1" / "copy.png").write_bytes((root / "digit 1" / "05.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An artifact that the command line has made, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    done = subprocess.run(
        [sys.executable, "-m", "topgraft", "fit", "--strategy", "head", str(photos), "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return out, json.loads(done.stdout)


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_fit_json_says_what_was_made(run: tuple[Path, dict[str, Any]]) -> None:
    out, said = run
    assert said["artifact"] == str(out)
    assert set(said["top1"]) == {"value", "low", "high", "n"}
    assert said["top1"] == said["validation"]["top1"]
    assert said["top1"]["value"] > 0.9
    assert said["seconds"]["total"] >= said["seconds"]["features"] > 0
    assert [entry["name"].split("/")[-1] for entry in said["unreadable"]] == ["damaged.png"]
    assert said["images"] == {"from_cache": 0, "computed": 288, "copies": 1}
    data = json.loads((out / "config.json").read_text(encoding="utf-8"))["data"]["images"]
    assert data["train"] + data["val"] == 288 + 1, "the damaged file is not counted"
    assert {p.name for p in out.iterdir()} == {
        "README.md", "config.json", "history.jsonl", "images.csv", "logits", "metrics.json", "model.safetensors",
    }  # fmt: skip


def test_evaluate_defaults_to_test_and_keeps_its_results(
    run: tuple[Path, dict[str, Any]], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run
    code, text, _ = ask(capsys, "evaluate", out, photos, "--json")
    said = json.loads(text)
    assert code == 0
    assert (said["split"], said["used_for_selection"], said["top5"]) == ("test", False, None)
    assert said["top1"]["value"] > 0.9
    assert said["top1"]["low"] < said["top1"]["value"] <= said["top1"]["high"]
    assert np.sum(said["confusion"]) == said["n"] == said["top1"]["n"]
    kept = json.loads((out / "metrics.json").read_text())
    assert kept["test"]["top1"] == said["top1"]
    with np.load(out / "logits" / "test.npz") as arrays:
        assert (arrays["logits"].argmax(1) == arrays["labels"]).mean() == pytest.approx(said["top1"]["value"])
    assert "| test |" in (out / "README.md").read_text()
    code, text, _ = ask(capsys, "evaluate", out, photos)
    assert text.splitlines()[-1].startswith("top-1 (test): ")


def test_used_images_are_left_out_unless_asked_for(
    run: tuple[Path, dict[str, Any]], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ask(capsys, "evaluate", run[0], photos, "--split", "val")
    assert code == 2
    assert "--include-seen" in err
    code, text, _ = ask(capsys, "evaluate", run[0], photos, "--split", "val", "--include-seen", "--json")
    said = json.loads(text)
    assert said["used_for_selection"] is True
    assert said["top1"] == run[1]["top1"]


def test_photos_that_were_added_later_count_as_test(
    run: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    import shutil

    grown = tmp_path / "grown"
    shutil.copytree(photos, grown)
    digits = load_digits()
    for number, image in enumerate(digits.images[digits.target == 2][120:130]):
        Image.fromarray((image * 15).astype(np.uint8)).save(grown / "digit 2" / f"new{number}.png")
    model = tg.load(run[0])
    before = tg.evaluate(model, photos)
    after = tg.evaluate(model, grown)
    assert set(after.names) == set(before.names) | {f"digit 2/new{n}.png" for n in range(10)}


def test_predict_reports_a_bad_file_and_answers_the_rest(
    run: tuple[Path, dict[str, Any]], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = photos / "digit 2" / "03.png", photos / "digit 0" / "damaged.png"
    code, text, _ = ask(capsys, "predict", run[0], good, bad, tmp_missing := photos / "missing.png", "--json")
    said = json.loads(text)
    assert code == 0
    assert [entry["name"] for entry in said["unreadable"]] == [bad.as_posix(), tmp_missing.as_posix()]
    answer = said["predictions"][0]
    assert answer["classes"][0] == "digit 2"
    assert sum(answer["probabilities"]) == pytest.approx(1.0)
    code, text, _ = ask(capsys, "predict", run[0], photos / "digit 1", "--format", "csv", "--top-k", 1)
    lines = text.splitlines()
    assert lines[0] == "image,rank,class,probability"
    assert len(lines) == 122
    code, text, _ = ask(capsys, "predict", run[0], photos / "*" / "1?.png")
    assert text.count("digit") >= 60
    assert ask(capsys, "predict", run[0], bad)[0] == 1


def test_predict_reads_a_list_on_standard_input(run: tuple[Path, dict[str, Any]], photos: Path) -> None:
    names = "\n".join(str(photos / "digit 1" / f"{n:02}.png") for n in range(3))
    done = subprocess.run(
        [sys.executable, "-m", "topgraft", "predict", str(run[0]), "-", "--json"],
        input=names + "\n\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(json.loads(done.stdout)["predictions"]) == 3


def test_the_second_fit_runs_nothing_and_ends_in_the_same_bits(photos: Path, tmp_path: Path) -> None:
    first = tg.fit(photos, cache_dir=tmp_path, strategy="head")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topgraft.features.frozen_base.build_engine", None)  # calling it would fail
        second = tg.fit(photos, cache_dir=tmp_path, strategy="head")
    assert (first.cost.images_decoded, second.cost.images_decoded) == (288, 0)
    tg.save(first, tmp_path / "a")
    tg.save(second, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_changed_photo_costs_one_photo(photos: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    (copy / "digit 0" / "damaged.png").unlink()
    splits = tg.open_images(copy)
    tg.fit(splits, cache_dir=tmp_path / "cache", strategy="head")
    changed = splits.train[0].path
    assert changed is not None
    Image.new("L", (8, 8), 77).save(changed)
    again = tg.fit(copy, cache_dir=tmp_path / "cache", strategy="head")
    assert again.cost.images_decoded <= 2  # itself, and the one that changes its place with it at a split's edge


def test_replayed_settings_give_the_same_model(run: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path) -> None:
    code = main(
        ["fit", "--strategy", "head", str(photos), "--config", str(run[0]), "--out", str(tmp_path / "again"), "--quiet"]
    )
    assert code == 0
    one, two = (json.loads((folder / "config.json").read_text()) for folder in (run[0], tmp_path / "again"))
    assert one["resolved"]["engine"] == two["resolved"]["engine"]
    assert one["sha256"]["model.safetensors"] == two["sha256"]["model.safetensors"]


def test_arrays_fit_and_predict() -> None:
    digits = load_digits()
    images = (digits.images[:300] * 15).astype(np.uint8)
    model = tg.fit(tg.open_images((images, digits.target[:300])), strategy="head")
    result = tg.evaluate(model, tg.open_images((images, digits.target[:300])))
    assert result.metrics.top5 is not None
    assert result.metrics.top1.value > 0.7
    assert len(tg.predict(model, images[:4])) == 4
    assert len(tg.predict(model, images[0], top_k=3).predictions[0].classes) == 3


def test_features_files_hold_what_fit_uses(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    assert ask(capsys, "features", photos, "--out", tmp_path / "f.npz")[0] == 0
    assert ask(capsys, "features", photos, "--out", tmp_path / "f.parquet", "--quiet")[0] == 0
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        table = pq.read_table(tmp_path / "f.parquet").to_pydict()
        assert arrays["features"].shape == (361, 1280)
        assert list(arrays["names"]) == table["name"]
        assert np.array_equal(np.array(table["features"], dtype=np.float32), arrays["features"])
        assert [arrays["classes"][k] for k in arrays["labels"]] == table["label"]
    assert ask(capsys, "features", photos, "--out", tmp_path / "f.csv")[0] == 2


def test_inspect_shows_the_table_and_the_stations(
    run: tuple[Path, dict[str, Any]], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in ((photos, "--strategy", "head"), (run[0],)):
        code, text, _ = ask(capsys, "inspect", *what, "--json")
        said = json.loads(text)
        assert code == 0
        assert [row["group"] for row in said["table"] if row["lr_multiplier"] is not None] == ["head"]
        assert [s["name"] for s in said["stations"]][:3] == ["pixels", "normalize", "stem"]
        assert said["stations"][-1]["shape"] == [8, 3]
    assert "frozen" in ask(capsys, "inspect", photos)[1]
    for asked, takes in (("auto", False), ("update", True)):
        said = json.loads(ask(capsys, "inspect", photos, "--strategy", "full", "--batchnorm", asked, "--json")[1])
        kept = {row["batchnorm"] for row in said["table"] if row["group"] != "head"}
        assert kept == {"takes its statistics from the batches" if takes else "keeps its statistics"}


def test_data_names_what_is_odd(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = ask(capsys, "data", photos, "--json")
    assert code == 0
    assert "damaged.png" in text
    assert "copy.png" in text
    assert "digit 2" in ask(capsys, "data", photos)[1]


@pytest.mark.parametrize("verb", ["backbones", "devices", "summary efficientnet_lite0 --input-size 64 --classes 7"])
def test_looking_verbs_answer_in_json_and_as_a_table(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = ask(capsys, *verb.split(), "--json")
    assert code == 0
    assert isinstance(json.loads(text), dict)
    code, text, _ = ask(capsys, *verb.split())
    assert code == 0
    assert len(text.splitlines()) >= 4


def test_a_network_without_published_weights_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in tg.list_backbones()}
    row = rows["alexnet_2012"]
    assert (row["top1"], row["weights"], row["license"], row["here"]) == (None, "", "–", False)
    assert (row["input_size"], row["parameters"], row["year"]) == (224, 60_965_224, 2012)
    assert rows["efficientnet_lite0"]["here"]
    assert rows["efficientnet_lite0"]["top1"] == 0.751
    years = [row["year"] for row in rows.values()]
    assert years == sorted(years), "the table tells history"
    assert tg.summary("alexnet_2012").parameters.total == 60_965_224
    text = ask(capsys, "backbones")[1]
    line = next(line for line in text.splitlines() if "alexnet_2012" in line)
    assert line.rstrip().endswith("none")


def test_a_summary_shows_the_notes_table(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = ask(capsys, "summary", "vgg16", "--input-size", 32, "--classes", 100)
    rows = [line.split()[:2] for line in text.splitlines() if line.strip()]
    assert ["block1_conv1", "stage1"] in rows
    assert ["predictions", "head"] in rows
    assert "34,006,948 (trainable 34,006,948, not trainable 0)" in text


def test_an_existing_folder_is_not_overwritten_unless_asked(
    run: tuple[Path, dict[str, Any]], photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", run[0])
    assert code == 2
    assert "--overwrite" in err
    (tmp_path / "diary.txt").write_text("dear diary")
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path, "--overwrite")
    assert code == 2
    assert "not a Topgraft artifact" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "nowhere"], 1, "nowhere"),
        (["fit", "digits", "--backbone", "resnet5"], 2, "no backbone"),
        (["evaluate", "nowhere", "digits"], 1, "not a Topgraft artifact"),
        (["summary", "zzz"], 2, "no backbone"),
        (["fit", "digits", "--engine", "fastest"], 2, "--measure"),
    ],
)
def test_wrong_words_say_what_is_right(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    os.chdir(tmp_path)
    got, out, err = ask(capsys, *arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_strict_stops_at_unreadable_images(photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = ask(capsys, "fit", "--strategy", "head", photos, "--out", tmp_path / "x", "--strict")
    assert code == 1
    assert "damaged.png" in err
    assert not (tmp_path / "x").exists()


def test_train_and_val_only_have_no_test(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    for label in ("digit 0", "digit 1"):
        for number in range(30):
            folder = tmp_path / "data" / ("train" if number < 20 else "val") / label
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / label / f"{number:02}.png", folder)
    code, text, _ = ask(capsys, "fit", "--strategy", "head", tmp_path / "data", "--out", tmp_path / "run")
    assert code == 0
    assert "top-1 (validation, used for selection): " in text
    code, _, err = ask(capsys, "evaluate", tmp_path / "run", tmp_path / "data", "--split", "test")
    assert code == 2
    assert "no test" in err


def test_a_model_that_is_at_chance_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "noise" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    out = tmp_path / "run"
    code, text, _ = ask(capsys, "fit", tmp_path / "noise", "--strategy", "head", "--out", out, "--json")
    assert code == 0
    said = json.loads(text)["largest_class"]
    assert (said["better"], said["n"]) == (False, 48)  # by cross-validation over train and validation
    assert said == json.loads((out / "config.json").read_text())["largest_class"]
    assert f"**Warning** (validation): {said['message']}" in (out / "README.md").read_text()
    code, text, _ = ask(capsys, "evaluate", out, tmp_path / "noise")
    assert code == 0
    message = json.loads((out / "metrics.json").read_text())["test"]["largest_class"]["message"]
    assert message.startswith("the model is not clearly better than always answering")
    assert "warning: " + message.split(". Look")[0] in " ".join(text.split())


def test_a_refit_is_judged_by_the_head_before_it(
    run: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "refit"
    code, text, err = ask(capsys, "fit", photos, "--strategy", "head", "--refit", "--out", out)
    assert code == 0
    assert text.splitlines()[-1].startswith("top-1 (validation, used for selection, before the refit): ")
    kept = json.loads((out / "metrics.json").read_text())["val"]
    assert (kept["before_refit"], kept["top1"]) == (True, run[1]["top1"])
    assert kept["log_loss"] == pytest.approx(run[1]["validation"]["log_loss"], rel=1e-4)
    code, text, err = ask(capsys, "evaluate", out, photos, "--split", "val", "--include-seen")
    assert "the model was fitted to" in err
    assert json.loads((out / "metrics.json").read_text())["val"] == kept
