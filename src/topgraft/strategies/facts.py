"""What a strategy is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topgraft.errors import UsageError

from .defaults import FALL, FOLDS, SELECTION_MINIMUM
from .history import EpochRecord
from .plan import Phase, Rule, phase_from_json


@dataclass(frozen=True, slots=True)
class Facts:
    """What a strategy may know.

    Attributes:
        train_images, val_images: how many there are.
        classes: how many there are.
        epochs: passes over the training images in phases that step, as asked or by default.
        lr: learning rate of such phases, as asked or by default.
        pretrained: whether the weights know something; random ones have nothing to keep and no features to solve on.
        trainable: whether the base can take steps; a baseline's is learned at once.
        first: the first group that trains under ``partial``, as asked; None leaves it to the probes.
        phases: the user's own, for ``rules``.
        probes: boundary → share of images that a linear head on its pooled activations answers right, out of fold;
            empty where it was not measured.
        probe_images: images that the probes answered.
        familiarity: mean probability of the published classifier's best answer on the training images, 0 to 1: how much
            they look like what it was trained on. None where it has none.
        epoch_seconds: group → predicted seconds of an epoch that trains it and all above; empty where not measured.
        setup_seconds: group → predicted seconds that come once before the first of these: filling a cache.
        budget: seconds of wall time for everything; None for no limit.
        spent: seconds until the first phase begins.
        reserve: seconds to keep for what comes after the last phase.
        solves: how often the head is solved again then.
        stalled: phases that lost what was known, and were given up.
    """

    train_images: int
    val_images: int
    classes: int
    epochs: int = 1
    lr: float = 1e-3
    pretrained: bool = True
    trainable: bool = True
    first: str | None = None
    phases: tuple[Phase, ...] = ()
    probes: Mapping[str, float] = field(default_factory=dict)
    probe_images: int = 0
    familiarity: float | None = None
    epoch_seconds: Mapping[str, float] = field(default_factory=dict)
    setup_seconds: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None
    spent: float = 0.0
    reserve: float = 0.0
    solves: int = 0
    stalled: tuple[str, ...] = ()

    @property
    def folds(self) -> int:
        """In how many folds a phase is tried before it is trained; 0 where the validation images can judge it."""
        return FOLDS if self.val_images < SELECTION_MINIMUM else 0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Facts:
        """From what ``dataclasses.asdict`` made of them."""
        phases = tuple(phase_from_json(phase) for phase in entry["phases"])
        return cls(**{**entry, "phases": phases, "stalled": tuple(entry["stalled"])})


Strategy = Callable[[Sequence[str], Facts, Sequence[EpochRecord]], Phase | None]
"""``strategy(groups, facts, history)``: the next phase, or None when done. Pure: same arguments, same answer.
Every phase starts from the best state so far, by validation."""

HEAD = Phase("head", (Rule("head", 1.0), Rule("*", None)))
"""Every group frozen but ``head``, which is solved on the features of the frozen base."""


def done(history: Sequence[EpochRecord]) -> int:
    """How many phases the history has."""
    return history[-1].phase + 1 if history else 0


def unfrozen(groups: Sequence[str], first: str) -> tuple[Rule, ...]:
    """Rules that train `first` and all above it, at rates that fall towards the image, and freeze the rest.

    Raises:
        UsageError: `first` is not a group, or is the head.
    """
    base = [group for group in groups if group != "head"]
    if first not in base:
        raise UsageError(f"the first group that trains is one of {', '.join(base)}, not {first!r}")
    training = base[base.index(first) :]
    rules = [Rule("head", 1.0)]
    rules += [Rule(group, FALL**distance) for distance, group in enumerate(reversed(training))]
    if len(training) < len(base):
        rules.append(Rule("*", None))
    return tuple(rules)


def suggested(groups: Sequence[str], facts: Facts) -> str:
    """The first group that should train, from the probes: the one above where general features stop helping.

    That is above the first boundary whose probe is within one standard error of the best one: what comes after it
    does not help as it is, and may as well learn. Where features help to the very end, it is the last group before
    the head; so it is without probes.
    """
    base = [group for group in groups if group != "head"]
    scores = [facts.probes.get(group) for group in base]
    known = [score for score in scores if score is not None]
    if not known or not facts.probe_images:
        return base[-1]
    best = max(known)
    error = (max(best * (1 - best), 1 / facts.probe_images) / facts.probe_images) ** 0.5
    for at, score in enumerate(scores[:-1]):
        if score is not None and score >= best - error:
            return base[at + 1]
    return base[-1]
