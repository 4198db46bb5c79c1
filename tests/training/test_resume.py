"""A state is found again, and is refused where it belongs to something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fitted import CHOICE
from support.small import colored

from topgraft.data.samples import Splits
from topgraft.errors import CheckpointError, UsageError
from topgraft.settings import fields, verbs
from topgraft.system.files import checkpoint_file
from topgraft.training import checkpoint
from topgraft.training.checkpoint import Checkpoint
from topgraft.training.replay import Resolved
from topgraft.training.resume import keep_state, require_weights, saved_state

SPLITS = Splits("photos", ("a", "b", "c"), tuple(colored(9, 1)), tuple(colored(6, 2)), ())
PREPARED = {"store": 1e-9, "decisions": [{"phase": "top", "cached": True, "keys": ["0123"]}]}
RESOLVED = Resolved(CHOICE, "fp32", caching={"before": True})


TOP = {"name": "top", "rules": [], "epochs": 3}


def choices(folder: Path, **given: Any) -> verbs.FitSettings:
    return fields.make(verbs.FitSettings, {"checkpoint": folder, "resume": True, **given})


def keep(folder: Path, under_way: Any = None, inner: Any = None) -> None:
    state = {"number": 1, "under_way": under_way, "inner": inner, "history": [], "folds": [[]]}
    keep_state(
        checkpoint_file(folder), Checkpoint({"best/w": torch.ones(2)}, state), choices(folder, resume=False), SPLITS,
        RESOLVED, PREPARED,
    )  # fmt: skip


def test_what_was_kept_is_found_with_all_that_it_belongs_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert saved_state(choices(tmp_path), SPLITS) is None
    assert capsys.readouterr().err == f"{tmp_path} holds no checkpoint to continue from; starting again\n"
    keep(tmp_path)
    found = saved_state(choices(tmp_path), SPLITS)
    assert found is not None
    assert torch.equal(found.tensors["best/w"], torch.ones(2))
    assert Resolved.of(found.state["resolved"]) == RESOLVED
    assert found.state["prepared"] == PREPARED
    with pytest.raises(UsageError, match="is of an earlier fit; resume continues it"):
        saved_state(choices(tmp_path, resume=False), SPLITS)
    with pytest.raises(UsageError, match="give that folder"):
        saved_state(fields.make(verbs.FitSettings, {"resume": True}), SPLITS)


@pytest.mark.parametrize(
    ("under_way", "inner", "position"),
    [
        (None, None, {"phase": 2, "epoch": 1, "step": 0}),
        (TOP, None, {"phase": 1, "epoch": 1, "step": 0}),
        (TOP, {"now": {"epoch": 3, "step": 25}}, {"phase": 1, "epoch": 3, "step": 25}),
        (TOP, {"now": {"epoch": 4, "step": 0}}, {"phase": 2, "epoch": 1, "step": 0}),
        ({**TOP, "folds": 5}, {"now": {"epoch": 3, "step": 0}}, {"phase": 1, "fold": 2, "epoch": 3, "step": 0}),
    ],
)
def test_it_says_where_it_continues(tmp_path: Path, under_way: Any, inner: Any, position: dict[str, int]) -> None:
    keep(tmp_path, under_way, inner)
    found = saved_state(choices(tmp_path), SPLITS)
    assert found is not None
    assert found.state["position"] == position


def test_other_settings_are_listed(tmp_path: Path) -> None:
    keep(tmp_path)
    with pytest.raises(UsageError, match=r"other settings") as caught:
        saved_state(choices(tmp_path, lr=0.5, seed=3, ema=0.9), SPLITS)
    lines = sorted(str(caught.value).splitlines()[1:])
    assert lines == ["  --ema: 0.0 then, 0.9 now", "  --lr: not given then, 0.5 now", "  --seed: 0 then, 3 now"]
    with pytest.raises(UsageError, match="WHERE: photos then, others now"):
        saved_state(choices(tmp_path), replace(SPLITS, where="others"))


def test_settings_without_effect_may_differ(tmp_path: Path) -> None:
    keep(tmp_path)
    assert saved_state(choices(tmp_path, workers=3, checkpoint_minutes=9.0, cache_dir=tmp_path), SPLITS) is not None


def test_another_way_to_the_same_place_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    keep(tmp_path)
    assert saved_state(choices(tmp_path), replace(SPLITS, where=str(tmp_path / "photos"))) is not None
    with pytest.raises(UsageError, match="WHERE: photos then"):
        saved_state(choices(tmp_path), replace(SPLITS, where=str(tmp_path)))


def test_a_setting_that_is_new_in_this_version_counts_as_its_default(tmp_path: Path) -> None:
    path = checkpoint_file(tmp_path)
    keep(tmp_path)
    found = checkpoint.read(path)
    assert found is not None
    before = {name: value for name, value in found.state["settings"].items() if name != "mixup"}
    checkpoint.write(path, Checkpoint(found.tensors, {**found.state, "settings": before}))
    assert saved_state(choices(tmp_path), SPLITS) is not None
    with pytest.raises(UsageError, match=r"--mixup: 0.0 then, 0.4 now"):
        saved_state(choices(tmp_path, mixup=0.4), SPLITS)


def test_other_versions_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path)
    saved_state(choices(tmp_path), SPLITS)
    assert "versions" not in capsys.readouterr().err
    path = checkpoint_file(tmp_path)
    found = checkpoint.read(path)
    assert found is not None
    older = {**found.state["versions"], "torch": "2.0.0"}
    checkpoint.write(path, Checkpoint(found.tensors, {**found.state, "versions": older}))
    assert saved_state(choices(tmp_path), SPLITS) is not None
    assert f"torch 2.0.0 then, {torch.__version__} now" in capsys.readouterr().err


def test_other_weights_are_refused(tmp_path: Path) -> None:
    require_weights("ab" * 32, "ab" * 32, choices(tmp_path))
    with pytest.raises(UsageError, match="begins with cdcdcdcdcdcd, not with abababababab; bring the file back"):
        require_weights("ab" * 32, "cd" * 32, choices(tmp_path))


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, state: Checkpoint) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*; make room$"):
            keep(tmp_path)
    keep(tmp_path)
    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(CheckpointError, match="the state before is whole: make room, and continue with --resume"):
        keep(tmp_path)
    assert saved_state(choices(tmp_path), SPLITS) is not None


@pytest.mark.parametrize("change", ["content", "label", "order", "place"])
def test_other_images_are_refused(tmp_path: Path, change: str) -> None:
    keep(tmp_path)
    first, second, *rest = SPLITS.train
    train = {
        "content": (replace(first, digest="0" * 64), second, *rest),
        "label": (replace(first, label=2), second, *rest),
        "order": (second, first, *rest),
        "place": (second, *rest),
    }[change]
    val = (*SPLITS.val, first) if change == "place" else SPLITS.val
    with pytest.raises(UsageError, match="are not those that the fit"):
        saved_state(choices(tmp_path), replace(SPLITS, train=train, val=val))
