"""On the line between two bases: its ends are exact, the limit is honored, and the half that chose is not reported."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small import colored, small_classifier

from topgraft.data.samples import Sample
from topgraft.errors import DataError, UsageError
from topgraft.evaluation.evaluate import head_logits
from topgraft.evaluation.pretrained_reference import PretrainedReference, base_state
from topgraft.features.engines.base import EngineChoice
from topgraft.features.extract import run
from topgraft.features.frozen_base import open_base
from topgraft.models.classifier import Classifier
from topgraft.training.wise_ft import SHARES, Trade, halves, interpolate, limit_tuning, short_trade

CHOICE = EngineChoice("torch", "fp32", "cpu", 8, threads=1)
OUTPUTS = 4
TRAIN, VAL = colored(30, seed=1), colored(24, seed=2)


def pair() -> tuple[PretrainedReference, Classifier]:
    """A small original with four outputs, and a base that was tuned away from it in parameters and statistics."""
    original, tuned = small_classifier(classes=OUTPUTS), small_classifier()
    tuned.groups.load_state_dict({**tuned.groups.state_dict(), **base_state(original)})
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in base_state(tuned).values():
            if value.is_floating_point():
                value.add_(0.4 * torch.rand(value.shape, generator=draw))
            else:
                value.add_(1)
    return PretrainedReference("small", "w", original, True), tuned


def told(original: PretrainedReference, count: int, folder: Path) -> list[Sample]:
    """Images with the original's own answers for labels: it is right on all of them."""
    samples = colored(count, seed=5)
    assert original.classifier is not None
    rows = run(samples, open_base(original.classifier, CHOICE, 0, folder / "told"), description="").rows
    labels = head_logits(original.classifier, rows).argmax(1)
    return [replace(s, label=int(label)) for s, label in zip(samples, labels, strict=True)]


def keep(classifier: Classifier, original: PretrainedReference, folder: Path, at_most: float, **more: Any) -> Trade:
    options: dict[str, Any] = {"choice": CHOICE, "workers": 0, "folder": folder, **more}
    return limit_tuning(classifier, original, TRAIN, VAL, at_most=at_most, **options)


def test_the_ends_are_the_two_bases_bit_for_bit() -> None:
    original, tuned = pair()
    assert original.classifier is not None
    ends = base_state(original.classifier), base_state(tuned)
    for share, end in ((0.0, ends[0]), (1.0, ends[1])):
        mixed = interpolate(*ends, share)
        assert list(mixed) == list(end)
        for key, value in mixed.items():
            floating = value.is_floating_point()
            assert torch.equal(value, end[key] if floating else ends[1][key]), key
            assert value.data_ptr() not in (ends[0][key].data_ptr(), ends[1][key].data_ptr())


def test_between_them_floats_are_mixed_and_integers_are_the_tuned_ones() -> None:
    original, tuned = pair()
    assert original.classifier is not None
    ends = base_state(original.classifier), base_state(tuned)
    mixed = interpolate(*ends, 0.25)
    for key in ("stem.0.weight", "stem.1.running_var", "stage1.0.bias"):
        torch.testing.assert_close(mixed[key], 0.75 * ends[0][key] + 0.25 * ends[1][key])
    assert mixed["stem.1.num_batches_tracked"] == ends[1]["stem.1.num_batches_tracked"] == 1


def test_bases_of_other_tensors_are_refused() -> None:
    ends = base_state(small_classifier()), base_state(small_classifier())
    with pytest.raises(ValueError, match="different tensors"):
        interpolate({**ends[0], "more": torch.zeros(1)}, ends[1], 0.5)


