"""Every strategy through the command line; a fit that is stopped or killed anywhere, and continues."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import topgraft as tg
from topgraft.artifacts.folder import is_finished
from topgraft.cli.main import main
from topgraft.data.loader import batches
from topgraft.data.samples import Sample
from topgraft.models.classifier import Classifier
from topgraft.models.weights.load import load_network
from topgraft.strategies.defaults import FOLDS, SELECTION_MINIMUM
from topgraft.system.files import CHECKPOINT_FILE
from topgraft.training import checkpoint

# One processor's arithmetic, and no conversion of a network that a test would wait for.
HOW = ["--input-size", "64", "--engine", "torch", "--precision", "fp32", "--device", "cpu", "--workers", "1"]
# Whether a cache pays is measured, and two runs may find differently: here it is said.
LONG = ["--strategy", "partial", "--unfreeze-from", "stage5", "--epochs", "4", "--batch-size", "1",
        "--checkpoint-minutes", "1e-6", "--boundary-cache", "on"]  # fmt: skip


def draw(root: Path, count: int, seed: int, side: int = 64) -> Path:
    """So many pictures of each of two classes: stripes that rise, and stripes that fall, under noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    for name, sign in (("falling", 1), ("rising", -1)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            stripes = 127 + 60 * np.sin((rows + sign * columns) / 4 + random.uniform(0, 6))
            picture = stripes[..., None] + random.normal(0, 60, (side, side, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), 30, 0)


def fit(photos: Path, out: Path, *more: object) -> int:
    return main(["fit", str(photos), "--out", str(out), *HOW, *map(str, more)])


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_partial_trains_from_the_named_group_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fit(photos, out, "--strategy", "partial", "--unfreeze-from", "stage6", "--epochs", 2, "--json") == 0
    config = json.loads((out / "config.json").read_text())
    found = said(capsys)
    assert found["finished"] is True
    assert found["resumed_from"] is None
    phase = config["phases"]["partial from stage6"]
    assert phase["stage5"] is None
    assert 0 < phase["stage6"] <= 1
    assert not (out / CHECKPOINT_FILE).exists()
    assert main(["predict", str(out), str(photos / "rising" / "00.png"), "--quiet"]) == 0
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history if record["epoch"]] == [1, 2]


