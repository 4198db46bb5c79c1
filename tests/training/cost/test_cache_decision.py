"""Whether caching pays is a pure question; what was cached is what the prefix gives; old stores make room."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from support.fitted import CHOICE
from support.small import colored, pixels_of, small_classifier

from topgraft.data import loader
from topgraft.data.augment import AUGMENTATIONS, View, load_view
from topgraft.data.pixel_cache import open_pixels
from topgraft.data.samples import Sample
from topgraft.errors import CacheError, ImageError, OutOfTimeError
from topgraft.features import frozen_base
from topgraft.features.engines import choose
from topgraft.features.engines.base import EngineChoice
from topgraft.features.engines.choose import build_engine
from topgraft.features.extract import compute
from topgraft.features.frozen_base import open_boundary
from topgraft.features.store import FeatureStore
from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.models.weights.load import load_network
from topgraft.strategies.facts import unfrozen
from topgraft.strategies.plan import Phase, Rule, table
from topgraft.training.boundary_cache import fill, free_bytes, measure_store, trim
from topgraft.training.cost.cache_decision import Timings, decide
from topgraft.training.cost.group_costs import GroupCost
from topgraft.training.inputs import PixelInputs
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.step import StepChoices

GROUPS = ("stem", "stage1", "stage2", "head")
COSTS = {
    "stem": GroupCost(1e-3, 2e-3, 100_000), "stage1": GroupCost(4e-3, 8e-3, 10_000),
    "stage2": GroupCost(2e-3, 4e-3, 1000), "head": GroupCost(1e-6, 1e-6, 10),
}  # fmt: skip
RATES = Timings(COSTS, engine=3e-3, decode=1e-3, store=1e-9)
HERE: dict[str, Any] = {
    "train": 1000, "val": 200, "epochs": 5, "views": 3, "quota": 10**10, "free": 10**11, "asked": "auto",
}  # fmt: skip


def test_high_up_it_pays_and_the_sums_are_those_of_the_parts() -> None:
    found = decide(RATES, GROUPS, "stage2", **HERE)
    assert found == decide(RATES, GROUPS, "stage2", **HERE)
    assert (found.boundary, found.first, found.cached, found.views) == ("stage1", "stage2", True, 3)
    assert found.needs == (3 * 1000 + 200) * 10_000 * 2
    trained, judged = 6e-3 + 2e-6, 2e-3 + 1e-6
    common = 5 * (1000 * trained + 200 * judged)
    each = 3e-3 * 5e-3 / 7e-3 + 10_000 * 2 * 1e-9
    reading = 5 * 1200 * 10_000 * 2 * 1e-9
    assert found.seconds[0] == pytest.approx(3200 * each + reading + common)
    assert found.seconds[1] == pytest.approx(5 * 1200 * (5e-3 + 1e-3) + common)


def test_near_the_input_it_does_not_pay() -> None:
    slow = replace(RATES, store=2e-8)  # a disk of 50 MB/s
    assert not decide(slow, GROUPS, "stage1", **HERE).cached
    assert decide(slow, GROUPS, "stage2", **HERE).cached


def test_one_epoch_does_not_pay_for_three_views() -> None:
    assert not decide(replace(RATES, engine=None), GROUPS, "stage2", **{**HERE, "epochs": 1, "views": 3}).cached


@pytest.mark.parametrize("change", [{"quota": 10**7}, {"free": 10**8}])
def test_what_has_no_room_is_not_cached_even_if_asked_for(change: dict[str, int]) -> None:
    for asked in ("auto", "on"):
        found = decide(RATES, GROUPS, "stage2", **{**HERE, **change, "asked": asked})
        assert not found.cached
        assert "may be used" in found.why


def test_it_does_as_it_is_asked() -> None:
    assert not decide(RATES, GROUPS, "stage2", **{**HERE, "asked": "off"}).cached
    assert decide(replace(RATES, store=1.0), GROUPS, "stage2", **{**HERE, "asked": "on"}).cached


def test_folds_need_all_images_plain_and_in_all_views() -> None:
    found = decide(RATES, GROUPS, "stage2", folds=5, **HERE)
    assert found.needs == 4 * 1200 * 10_000 * 2
    plain = decide(RATES, GROUPS, "stage2", **{**HERE, "views": 0})
    assert plain.needs == 1200 * 10_000 * 2


def test_losses_from_the_cache_are_those_through_the_prefix(tmp_path: Path) -> None:
    """Training from cached views equals training through the frozen prefix on the same views."""
    samples = colored(30, 1)
    samples = [replace(sample, digest=f"{number:064x}") for number, sample in enumerate(samples)]
    train, val = np.arange(20), np.arange(20, 30)
    rules = (Rule("stem", None), Rule("*", 1.0))
    rows = table(("stem", "stage1", "head"), rules)
    drawn = AUGMENTATIONS["strong"]
    records = []
    for cached in (True, False):
        classifier = small_classifier()
        pixels = pixels_of(samples)
        material: Any = PixelInputs(pixels, drawn, 5)
        if cached:
            views = [None, *(View(drawn, 5, number) for number in range(3))]
            bases = open_boundary(classifier, "stem", CHOICE, 0, tmp_path, views)
            material = fill(bases, samples, pixels.labels, np.arange(30), 20, False)
            assert bases[0].store.missing([s.digest for s in samples[:20]]) == [s.digest for s in samples[:20]]
            assert not bases[1].store.missing([s.digest for s in samples[:20]])
            assert len(bases[1].store.missing([s.digest for s in samples])) == 10
        freeze.apply(dict(classifier.groups.items()), rows)
        choices = StepChoices("sgd", 4, "fp32", "cpu")
        run = run_phase(classifier, Phase("top", rules, 3, 0.01), 0, rows, material, train, val, choices)
        records.append([(record.train_loss, record.val_loss) for record in run])
    np.testing.assert_allclose(records[0], records[1], rtol=2e-3)
    assert records[0][0][0] != records[0][2][0]


def learned_digits(folder: Path, choice: EngineChoice | None) -> NDArray[np.float64]:
    """Losses of training EfficientNet-Lite0 above stage5: from views that the engine has cached, or through PyTorch."""
    network = load_network("efficientnet_lite0", input_size=64, classes=10)
    classifier = Classifier(network.chain, network.spec).eval()
    images, labels = load_digits(return_X_y=True)
    samples = [
        Sample(str(number), int(label), array=(16 * image.reshape(8, 8) - (image.reshape(8, 8) > 0)).astype(np.uint8),
               digest=f"{number:064x}")
        for number, (image, label) in enumerate(zip(images[:36], labels[:36], strict=True))
    ]  # fmt: skip
    pixels = open_pixels(samples, network.spec, workers=0, keep=True, description="")
    drawn = AUGMENTATIONS["crop"]
    material: Any = PixelInputs(pixels, drawn, 5)
    if choice is not None:
        views = [None, *(View(drawn, 5, number) for number in range(3))]
        bases = open_boundary(classifier, "stage5", choice, 0, folder, views)
        material = fill(bases, samples, pixels.labels, np.arange(36), 24, False)
    phase = Phase("top", unfrozen(tuple(classifier.groups), "stage6"), 3, 0.002)
    rows = table(tuple(classifier.groups), phase.rules)
    freeze.apply(dict(classifier.groups.items()), rows)
    choices = StepChoices("sgd", 8, "fp32", "cpu")
    run = run_phase(classifier, phase, 0, rows, material, np.arange(24), np.arange(24, 36), choices)
    return np.array([[record.train_loss, record.val_loss] for record in run], dtype=np.float64)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_from_another_engines_cache_are_within_its_tolerance(tmp_path: Path, precision: str) -> None:
    choice = next((c for c in choose.possible() if (c.name, c.precision) == ("openvino", precision)), None)
    if choice is None:
        pytest.skip(f"OpenVINO does not compute in {precision} here")
    through, cached = learned_digits(tmp_path, None), learned_digits(tmp_path, choice)
    assert through[-1, 0] < 0.7 * through[0, 0], "or the test shows nothing"
    # Activations of that cosine are so far apart, as a share of their length; a loss is a mean over images.
    np.testing.assert_allclose(cached, through, rtol=(2 * (1 - choose.tolerance(choice).median_cosine)) ** 0.5)
    assert not np.array_equal(cached, through)


def test_one_engine_runs_all_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        built.append(named["input_size"])
        return build_engine(*given, **named)

    monkeypatch.setattr(frozen_base, "build_engine", counted)
    samples = [replace(s, digest=f"{n:064x}") for n, s in enumerate(colored(4, 1))]
    views = [None, *(View(AUGMENTATIONS["strong"], 0, number) for number in range(2))]
    bases = open_boundary(small_classifier(), "stem", CHOICE, 0, tmp_path, views)
    rows = [compute(samples, base, strict=True, description="").rows for base in bases]
    assert len(built) == 1
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])


def test_in_folds_all_images_have_all_rows(tmp_path: Path) -> None:
    samples = [replace(s, digest=f"{n:064x}") for n, s in enumerate(colored(12, 1))]
    views = [None, View(AUGMENTATIONS["crop"], 0, 0)]
    bases = open_boundary(small_classifier(), "stage1", CHOICE, 0, tmp_path, views)
    material = fill(bases, samples, torch.zeros(12), np.array([*range(5), *range(6, 12)]), 8, True)
    for base in bases:
        assert base.store.missing([s.digest for s in samples]) == [samples[5].digest], "the one that is unreadable"
    ((rows, _),) = material.batches(np.array([11, 0]), 4, 1)
    assert rows.shape == (2, 12)


def test_a_view_that_cannot_be_made_is_left_out_of_its_epochs_as_from_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = colored(6, 1)
    views = [View(AUGMENTATIONS["crop"], 0, number) for number in range(2)]

    def failing(source: Any, spec: Any, view: View, digest: str) -> Any:
        if digest == samples[3].digest and view == views[1]:
            raise ImageError("is cut short")
        return load_view(source, spec, view, digest)

    monkeypatch.setattr(loader, "load_view", failing)
    classifier = small_classifier()
    bases = open_boundary(classifier, "stem", CHOICE, 0, tmp_path, [None, *views])
    material = fill(bases, samples, torch.arange(6), np.arange(6), 6, False)
    assert material.failed == {(1, 3): "is cut short"}
    order = np.array([5, 3, 1, 0])
    pixels = replace(pixels_of(samples), labels=torch.arange(6))
    for size in (1, 2, 4):
        for at in (1, 2, 3, 4):
            drawn = PixelInputs(pixels, AUGMENTATIONS["crop"], 0).batches(order, size, (at - 1) % 2 + 1)
            found = [labels.tolist() for _, labels in material.batches(order, size, at)]
            assert found == [labels.tolist() for _, labels in drawn]
            assert any(3 in part for part in found) == (at % 2 == 1)


def test_a_plain_image_that_is_gone_is_named(tmp_path: Path) -> None:
    samples = [*colored(3, 1), Sample("gone.png", 0, path=tmp_path / "gone.png", digest="f" * 64)]
    bases = open_boundary(small_classifier(), "stem", CHOICE, 0, tmp_path)
    with pytest.raises(CacheError, match=r"^gone\.png: .*, though it could be read before$"):
        fill(bases, samples, torch.zeros(4), np.arange(4), 3, False)


def test_filling_that_takes_too_long_ends_and_continues_another_time(tmp_path: Path) -> None:
    samples = colored(9, 1)
    digests = [sample.digest for sample in samples]
    views = [None, View(AUGMENTATIONS["crop"], 0, 0)]
    bases = open_boundary(small_classifier(), "stem", replace(CHOICE, batch_size=2), 0, tmp_path, views)
    plain, drawn = (base.store for base in bases)
    with pytest.raises(OutOfTimeError, match=r"^stem, plain: the time is up after 2 of 9 images$"):
        fill(bases, samples, torch.zeros(9), np.arange(9), 9, True, time.perf_counter())
    assert (plain.missing(digests), drawn.missing(digests)) == (digests[2:], digests)
    fill(bases, samples, torch.zeros(9), np.arange(9), 9, True, time.perf_counter() + 1000)
    assert not plain.missing(digests)
    assert not drawn.missing(digests)
    # What is there already takes no time.
    fill(bases, samples, torch.zeros(9), np.arange(9), 9, True, time.perf_counter())


def test_filling_reads_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of a large set do not fit into memory."""
    monkeypatch.setattr(FeatureStore, "gather", lambda *given: pytest.fail("read back"))
    bases = open_boundary(small_classifier(), "stem", CHOICE, 0, tmp_path)
    samples = colored(4, 1)
    fill(bases, samples, torch.zeros(4), np.arange(4), 3, False)
    assert not bases[0].store.missing([sample.digest for sample in samples])


