"""A state is found again, and is refused where it belongs to something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fitted import CHOICE
from small import coloured

from topgraft import settings
from topgraft.checkpoint import Checkpoint
from topgraft.errors import UsageError
from topgraft.folders import checkpoint_file
from topgraft.keeping import keep_state, saved_state
from topgraft.records import Splits
from topgraft.runs import Resolved

SPLITS = Splits("photos", ("a", "b", "c"), tuple(coloured(9, 1)), tuple(coloured(6, 2)), ())
RESOLVED = Resolved(CHOICE, "fp32", caching={"before": True})


def choices(folder: Path, **given: Any) -> settings.FitSettings:
    return settings.make(settings.FitSettings, {"checkpoint": folder, "resume": True, **given})


def keep(folder: Path, under_way: Any = None, inner: Any = None) -> None:
    state = {"number": 1, "under_way": under_way, "inner": inner, "history": []}
    keep_state(
        checkpoint_file(folder), Checkpoint({"best/w": torch.ones(2)}, state), choices(folder, resume=False), SPLITS,
        RESOLVED, {"top": False},
    )  # fmt: skip


def test_what_was_kept_is_found_with_all_that_it_belongs_to(tmp_path: Path) -> None:
    assert saved_state(choices(tmp_path), SPLITS) is None
    keep(tmp_path)
    found = saved_state(choices(tmp_path), SPLITS)
    assert found is not None
    assert torch.equal(found.tensors["best/w"], torch.ones(2))
    assert Resolved.of(found.state["resolved"]) == replace(RESOLVED, caching={"before": True, "top": False})
    assert saved_state(choices(tmp_path, resume=False), SPLITS) is None
    assert saved_state(settings.make(settings.FitSettings, {"resume": True}), SPLITS) is None


@pytest.mark.parametrize(
    ("under_way", "inner", "position"),
    [
        (None, None, {"phase": 2, "epoch": 1, "step": 0}),
        ({"name": "top"}, None, {"phase": 1, "epoch": 1, "step": 0}),
        ({"name": "top"}, {"now": {"epoch": 3, "step": 25}}, {"phase": 1, "epoch": 3, "step": 25}),
    ],
)
def test_it_says_where_it_goes_on(tmp_path: Path, under_way: Any, inner: Any, position: dict[str, int]) -> None:
    keep(tmp_path, under_way, inner)
    found = saved_state(choices(tmp_path), SPLITS)
    assert found is not None
    assert found.state["position"] == position


def test_other_settings_are_listed(tmp_path: Path) -> None:
    keep(tmp_path)
    with pytest.raises(UsageError, match=r"other settings") as caught:
        saved_state(choices(tmp_path, lr=0.5, seed=3, ema=0.9), SPLITS)
    lines = str(caught.value).splitlines()[1:]
    assert lines == ["  --ema: 0.0 then, 0.9 now", "  --lr: not given then, 0.5 now", "  --seed: 0 then, 3 now"]
    with pytest.raises(UsageError, match="WHERE: photos then, others now"):
        saved_state(choices(tmp_path), replace(SPLITS, where="others"))


def test_settings_without_effect_may_differ(tmp_path: Path) -> None:
    keep(tmp_path)
    assert saved_state(choices(tmp_path, workers=3, checkpoint_minutes=9.0, cache_dir=tmp_path), SPLITS) is not None


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