def test_full_trains_every_group(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert fit(photos, out, "--strategy", "full", "--epochs", 1, "--quiet") == 0
    config = json.loads((out / "config.json").read_text())
    assert None not in config["phases"]["full"].values()
    assert [phase["name"] for phase in config["resolved"]["phases"]] == ["head", "full"]


def test_rules_of_a_file(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "mine.toml", tmp_path / "run"
    path.write_text(
        '[[phase]]\nname = "head"\nrules = { head = 1.0, "*" = "frozen" }\n'
        '[[phase]]\nname = "top"\nepochs = 1\nlr = 1e-4\nrules = { head = 1.0, stage7 = 0.5, "*" = "frozen" }\n'
        '[[phase]]\nname = "more"\nepochs = 1\nlr = 1e-4\nrules = { head = 1.0, "stage[67]" = 0.5, "*" = "frozen" }\n'
    )
    assert fit(photos, out, "--rules", path, "--quiet") == 0
    config = json.loads((out / "config.json").read_text())
    assert list(config["phases"]) == ["head", "top", "more"]
    assert config["phases"]["top"]["stage6"] is None
    assert config["phases"]["more"]["stage6"] == 0.5
    path.write_text("[[phase]]\nrules = { head = 1.0, stage9 = 1.0 }\n")
    assert fit(photos, tmp_path / "no", "--rules", path) == 2
    assert "no rule covers" in capsys.readouterr().err


def test_auto_works_with_a_small_budget_and_says_why(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # In a process of its own: what a budget counts from is the process's beginning.
    command = [sys.executable, "-m", "topgraft", "fit", str(photos), "--out", str(out), *HOW, "--budget", "60s"]
    done = subprocess.run([*command, "--json", "--quiet"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["auto"]["budget"] == 60
    assert config["auto"]["spent"] > 0
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert {record["folds"] for record in history} <= {0, FOLDS}
    # The last groups are probed first, and no further ones after a tenth of the budget.
    assert "stage7" in config["auto"]["probes"] or config["auto"]["spent"] > 50, "probed where there is time"
    assert set(config["auto"]["probes"]) <= set(config["phases"]["head"]) - {"head"}
    assert any(line.startswith("data") for line in config["auto"]["why"])


def test_what_may_be_forgotten_is_kept_to(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert fit(photos, out, "--rules", stepping(tmp_path), "--forget-at-most", 5, "--quiet") == 0
    config = json.loads((out / "config.json").read_text())
    trade = config["trade"]
    assert trade["short"]
    assert trade["judged_by"] == "agreement"
    assert config["forgetting"] is None, "images that chose are not reported on"
    lost = {point["share"]: 100 * point["lost"]["value"] for point in trade["points"]}
    assert lost[trade["share"]] <= 5 < lost[1.0], "or there was nothing to limit"
    assert main(["predict", str(out), str(photos / "rising" / "00.png"), "--quiet"]) == 0


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty parts of photos in folders of the original network's own answers: it is right on all of them."""
    root, random = tmp_path_factory.mktemp("known"), np.random.default_rng(0)
    network = load_network("efficientnet_lite0", input_size=64)
    published = Classifier(network.chain, network.spec).eval()
    parts = []
    for number in range(40):
        photo = load_sample_images().images[number % 2]
        top, left = (int(random.integers(side - 200)) for side in photo.shape[:2])
        parts.append(photo[top : top + 200, left : left + 200])
    samples = [Sample(str(number), None, array=part) for number, part in enumerate(parts)]
    (batch,) = batches(samples, network.spec, batch_size=40, workers=0)
    with torch.inference_mode():
        answers = published(batch.pixels).argmax(1).tolist()
    for number, (answer, part) in enumerate(zip(answers, parts, strict=True)):
        (root / str(answer)).mkdir(exist_ok=True)
        Image.fromarray(part).save(root / str(answer) / f"{number:02}.png")
    return root


def stepping(folder: Path) -> Path:
    """Rules under which the base moves, and far, whether that helps or not."""
    path = folder / "far.toml"
    path.write_text('[[phase]]\nname = "far"\nepochs = 1\nlr = 0.01\nrules = { "*" = 1.0 }\n')
    return path


def test_what_may_be_lost_on_a_labeled_source_is_kept_to(
    photos: Path, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, limit = tmp_path / "run", ["--source", known, "--forget-at-most", 20]
    assert fit(photos, out, "--rules", stepping(tmp_path), *limit, "--json") == 0
    trade = json.loads((out / "config.json").read_text())["trade"]
    assert said(capsys)["trade"] == trade
    assert (trade["judged_by"], trade["at_most"]) == ("source", 20)
    lost = {point["share"]: 100 * point["lost"]["value"] for point in trade["points"]}
    assert lost[1.0] > 20, "or the test shows nothing"
    assert lost[trade["share"]] <= 20
    (kept,) = [point for point in trade["points"] if point["share"] == trade["share"]]
    assert kept["choosing"]["n"] + kept["reported"]["n"] == 40


def test_what_was_lost_on_a_labeled_source_is_told(
    photos: Path, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fit(photos, out, "--rules", stepping(tmp_path), "--source", known, "--json") == 0
    forgetting = json.loads((out / "config.json").read_text())["forgetting"]
    assert said(capsys)["forgetting"] == forgetting
    source = forgetting["source"]
    assert (source["n"], source["where"]) == (40, str(known))
    assert source["top1_before"]["value"] == 1.0
    assert forgetting["lost"] == pytest.approx(100 * (1 - source["top1_after"]["value"]))
    assert forgetting["lost"] > 0


# --- Stopped and killed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long fit, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = subprocess.run(started(photos, out), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


def started(photos: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "topgraft", "fit", str(photos), "--out", str(out), *HOW, *LONG, "--json", *more]


@pytest.fixture
def child(photos: Path, whole: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The same, in a process that is to be ended."""
    process = subprocess.Popen(
        started(photos, tmp_path / "run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def wait_for(child: subprocess.Popen[str], path: Path, changes: int) -> None:
    """Until a file has been written so many times."""
    seen: set[tuple[int, int]] = set()
    ends = time.monotonic() + 300
    while len(seen) < changes:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < ends
        if path.exists():
            found = path.stat()
            seen.add((found.st_mtime_ns, found.st_ino))
        time.sleep(0.002)


def resume(photos: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = started(photos, out, "--resume", *more)
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def equal(one: Path, other: Path) -> bool:
    """Whether two runs ended alike: every bit of the weights, and what was heard but for the time that it took."""
    histories = [
        [{**json.loads(line), "seconds": 0} for line in (run / "history.jsonl").read_text().splitlines()]
        for run in (one, other)
    ]
    weights = [(run / "model.safetensors").read_bytes() for run in (one, other)]
    return histories[0] == histories[1] and weights[0] == weights[1]


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be sent Ctrl-C there from another")
def test_ctrl_c_leaves_a_usable_artifact_that_continues(
    photos: Path, whole: Path, tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    out = tmp_path / "run"
    wait_for(child, out / CHECKPOINT_FILE, 4)  # the head's, two of the first epoch, one of the second
    child.send_signal(signal.SIGINT)
    text, errors = child.communicate(timeout=300)
    assert child.returncode == 130, errors
    assert json.loads(text)["finished"] is False
    assert "--resume continues" in errors
    config = json.loads((out / "config.json").read_text())
    assert config["finished"] is False
    model = tg.load(out)
    assert len(tg.predict(model, [photos / "rising" / "00.png"])) == 1
    said = resume(photos, out)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["finished"] is True
    assert found["resumed_from"]["phase"] == 1
    assert equal(out, whole)
    again = resume(photos, out)
    assert again.returncode == 0
    assert json.loads(again.stdout)["resumed_from"] is None
    assert equal(out, whole)


@pytest.mark.parametrize("changes", [1, 3, 8])
def test_a_killed_fit_continues_and_ends_in_the_same_bits(
    photos: Path, whole: Path, tmp_path: Path, child: subprocess.Popen[str], changes: int
) -> None:
    out = tmp_path / "run"
    wait_for(child, out / CHECKPOINT_FILE, changes)
    child.kill()
    child.communicate()
    assert not is_finished(out)
    said = resume(photos, out)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["resumed_from"]["phase"] == 1
    assert found["resumed_from"]["epoch"] >= 1 + (changes > 3)
    assert equal(out, whole)


def auto(folder: Path, out: str, *more: str) -> list[str]:
    """A fit whose candidates are judged by the validation images, as there are so many."""
    return [
        sys.executable, "-m", "topgraft", "fit", str(folder / "data"), "--out", str(folder / out), *HOW,
        "--input-size", "32", "--strategy", "auto", "--epochs", "1", "--batch-size", "1",
        "--checkpoint-minutes", "1e-6", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Where such a fit has run, what it printed, and what it said on the way; ``run`` has what a kill in the midst of
    it would have left."""
    folder = tmp_path_factory.mktemp("auto")
    draw(folder / "data" / "train", 14, 0, 32)
    draw(folder / "data" / "val", SELECTION_MINIMUM // 2, 1, 32)
    child = subprocess.Popen(auto(folder, "whole"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(child, folder / "whole" / CHECKPOINT_FILE, 4)
        (folder / "run").mkdir()
        shutil.copy(folder / "whole" / CHECKPOINT_FILE, folder / "run")
        text, said = child.communicate(timeout=300)
    finally:
        child.kill()
    assert child.returncode == 0, said
    return folder, text, said


def test_auto_continues_by_what_it_knew_when_it_was_stopped(climbed: tuple[Path, str, str]) -> None:
    """What was measured is in the state: a fit that resumes from it decides as the stopped one,
    whatever the machine does meanwhile."""
    folder = climbed[0]
    state = checkpoint.read(folder / "run" / CHECKPOINT_FILE)
    assert state is not None
    done = subprocess.run(auto(folder, "run", "--resume", "--json"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["resumed_from"] == state.state["position"]
    assert found["resumed_from"]["phase"] >= 1
    assert found["auto"]["epoch_seconds"] == state.state["facts"]["epoch_seconds"]
    assert equal(folder / "run", folder / "whole")


def test_auto_takes_no_folds_where_many_images_validate(climbed: tuple[Path, str, str]) -> None:
    history = [json.loads(line) for line in (climbed[0] / "whole" / "history.jsonl").read_text().splitlines()]
    config = json.loads((climbed[0] / "whole" / "config.json").read_text())
    assert {record["folds"] for record in history} == {0}
    assert {record["val_top1"]["n"] for record in history} == {SELECTION_MINIMUM}
    candidates = [record["name"] for record in history if record["epoch"]]
    assert candidates[0] == f"from {config['auto']['suggested']}"
    assert config["selection"]["by"] == "validation"


def test_a_fit_says_why_it_thaws_what_it_caches_and_what_was_forgotten(climbed: tuple[Path, str, str]) -> None:
    folder, text, said = climbed
    config = json.loads((folder / "whole" / "config.json").read_text())
    assert "\n".join(config["auto"]["why"]) in said
    assert config["caching"]
    for decision in config["caching"]:
        cached = "cached" if decision["cached"] else "not cached"
        line = f"{decision['phase']}: activations after {decision['boundary']} are {cached}: {decision['why']}"
        assert line in said
    assert config["forgetting"]["short"] in text


def test_other_settings_do_not_go_on_and_nothing_is_lost(
    photos: Path, whole: Path, tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    out = tmp_path / "run"
    wait_for(child, out / CHECKPOINT_FILE, 2)
    child.kill()
    child.communicate()
    before = (out / CHECKPOINT_FILE).read_bytes()
    said = resume(photos, out, "--lr", "0.5")
    assert said.returncode == 2
    assert "--lr: not given then, 0.5 now" in said.stderr
    assert (out / CHECKPOINT_FILE).read_bytes() == before
