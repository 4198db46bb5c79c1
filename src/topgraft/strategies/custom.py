"""A user's own phases, in their order."""

from __future__ import annotations

from collections.abc import Sequence

from topgraft.errors import UsageError

from .facts import Facts, done
from .history import EpochRecord
from .plan import Phase, table


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """The next of `Facts.phases`.

    Raises:
        UsageError: there are none; or one does not cover the groups, freezes the head, solves it under groups that
            train, or solves it after others have trained.
    """
    if not facts.phases:
        raise UsageError("the strategy rules needs --rules FILE: a [[phase]] with rules for each phase")
    for phase in facts.phases:
        rows = table(groups, phase.rules)
        if rows["head"] is None:
            raise UsageError(f"the phase {phase.name!r} freezes the head, which has to learn; give it a multiplier")
        stepping = [group for group in rows if group != "head" and rows[group] is not None]
        if phase.solves_head and stepping:
            raise UsageError(
                f"the phase {phase.name!r} has no epochs, so that its head is solved, but {', '.join(stepping)} "
                "would train; give it epochs and lr, or freeze them"
            )
    steps = [phase for phase in facts.phases if not phase.solves_head]
    if steps and any(phase.solves_head for phase in facts.phases[facts.phases.index(steps[0]) :]):
        raise UsageError(
            f"a phase that solves the head comes after {steps[0].name!r}, which changes the features that it is solved "
            "on; put it first"
        )
    number = done(history)
    return facts.phases[number] if number < len(facts.phases) else None
