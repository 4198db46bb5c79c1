"""Look before training: the freeze table, and what each station of the line hands on for one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .classifier import Classifier
from .dataset import batches
from .records import Inspection, Sample, Station, TableRow, Unreadable

_IMAGES = 8  # one small batch shows shapes and ranges


def inspect_line(
    classifier: Classifier,
    samples: Sequence[Sample],
    rows: Mapping[str, float | None],
    *,
    backbone: str,
    strategy: str,
) -> Inspection:
    """Run the first images through the line in float32 and note shape, type and range after every station."""
    shown = samples[:_IMAGES]
    batch = next(iter(batches(shown, classifier.spec, batch_size=len(shown), workers=0)))
    failed = dict(batch.failed)
    unreadable = tuple(Unreadable(shown[index].name, reason) for index, reason in failed.items())
    stations: list[Station] = []
    if len(batch.indices):
        with torch.inference_mode():
            stations.append(_station("pixels", batch.pixels))
            x = classifier.normalise(batch.pixels)
            stations.append(_station("normalise", x))
            for name, group in classifier.groups.items():
                x = group(x)
                stations.append(_station("logits" if name == "head" else name, x))
    return Inspection(
        backbone,
        strategy,
        tuple(_row(name, module, rows[name]) for name, module in classifier.groups.items()),
        tuple(stations),
        tuple(shown[int(index)].name for index in batch.indices),
        unreadable,
    )


def _station(name: str, x: torch.Tensor) -> Station:
    return Station(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), x.min().item(), x.max().item())


def _row(name: str, module: nn.Module, multiplier: float | None) -> TableRow:
    norms = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())
    batchnorm = "keeps its statistics" if norms else "–"
    return TableRow(name, sum(p.numel() for p in module.parameters()), multiplier, batchnorm)
