"""Frozen is frozen, and it is noticed where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from topgraft.errors import TopgraftError
from topgraft.models import freeze

ROWS = {"stem": None, "head": 1.0}


def groups() -> dict[str, nn.Module]:
    stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return {"stem": stem, "head": nn.Linear(4, 2)}


def test_apply_sets_what_trains() -> None:
    made = groups()
    freeze.apply(made, ROWS)
    assert not any(p.requires_grad for p in made["stem"].parameters())
    assert all(p.requires_grad for p in made["head"].parameters())


def test_training_the_head_leaves_the_rest_alone() -> None:
    made = groups()
    with freeze.frozen_stays_frozen(made, ROWS), torch.no_grad():
        made["head"].weight.add_(1.0)


def test_a_moved_weight_is_noticed() -> None:
    made = groups()
    with pytest.raises(TopgraftError, match="stem"), freeze.frozen_stays_frozen(made, ROWS), torch.no_grad():
        made["stem"][0].weight[0, 0, 0, 0] += 1e-6


def test_it_is_noticed_also_where_ctrl_c_ends_it() -> None:
    made = groups()
    with pytest.raises(KeyboardInterrupt), freeze.frozen_stays_frozen(made, ROWS):
        raise KeyboardInterrupt

    def meddle() -> None:
        made["stem"][0].weight.data.add_(1.0)
        raise KeyboardInterrupt

    with pytest.raises(TopgraftError, match="stem"), freeze.frozen_stays_frozen(made, ROWS):
        meddle()


def test_a_moved_batchnorm_statistic_is_noticed() -> None:
    made = groups()
    with pytest.raises(TopgraftError, match="stem"), freeze.frozen_stays_frozen(made, ROWS):
        made["stem"].train()(torch.rand(2, 3, 8, 8))
