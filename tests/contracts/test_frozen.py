"""Frozen is bit-identical after every phase, over all backbones and strategies: parameters, BatchNorm statistics."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn

from topgraft.data.pixel_cache import Pixels
from topgraft.data.samples import ImageSpec, Sample
from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Backbone, Build, Chain, random_chain
from topgraft.models.weights.digest import fingerprint
from topgraft.strategies import STRATEGIES
from topgraft.strategies.defaults import SELECTION_MINIMUM
from topgraft.strategies.facts import Facts
from topgraft.strategies.plan import Phase, Rule, table
from topgraft.training.inputs import PixelInputs
from topgraft.training.inspection import planned_phases
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.step import StepChoices

SPEC = ImageSpec(32, 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CLASSES = 2
CHOICES = StepChoices("sgd", 2, "fp32", "cpu", stalled="ignore", l2=1e-2, ema=0.5)
# Only without a running mean, in which groups that are frozen stay as they were, is seen what the steps did to them.
OPTIMIZERS = {"sgd": CHOICES, "adamw": replace(CHOICES, optimizer="adamw", l2=0.0, l2_sp=0.1, ema=0.0)}

LARGE = 20_000_000
"""Parameters of the base above which a backbone is taken with one strategy only, ``partial``. What freezes does not
know how wide a layer is."""


@lru_cache(maxsize=1)
def drawn(name: str) -> Chain:
    return random_chain(BACKBONES[name], Build(input_size=32, classes=CLASSES), 0)


def built(backbone: Backbone) -> Chain:
    """Without numbers."""
    with torch.device("meta"):
        return backbone.build(Build(input_size=32, classes=CLASSES))


def size(backbone: Backbone) -> int:
    chain = built(backbone)
    return sum(parameter.numel() for name, group in chain.items() if name != "head" for parameter in group.parameters())


def material() -> PixelInputs:
    generator = torch.Generator().manual_seed(0)
    kept = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=generator)
    samples = [Sample(str(number), number % CLASSES) for number in range(4)]
    return PixelInputs(Pixels(samples, torch.tensor([0, 1, 0, 1]), SPEC, 0, kept))


def phases(strategy: str, backbone: Backbone, lr: float) -> list[Phase]:
    """What steps under a strategy; the head is solved without touching the network, and here left as it is."""
    groups = backbone.groups
    base = [group for group in groups if group != "head"]
    middle = base[len(base) // 2]
    # A gap: what is frozen here is not a prefix, so that gradients run through it.
    gap = (Rule(base[-1], None), Rule("*", 1.0)) if len(base) > 1 else (Rule("head", 1.0), Rule("*", None))
    own = (Phase("gap", gap, 1, lr), Phase("head alone", (Rule("head", 1.0), Rule("*", None)), 1, lr))
    facts = Facts(
        2, SELECTION_MINIMUM, CLASSES, epochs=1, lr=lr, first=middle, phases=own if strategy == "rules" else (),
        # They let auto begin in the middle and then, as all candidates cost the same, train all at once.
        probes={base[base.index(middle) - 1]: 0.9}, probe_images=4,
        epoch_seconds=dict.fromkeys(base, 1.0),
    )  # fmt: skip
    return [phase for phase in planned_phases(STRATEGIES[strategy], facts, groups) if not phase.solves_head]


def cases() -> list[object]:
    made = []
    for name, backbone in BACKBONES.items():
        if backbone.learn is not None:
            continue  # its base takes no steps
        large = size(backbone) > LARGE
        for strategy in ("partial",) if large else ("partial", "full", "rules", "auto"):
            optimizers = ("adamw",) if strategy == "auto" else tuple(OPTIMIZERS)  # its tables are those of the others
            made += [pytest.param(backbone, strategy, optimizer, id=f"{name}-{strategy}-{optimizer}")
                     for optimizer in optimizers]  # fmt: skip
    return made


@pytest.mark.parametrize(("backbone", "strategy", "optimizer"), cases())
def test_frozen_is_bit_identical_after_every_phase(backbone: Backbone, strategy: str, optimizer: str) -> None:
    classifier = Classifier(copy.deepcopy(drawn(backbone.name)), SPEC).eval()
    groups, images = dict(classifier.groups.items()), material()
    # Random weights of a hundred layers give such activations that a larger rate would end in numbers that are none.
    for phase in phases(strategy, backbone, 1e-6 if size(backbone) > LARGE else 1e-3):
        rows = table(backbone.groups, phase.rules)
        freeze.apply(groups, rows)
        before = {name: fingerprint(group) for name, group in groups.items()}
        run = run_phase(classifier, phase, 0, rows, images, np.arange(2), np.arange(2, 4), OPTIMIZERS[optimizer])
        list(run)
        after = {name: fingerprint(group) for name, group in groups.items()}
        changed = {name for name in before if before[name] != after[name]}
        assert not changed & {name for name, rate in rows.items() if rate is None}
        assert "head" in changed, "or the test shows nothing"


def norms(group: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [layer for layer in group.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def normalized() -> list[Backbone]:
    """Small ones with BatchNorm."""
    small = [backbone for backbone in BACKBONES.values() if backbone.learn is None and size(backbone) <= LARGE]
    return [backbone for backbone in small if any(norms(group) for group in built(backbone).values())]


@pytest.mark.parametrize("backbone", normalized(), ids=lambda backbone: backbone.name)
def test_batchnorm_takes_statistics_beside_groups_whose_bits_stay(backbone: Backbone) -> None:
    classifier = Classifier(copy.deepcopy(drawn(backbone.name)), SPEC).eval()
    groups = dict(classifier.groups.items())
    (phase,) = phases("partial", backbone, 1e-3)
    rows = table(backbone.groups, phase.rules)
    freeze.apply(groups, rows)
    frozen = {name: fingerprint(group) for name, group in groups.items() if rows[name] is None}
    trained = [layer for name, group in groups.items() if rows[name] is not None for layer in norms(group)]
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in trained]
    choices = replace(CHOICES, updates_batchnorm=True, ema=0.0)
    list(run_phase(classifier, phase, 0, rows, material(), np.arange(2), np.arange(2, 4), choices))
    assert frozen == {name: fingerprint(groups[name]) for name in frozen}
    assert any(norms(groups[name]) for name in frozen), "or the test shows nothing"
    for layer, (mean, var) in zip(trained, before, strict=True):
        assert layer.num_batches_tracked == 1
        assert not torch.equal(layer.running_mean, mean)
        assert not torch.equal(layer.running_var, var)


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_head_alone_takes_no_steps(backbone: Backbone) -> None:
    assert phases("head", backbone, 1e-3) == []
