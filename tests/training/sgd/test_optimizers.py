from __future__ import annotations

import pytest
import torch
from support.small import small_classifier

from topgraft.errors import UsageError
from topgraft.models import freeze
from topgraft.training.sgd.optimizers import WARMUP, make_optimizer, penalized, penalty, schedule, set_rates

ALL = {"stem": 0.1, "stage1": 0.5, "head": 1.0}


def test_each_group_has_its_rate_and_frozen_ones_have_none() -> None:
    groups = dict(small_classifier().groups.items())
    rows = {"stem": None, "stage1": 0.5, "head": 1.0}
    freeze.apply(groups, rows)
    optimizer = make_optimizer(groups, rows, name="adam", lr=0.01, l2=1e-4)
    rates = {id(p): part["lr"] for part in optimizer.param_groups for p in part["params"]}
    assert {rates[id(p)] for p in groups["stage1"].parameters()} == {0.005}
    assert {rates[id(p)] for p in groups["head"].parameters()} == {0.01}
    assert not any(id(p) in rates for p in groups["stem"].parameters())


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_penalty_is_a_term_of_the_loss(name: str) -> None:
    """One step with the penalty in the optimizer equals one step on the loss plus l2·Σw²."""
    l2, generator = 0.05, torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=generator)
    ours, plain = small_classifier(), small_classifier()
    groups = dict(ours.groups.items())
    one = make_optimizer(groups, ALL, name=name, lr=0.01, l2=l2)
    other = make_optimizer(dict(plain.groups.items()), ALL, name=name, lr=0.01, l2=0.0)
    ours(x).square().sum().backward()
    one.step()
    term = torch.stack([p.square().sum() for group in plain.groups.values() for p in penalized(group)]).sum()
    assert penalty(dict(plain.groups.items()), ALL, l2) == pytest.approx(float(l2 * term.detach()), rel=1e-6)
    (plain(x).square().sum() + l2 * term).backward()
    other.step()
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[key], rtol=1e-4, atol=1e-6)


def test_biases_of_convolutions_and_batchnorm_are_not_penalized() -> None:
    classifier = small_classifier()
    names = {id(p): name for name, p in classifier.groups.named_parameters()}
    found = {names[id(p)] for group in classifier.groups.values() for p in penalized(group)}
    assert found == {"stem.0.weight", "stage1.0.weight", "head.weight", "head.bias"}


def test_adamw_has_no_term_in_the_loss() -> None:
    groups = dict(small_classifier().groups.items())
    with pytest.raises(UsageError, match="--l2 none"):
        make_optimizer(groups, ALL, name="adamw", lr=0.01, l2=1e-4)
    optimizer = make_optimizer(groups, ALL, name="adamw", lr=0.01, l2=0.0)
    assert type(optimizer) is torch.optim.AdamW
    decays = {id(p): part["weight_decay"] for part in optimizer.param_groups for p in part["params"]}
    names = {name for name, p in small_names(groups).items() if decays[id(p)] == 0.01}
    assert names == {"stem.0.weight", "stage1.0.weight", "head.weight", "head.bias"}


def small_names(groups: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    return dict(torch.nn.ModuleDict(groups).named_parameters())


def test_the_schedule_rises_falls_and_ends_at_nothing() -> None:
    steps = 200
    rates = [schedule("cosine", step, steps) for step in range(steps)]
    rising = round(WARMUP * steps)
    assert rates[:rising] == pytest.approx([(step + 1) / (rising + 1) for step in range(rising)])
    assert max(rates) == rates[rising] == 1.0
    assert rates[rising:] == sorted(rates[rising:], reverse=True)
    assert rates[(rising + steps) // 2] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert schedule("cosine", steps, steps) == pytest.approx(0.0)
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_few_steps_all_move(steps: int) -> None:
    assert all(0 < schedule("cosine", step, steps) <= 1 for step in range(steps))


def test_a_constant_rate_is_constant() -> None:
    assert {schedule("constant", step, 10) for step in range(10)} == {1.0}


def test_rates_keep_their_multipliers_whatever_was_set_before() -> None:
    groups = dict(small_classifier().groups.items())
    optimizer = make_optimizer(groups, ALL, name="sgd", lr=0.2, l2=1e-3)
    for multiplier in (0.5, 0.0, 0.25):
        set_rates(optimizer, multiplier)
    found = {id(p): part["lr"] for part in optimizer.param_groups for p in part["params"]}
    for name, group in groups.items():
        rates = [found[id(p)] for p in group.parameters()]
        assert rates == pytest.approx([0.2 * ALL[name] * 0.25] * len(rates))
