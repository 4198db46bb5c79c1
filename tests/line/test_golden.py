"""What a released version has left on disk is still good: artifacts, unfinished fits, caches and files of rules.

`tests/support/golden/make.py` has written it, and says how. On a machine of the same kind, with the same packages, the
numbers must be equal bit for bit; elsewhere they must be near. A change that is meant to change the numbers of a fit
may change what the tests that fit again compare, with the reason; an artifact that is loaded gives what it always gave.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.golden.fits import ENGINE, FITS, RULES, UNFINISHED

from topgraft.cli.main import main

GOLDEN = Path(__file__).parents[1] / "support" / "golden"
VERSIONS = sorted(path.parent.name for path in GOLDEN.glob("*/expected.json"))

NEAR = 1e-3
"""How far logits of a loaded network may be from those of another machine, as a share of the largest. With the kernels
for AVX2 in place of those for AVX-512 they were 6e-7 away; a feature that float16 rounds to its other neighbor moves by
5e-4."""

ALIKE = 0.6
"""Share of the images that a network trained on another machine answers alike, at least; a third is chance. With the
kernels for AVX2 its logits were 2e-6 away, with the sums of two threads 0.2: many steps can amplify what is rounded."""

Ask = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Golden:
    """The unpacked fixtures of one version.

    Attributes:
        root: holds ``photos``, ``weights``, ``runs`` and so on; the fits ran in such a folder.
        version: of Topgraft.
        places: by name of an unfinished fit, the phase, epoch and step that it is resumed from.
        same_machine: whether this is a machine of the kind that wrote them, with the same packages.
    """

    root: Path
    version: str
    places: dict[str, dict[str, int]]
    same_machine: bool

    def require_equal_logits(self, found: NDArray[np.float64], stored: NDArray[np.float64]) -> None:
        """Whether a loaded network gives the stored numbers: bit for bit, or near on another machine."""
        if self.same_machine:
            np.testing.assert_array_equal(found, stored)
        np.testing.assert_allclose(found, stored, rtol=0, atol=NEAR * float(np.abs(stored).max()))

    def require_trained_alike(self, artifact: Path) -> None:
        """Whether a fit ended as that of `rules`: in the same bits, or with like answers on another machine."""
        before = self.root / "runs" / "rules"
        assert [epoch(line) for line in history(artifact)] == [epoch(line) for line in history(before)]
        (names, found), (names_before, stored) = logits(artifact, "val"), logits(before, "val")
        assert names == names_before
        if self.same_machine:
            np.testing.assert_array_equal(found, stored)
        assert np.mean(found.argmax(1) == stored.argmax(1)) >= ALIKE


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a verb; gives its exit code and what it printed to both streams."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module", params=VERSIONS)
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything of one version in it."""
    root = tmp_path_factory.mktemp("golden")
    for archive in (GOLDEN / request.param).glob("*.tar.xz"):
        with tarfile.open(archive) as tar:
            tar.extractall(root / "cache" if archive.name == "cache.tar.xz" else root, filter="data")
    shutil.copy(GOLDEN / request.param / "expected.json", root)
    return root


