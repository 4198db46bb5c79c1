"""One lookup for published networks and baselines."""

from __future__ import annotations

import pytest

from topgraft.errors import UsageError
from topgraft.models.registry import BACKBONES, BASELINES, find_network


def test_both_tables_are_found_and_share_no_name() -> None:
    assert find_network("efficientnet_lite0") is BACKBONES["efficientnet_lite0"]
    assert find_network("descriptor_coding") is BASELINES["descriptor_coding"]
    assert not set(BACKBONES) & set(BASELINES)


@pytest.mark.parametrize(
    ("name", "message"),
    [("descriptor-coding", "did you mean descriptor_coding"), ("efficientnet_lite9", "did you mean efficientnet_lite")],
)
def test_close_names_are_offered_from_both(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_network(name)