def test_a_disk_is_measured_and_left_clean(tmp_path: Path) -> None:
    assert 0 < measure_store(tmp_path / "new") < 1e-3
    assert not list((tmp_path / "new").iterdir())
    assert free_bytes(tmp_path / "not" / "there") > 0


def test_a_disk_that_takes_nothing_is_not_cached_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = measure_store(tmp_path / "file")
    assert store == float("inf")
    rates = Timings(COSTS, None, 1e-3, store)
    for asked in ("auto", "on"):
        decision = decide(
            rates, GROUPS, "stage1", train=10, val=5, epochs=3, views=1, quota=1 << 40, free=1 << 40, asked=asked
        )
        assert (decision.cached, decision.why) == (False, "nothing can be written there")
        json.dumps(asdict(decision), allow_nan=False)  # as an artifact keeps it


def test_only_the_longest_unused_make_room(tmp_path: Path) -> None:
    def there() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    for age, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    trim(tmp_path, 1000, [])
    assert there() == ["a", "b", "c", "d"]
    trim(tmp_path, 250, [tmp_path / "d"])
    assert there() == ["a", "b", "d"], "c is the oldest that is not needed"
    trim(tmp_path, 100, [])
    assert there() == ["d"], "what was needed last counts as new"
    trim(tmp_path, 0, [tmp_path / "d"])
    assert there() == ["d"]
    trim(tmp_path, -5, [])
    assert there() == []
    trim(tmp_path / "none", 0, [tmp_path / "none" / "x"])