def test_halves_are_equal_and_keep_equal_images_together() -> None:
    samples = colored(21) + colored(21)
    chosen = halves(samples)
    assert chosen.sum() == 22
    assert (chosen[:21] == chosen[21:]).all()
    assert (halves(samples[::-1]) == chosen[::-1]).all()


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("at_most", [0, 15, 100])
def test_no_more_is_lost_than_allowed_and_the_best_of_those_is_kept(
    tmp_path: Path, at_most: float, with_source: bool
) -> None:
    original, tuned = pair()
    assert original.classifier is not None
    before = copy.deepcopy(original.classifier)
    ends = base_state(before), {k: v.clone() for k, v in base_state(tuned).items()}
    source = told(original, 60, tmp_path) if with_source else []
    trade = keep(tuned, original, tmp_path, at_most, source=source)
    assert [point.share for point in trade.points] == list(SHARES)
    assert trade.judged_by == ("source" if with_source else "agreement")
    first, last = trade.points[0], trade.points[-1]
    assert (first.lost.value, first.lost_reported.value, first.reported.value) == (0.0, 0.0, 1.0)
    assert last.lost.value > 0.15, "the tuned base must be far enough away for the limit to matter"
    allowed = [point for point in trade.points if 100 * point.lost.value <= at_most]
    assert trade.chosen in allowed
    best = max(point.target.value for point in allowed)
    assert trade.share == min(point.share for point in allowed if point.target.value == best)
    n = 60 if with_source else len(VAL)
    assert (first.choosing.n, first.reported.n) == ((n + 1) // 2, n // 2)
    for key, value in interpolate(*ends, trade.share).items():
        assert torch.equal(base_state(tuned)[key], value), key
    for key, value in before.state_dict().items():
        assert torch.equal(original.classifier.state_dict()[key], value), "the original is left alone"
    rows = run(VAL, open_base(tuned, CHOICE, 0, tmp_path / "own"), description="").rows
    right = head_logits(tuned, rows).argmax(1) == np.array([sample.label for sample in VAL])
    assert right.mean() == pytest.approx(trade.chosen.target.value), "the head is the one that was solved there"
    assert f"{100 * trade.share:.0f} % of the tuning" in short_trade(trade)


def test_what_is_reported_is_counted_on_the_other_half(tmp_path: Path) -> None:
    original, tuned = pair()
    source = told(original, 60, tmp_path)
    chosen = halves(source)
    wrong = [
        s if half else replace(s, label=(s.label or 0) ^ 1) for s, half in zip(source, chosen, strict=True)
    ]  # the original is wrong on every image of the half that is reported
    trade = keep(tuned, original, tmp_path, 100, source=wrong, shares=(0.0, 1.0))
    assert (trade.points[0].choosing.value, trade.points[0].reported.value) == (1.0, 0.0)
    assert trade.points[1].lost.value > 0
    assert trade.points[1].lost_reported.value <= 0


def test_only_the_originals_features_stay_in_the_cache(tmp_path: Path) -> None:
    original, tuned = pair()
    keep(tuned, original, tmp_path, 10)
    assert len([path for path in (tmp_path / "features").iterdir() if path.is_dir()]) == 1


def test_a_base_that_never_moved_has_one_point(tmp_path: Path) -> None:
    original, _ = pair()
    assert original.classifier is not None
    same = small_classifier()
    same.groups.load_state_dict({**same.groups.state_dict(), **base_state(original.classifier)})
    trade = keep(same, original, tmp_path, 0)
    assert ([point.share for point in trade.points], trade.share) == ([0.0], 0.0)


@pytest.mark.parametrize("at_most", [-1, 101, float("nan")])
def test_a_limit_out_of_range_is_refused(tmp_path: Path, at_most: float) -> None:
    original, tuned = pair()
    with pytest.raises(UsageError, match="0 to 100 points"):
        keep(tuned, original, tmp_path, at_most)


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    original, tuned = pair()
    with pytest.raises(UsageError, match=r"cannot be limited: no task before; leave the limit out"):
        keep(tuned, replace(original, classifier=None, why="no task before"), tmp_path, 5)
    with pytest.raises(UsageError, match=r"1 different judging images are too few"):
        keep(tuned, original, tmp_path, 5, source=told(original, 1, tmp_path))
    with pytest.raises(UsageError, match="shares must ascend"):
        keep(tuned, original, tmp_path, 5, shares=(0.5, 1.0))


def test_images_that_went_away_meanwhile_are_named(tmp_path: Path) -> None:
    original, tuned = pair()
    assert original.classifier is not None
    (tmp_path / "gone.png").write_bytes(b"no image")
    gone = Sample("gone.png", 0, path=tmp_path / "gone.png", digest="e" * 64)
    base = open_base(original.classifier, CHOICE, 0, tmp_path)
    base.store.append([gone.digest], np.zeros((1, 12), np.float32), [gone.name])
    with pytest.raises(DataError, match=r"changed since they were opened(.|\n)*gone\.png"):
        limit_tuning(tuned, original, [*TRAIN, gone], VAL, at_most=5, choice=CHOICE, workers=0, folder=tmp_path)