@pytest.fixture
def golden(unpacked: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Golden]:
    """The fixtures; the folder that holds them is the current one, the cache is empty, as many threads run as then."""
    import torch

    monkeypatch.chdir(unpacked)
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    expected = json.loads(Path("expected.json").read_text(encoding="utf-8"))
    threads = torch.get_num_threads()
    torch.set_num_threads(expected["machine"]["threads"])
    here = json.loads(ask("devices", "--json")[1])
    limited = {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & set(os.environ)
    same = (
        not limited
        and threads == torch.get_num_threads()
        and all(here[name] == value for name, value in expected["machine"].items())
    )
    yield Golden(unpacked, expected["version"], expected["places"], same)
    torch.set_num_threads(threads)


def require(name: str, request: pytest.FixtureRequest) -> None:
    """Skip where a fit needs what is not here."""
    needs = FITS[name].needs
    if needs == "timm":
        request.getfixturevalue("timm")
    elif needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")


def logits(artifact: Path, split: str) -> tuple[list[str], NDArray[np.float32]]:
    """Names and logits of the images of a split, as an artifact keeps them."""
    with np.load(artifact / "logits" / f"{split}.npz", allow_pickle=False) as arrays:
        return arrays["names"].tolist(), arrays["logits"]


@pytest.mark.parametrize("name", FITS)
def test_an_artifact_gives_the_logits_that_it_gave(
    name: str, golden: Golden, ask: Ask, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    require(name, request)
    stored = golden.root / "runs" / name
    copy = shutil.copytree(stored, tmp_path / name)
    (copy / "logits" / "test.npz").unlink()
    code, _, err = ask("evaluate", str(copy), "photos", *ENGINE, "--json")
    assert code == 0, err
    names, found = logits(copy, "test")
    assert names == logits(stored, "test")[0]
    golden.require_equal_logits(found, logits(stored, "test")[1])


@pytest.mark.parametrize("name", FITS)
def test_an_artifact_predicts_as_it_did(name: str, golden: Golden, ask: Ask, request: pytest.FixtureRequest) -> None:
    require(name, request)
    code, out, err = ask("predict", f"runs/{name}", "photos", *ENGINE, "--json")
    assert code == 0, err
    found = [dict(zip(row["classes"], row["probabilities"], strict=True)) for row in json.loads(out)["predictions"]]
    stored = [
        dict(zip(classes, probabilities, strict=True))
        for classes, probabilities in json.loads(Path("runs", name, "predictions.json").read_text(encoding="utf-8"))
    ]
    assert len(found) == len(stored) == 180
    classes = sorted(stored[0])
    assert all(sorted(row) == classes for row in found)
    values = [np.array([[row[each] for each in classes] for row in rows]) for rows in (found, stored)]
    golden.require_equal_logits(values[0], values[1])


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_fit_is_resumed_or_refused_with_the_version_to_use(
    name: str, golden: Golden, ask: Ask, tmp_path: Path
) -> None:
    out = shutil.copytree(golden.root / "runs" / name, tmp_path / name)
    before = (out / "checkpoint.safetensors").read_bytes()
    code, printed, err = ask("fit", "photos", *UNFINISHED[name], "--out", str(out), "--resume", "--json")
    if code:
        assert golden.version in err
        assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]
        assert (out / "checkpoint.safetensors").read_bytes() == before
        return
    assert json.loads(printed)["resumed_from"] == golden.places[name]
    assert not (out / "checkpoint.safetensors").exists()
    assert any(line["phase"] == 1 for line in history(out)), "the phase under way has ended"
    if name == "mid_epoch":  # it was a fit as `rules`, which was not killed
        golden.require_trained_alike(out)


def history(artifact: Path) -> list[dict[str, Any]]:
    """The records of an artifact."""
    return [json.loads(line) for line in (artifact / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def epoch(record: dict[str, Any]) -> tuple[int, str, int]:
    """Which one a record is of."""
    return record["phase"], record["name"], record["epoch"]


def test_a_file_of_rules_and_a_cache_of_then_are_used(golden: Golden, ask: Ask, tmp_path: Path) -> None:
    fit_by_rules(ask, tmp_path / "fresh")
    cache = as_of_this_machine(golden.root / "cache", Path(os.environ["TOPGRAFT_CACHE"]), tmp_path / "adapted")
    segments = sorted(cache.glob("*/*/*.rows"))
    assert len(segments) == 3  # features; activations after the stem, of the photos and of one view of them
    os.environ["TOPGRAFT_CACHE"] = str(cache)  # the fixture's patch puts it back
    fit_by_rules(ask, tmp_path / "cached")
    code, out, err = ask("fit", "photos", *FITS["head"].options, "--out", str(tmp_path / "head"), "--json")
    assert code == 0, err
    assert (images := json.loads(out)["images"])["computed"] == 0
    assert images["from_cache"] == 144
    assert sorted(cache.glob("*/*/*.rows")) == segments, "all rows that were needed were there"


def fit_by_rules(ask: Ask, out: Path) -> None:
    """Run the fit of `rules` again. What it ends in is not compared: the head is chosen in another way since then."""
    code, _, err = ask("fit", "photos", *RULES, "--out", str(out), "--json")
    assert code == 0, err
    assert [phase["name"] for phase in json.loads((out / "config.json").read_text("utf-8"))["resolved"]["phases"]]


def as_of_this_machine(stored: Path, fresh: Path, cache: Path) -> Path:
    """A stored cache as it would be if this machine, with its packages, had written it.

    Rows are only used on the machine and with the packages that made them, so these parts of a key are taken from a
    cache that was filled here just now. All others must be equal in both.
    """
    keys = [json.loads(path.read_text(encoding="utf-8")) for path in fresh.glob("*/*/key.json")]
    for path in stored.glob("*/*/key.json"):
        then = json.loads(path.read_text(encoding="utf-8"))
        assert path.parent.name == name_of(then)
        alike = [now for now in keys if any_machine(now) == any_machine(then)]
        assert len(alike) == 1, f"no fit makes rows of this key any more: {any_machine(then)}"
        shutil.copytree(path.parent, cache / path.parent.parent.name / name_of(alike[0]))
    return cache


def any_machine(key: dict[str, Any]) -> dict[str, Any]:
    """A key without what depends on the machine and its packages."""
    kept = {name: value for name, value in key.items() if name not in ("processor", "versions")}
    engine = {name: value for name, value in key["engine"].items() if name != "threads"}
    return {**kept, "engine": engine, "versions": sorted(key["versions"])}


def name_of(key: dict[str, Any]) -> str:
    """The folder of the rows with a key: the beginning of its SHA-256."""
    return hashlib.sha256(json.dumps(key, indent=2, sort_keys=True).encode()).hexdigest()[:32]
