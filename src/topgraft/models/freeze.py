"""Apply a phase's table to a network, and prove that frozen stayed frozen. The only file that sets requires_grad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from topgraft.errors import TopgraftError
from topgraft.models.weights.digest import fingerprint as fingerprint


def apply(groups: Mapping[str, nn.Module], rows: Mapping[str, float | None]) -> None:
    """Set which parameters train: those of the groups whose row has a multiplier.

    Args:
        groups: the network's groups by name.
        rows: `topgraft.strategies.plan.table` of the same names; None freezes.
    """
    for name, module in groups.items():
        for parameter in module.parameters():
            parameter.requires_grad_(rows[name] is not None)


def apply_modes(groups: Mapping[str, nn.Module], rows: Mapping[str, float | None], updates_batchnorm: bool) -> None:
    """Training mode for the groups that train, evaluation mode for the others.

    BatchNorm of a group that trains uses and keeps its statistics unless `updates_batchnorm`: those of published
    weights come from a million images, and a batch's are worse.
    """
    for name, module in groups.items():
        module.train(rows[name] is not None)
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not updates_batchnorm:
                layer.eval()


@contextmanager
def frozen_stays_frozen(groups: Mapping[str, nn.Module], rows: Mapping[str, float | None]) -> Iterator[None]:
    """Hash the frozen groups before the block and after it.

    Raises:
        TopgraftError: a parameter or buffer of a frozen group has changed; names the groups.
    """
    before = {name: fingerprint(groups[name]) for name, row in rows.items() if row is None}
    try:
        yield
    except KeyboardInterrupt:
        _require_unchanged(groups, before)  # what it leaves is kept
        raise
    _require_unchanged(groups, before)


def _require_unchanged(groups: Mapping[str, nn.Module], before: Mapping[str, str]) -> None:
    changed = [name for name, digest in before.items() if fingerprint(groups[name]) != digest]
    if changed:
        raise TopgraftError(
            f"the frozen groups {', '.join(changed)} changed while the others trained; "
            "the result is not what the plan says, and was not kept. Please report this"
        )
