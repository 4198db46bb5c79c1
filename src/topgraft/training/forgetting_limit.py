"""How much of the original task a fit has left, and what is given up to keep more of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.data.samples import Sample, Splits, Unreadable
from topgraft.errors import UsageError
from topgraft.evaluation.forgetting import Forgetting, measure, settled, short
from topgraft.evaluation.pretrained_reference import PretrainedReference, find_reference, source_samples
from topgraft.evaluation.similarity import similarity
from topgraft.features.engines.base import EngineChoice
from topgraft.models.classifier import Classifier
from topgraft.models.registry import find_network
from topgraft.models.weights.load import Network
from topgraft.models.weights.names import LEARNED, RANDOM
from topgraft.settings import verbs
from topgraft.settings.conflicts import class_weight
from topgraft.system.threads import torch_threads
from topgraft.training.cost.budget import RemainingWork

from .fit import Trained, validate
from .wise_ft import SHARES, Trade, limit_tuning, require_answers, require_halves, short_trade


def original_network(chosen: verbs.FitSettings, classifier: Classifier, network: Network) -> PretrainedReference:
    """The published network that a fit has started from; see
    `topgraft.evaluation.pretrained_reference.find_reference`."""
    return find_reference(
        chosen.backbone,
        network.build,
        classifier.spec,
        weights=network.weights,
        sha256=network.sha256,
        asked=chosen.weights,
        folder=chosen.cache_dir,
    )


@dataclass(frozen=True)
class Past:
    """What a fit has to hold its base against.

    Attributes:
        original: the published network; None where there was no original task, or it was not loaded yet.
        source: labeled images of the original task, as `where` says.
        unreadable: files there that are not images.
    """

    original: PretrainedReference | None = None
    source: tuple[Sample, ...] = ()
    where: str = ""
    unreadable: tuple[Unreadable, ...] = ()


def open_past(
    chosen: verbs.FitSettings, classifier: Classifier, network: Network, splits: Splits, source: Splits | None
) -> Past:
    """The source's images under the original classifier, before the work: what is wrong with them is said then.

    Raises:
        UsageError: a limit, or a source, for a network that had no task before; classes that do not match; or too
            few images to limit what is forgotten.
    """
    if network.weights in (RANDOM, LEARNED):
        if chosen.forget_at_most is not None or source is not None:
            raise UsageError(
                f"{chosen.backbone} starts from {network.weights} weights: there is no original task that could be "
                "forgotten; leave --forget-at-most and --source out"
            )
        return Past()
    if chosen.forget_at_most is None and source is None:
        return Past()
    original = original_network(chosen, classifier, network)
    if chosen.forget_at_most is not None:
        require_answers(original)
    past = Past(original)
    if source is not None:
        everything = [sample for part in source.parts.values() for sample in part]
        judging = source_samples(everything, source.classes, original)
        past = Past(original, judging, source.where, source.unreadable)
    if chosen.forget_at_most is not None:
        require_halves(past.source or splits.val)
    return past


def later(past: Past, splits: Splits, chosen: verbs.FitSettings) -> RemainingWork:
    """What `check_forgetting` will do, for a budget."""
    own, source = len(splits.train) + len(splits.val), len(past.source)
    if chosen.forget_at_most is not None:  # the original, each share of the tuning, and the chosen one on validation
        return RemainingWork(len(SHARES) * (own + source) + len(splits.val), len(SHARES) + 1, len(SHARES))
    return RemainingWork(2 * source, 2) if source else RemainingWork()


def limit_forgetting(
    chosen: verbs.FitSettings, classifier: Classifier, past: Past, splits: Splits, engine: EngineChoice
) -> Trade:
    """Move the base back towards the original one as far as ``--forget-at-most`` asks; see `limit_tuning`."""
    assert chosen.forget_at_most is not None
    assert past.original is not None
    return limit_tuning(
        classifier,
        past.original,
        splits.train,
        splits.val,
        at_most=chosen.forget_at_most,
        choice=engine,
        source=past.source,
        class_weight=class_weight(chosen),
        seed=chosen.seed,
        workers=chosen.workers,
        folder=chosen.cache_dir,
        libraries=find_network(chosen.backbone).libraries,
    )


def forgotten(
    chosen: verbs.FitSettings,
    classifier: Classifier,
    past: Past,
    engine: EngineChoice,
    before: NDArray[np.float32] | None,
    after: NDArray[np.float32],
    own: Sequence[Sample] = (),
) -> Forgetting:
    """How much of the original task is left.

    Args:
        past: with the original network.
        before, after: features of the same validation images under the original and the tuned base; None where the
            former were not needed.
        own: those images, to make up for that.
    """
    original = past.original
    assert original is not None
    found = settled(classifier, original)
    if found is not None:
        return found
    if past.source or before is None or before.shape != after.shape:
        return measure(
            classifier,
            original,
            engine,
            own=() if past.source else own,
            source=past.source,
            where=past.where,
            workers=chosen.workers,
            folder=chosen.cache_dir,
            libraries=find_network(chosen.backbone).libraries,
        )
    alike = similarity(original, before, after)
    lost = None if alike.agreement is None else 100 * (1 - alike.agreement.value)
    return Forgetting(original.backbone, original.weights, False, lost, alike, cannot=original.why)


def check_forgetting(
    chosen: verbs.FitSettings,
    classifier: Classifier,
    network: Network,
    past: Past,
    splits: Splits,
    trained: Trained,
) -> tuple[Trained, Forgetting | None, Trade | None]:
    """What was forgotten, and, where a limit was asked for, what was given up to keep it; moves the base then.

    It runs on the recorded number of threads, as the training did. Ctrl-C leaves it out, now or while training.

    Returns:
        what is left of the training: of a base that was moved with its own rows.
    """
    if trained.untouched:
        return trained, never_touched(chosen.backbone, network.weights), None
    if network.weights in (RANDOM, LEARNED):
        return trained, None, None
    costly = chosen.forget_at_most is not None or chosen.source is not None or trained.before is None
    if trained.outcome.interrupted and costly:
        return _without(trained, chosen), None, None
    reached, engine = classifier.snapshot(), trained.resolved.engine
    left, lost, trade = trained, None, None
    try:
        with torch_threads(engine.threads):
            if past.original is None:
                past = replace(past, original=original_network(chosen, classifier, network))
            if chosen.forget_at_most is not None:
                # It says what is lost on the images that did not choose; all of them would flatter.
                trade = limit_forgetting(chosen, classifier, past, splits, engine)
                final, samples = validate(classifier, splits, chosen, trained.resolved)
                # The folds judged the base before it was moved.
                left = replace(trained, rows=final.rows, samples=samples, out_of_fold=None)
                gone = trade.unreadable
            else:
                lost = forgotten(chosen, classifier, past, engine, trained.before, trained.rows, splits.val)
                gone = lost.unreadable
    except KeyboardInterrupt:
        if trained.outcome.interrupted:
            raise
        classifier.load_state_dict(reached)
        return _without(trained, chosen), None, None
    if past.source:
        named = [replace(entry, name=f"{past.where}: {entry.name}") for entry in (*past.unreadable, *gone)]
        left = replace(left, unreadable=(*left.unreadable, *named))
    return left, lost, trade


def _without(trained: Trained, chosen: verbs.FitSettings) -> Trained:
    """As stopped by Ctrl-C before it was measured what is forgotten, and before that was limited."""
    said = list(trained.extra["remarks"])
    if not trained.outcome.interrupted:
        said.append("the fit was stopped by Ctrl-C after training")
    limited = ", and --forget-at-most is not met" if chosen.forget_at_most is not None else ""
    said.append(f"it was not measured what is forgotten{limited}")
    return replace(
        trained, outcome=replace(trained.outcome, interrupted=True), extra={**trained.extra, "remarks": said}
    )


def never_touched(backbone: str, weights: str) -> Forgetting | None:
    """What a fit that trained the head alone has forgotten: nothing; None where there was nothing to forget.

    That the base did not change was proven by hash while the head was solved (`topgraft.models.freeze`).
    """
    return None if weights in (RANDOM, LEARNED) else Forgetting(backbone, weights, True, 0.0)


def as_config(found: Forgetting | None, trade: Trade | None) -> dict[str, Any]:
    """For the run's config: numbers, and a sentence for the summary."""
    return {
        "forgetting": None if found is None else {**asdict(found), "short": short(found)},
        "trade": None if trade is None else {**asdict(trade), "short": short_trade(trade)},
    }
