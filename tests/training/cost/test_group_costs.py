"""What groups cost, without changing the network."""

from __future__ import annotations

import pytest
import torch
from support.small import same, small_classifier, state_of

from topgraft.training.cost.group_costs import GroupCost, above, below, measure_groups

COSTS = {"stem": GroupCost(1.0, 2.0, 9), "stage1": GroupCost(4.0, 8.0, 5), "head": GroupCost(16.0, 32.0, 3)}


def test_sums_below_and_above_a_group() -> None:
    assert below(COSTS, "stem") == 0
    assert below(COSTS, "head") == 5
    assert above(COSTS, "stage1") == (60, 20)
    assert above(COSTS, "stem") == (63, 21)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("images", [1, 6])
def test_a_network_is_measured_and_left_as_it_is(precision: str, images: int) -> None:
    classifier = small_classifier()
    before, wanted = state_of(classifier), [p.requires_grad for p in classifier.parameters()]
    pixels = torch.randint(0, 256, (images, 16, 16, 3), dtype=torch.uint8)
    found = measure_groups(classifier, pixels, "cpu", precision, 32)
    assert list(found) == ["stem", "stage1", "head"]
    assert [cost.numbers for cost in found.values()] == [8 * 8 * 8, 12, 3]
    assert all(cost.forward > 0 and cost.backward > 0 for cost in found.values())
    assert same(classifier.state_dict(), before)
    assert [p.requires_grad for p in classifier.parameters()] == wanted
    assert all(p.grad is None for p in classifier.parameters())
