from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.small import SPEC, colored, pixels_of, small_classifier
from torch import nn

from topgraft.data.pixel_cache import Pixels
from topgraft.errors import TrainingStalledError
from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.strategies.history import EpochRecord
from topgraft.strategies.plan import Phase, Rule, table
from topgraft.training.inputs import PixelInputs
from topgraft.training.sgd.divergence import chance_loss
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.step import StepChoices, shuffled

PLAIN = StepChoices("adam", 16, "fp32", "cpu", updates_batchnorm=True)


@pytest.fixture(scope="module")
def train() -> Pixels:
    return pixels_of(colored(96, 1))


@pytest.fixture(scope="module")
def val() -> Pixels:
    return pixels_of(colored(48, 2))


def run(
    classifier: Classifier, train: Pixels, val: Pixels, choices: StepChoices, *, epochs: int = 3, lr: float = 0.01,
    rules: tuple[Rule, ...] = (Rule("*", 1.0),),
) -> list[EpochRecord]:  # fmt: skip
    phase = Phase("full", rules, epochs, lr)
    rows = table(tuple(classifier.groups), rules)
    freeze.apply(dict(classifier.groups.items()), rows)
    together = pixels_of([*train.samples, *val.samples])
    first = np.arange(len(train.samples))
    second = np.arange(len(val.samples)) + len(first)
    return list(run_phase(classifier, phase, 0, rows, PixelInputs(together), first, second, choices))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_it_learns(train: Pixels, val: Pixels, precision: str, optimizer: str) -> None:
    classifier = small_classifier()
    records = run(classifier, train, val, replace(PLAIN, precision=precision, optimizer=optimizer), epochs=6, lr=0.02)
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5, 6]
    first, last = records[0], records[-1]
    assert first.train_loss is not None
    assert last.train_loss is not None
    assert last.train_loss < 0.5 * first.train_loss
    assert last.val_top1 is not None
    assert last.val_top1.value > 0.9
    assert last.val_top1.n == 48
    assert not any(module.training for module in classifier.modules())


def test_the_same_seed_gives_the_same_bits(train: Pixels, val: Pixels) -> None:
    states = []
    for seed in (0, 0, 1):
        classifier = small_classifier()
        run(classifier, train, val, replace(PLAIN, seed=seed))
        states.append(classifier.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_it_is_the_plain_loop(train: Pixels, val: Pixels) -> None:
    """The same losses and tensors as the loop that everybody writes, on the same batches."""
    classifier, plain = small_classifier(), small_classifier()
    (record,) = run(classifier, train, val, PLAIN, epochs=1)
    assert train.kept is not None
    plain.train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, eps=1e-7)
    losses = []
    order = shuffled(np.arange(96), 0, 1)
    for start in range(0, 96, 16):
        chosen = torch.from_numpy(order[start : start + 16])
        loss = nn.functional.cross_entropy(plain(train.kept[chosen]), train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert record.train_loss == pytest.approx(np.mean(losses), rel=1e-4)
    for key, tensor in plain.state_dict().items():
        torch.testing.assert_close(classifier.state_dict()[key], tensor, rtol=1e-3, atol=1e-5)


def test_frozen_groups_keep_every_bit_and_batchnorm_keeps_its_statistics(train: Pixels, val: Pixels) -> None:
    for rules, choices, same in (
        ((Rule("stem", None), Rule("*", 1.0)), PLAIN, "stem."),
        ((Rule("*", 1.0),), replace(PLAIN, updates_batchnorm=False), "stem.1.running"),
    ):
        classifier = small_classifier()
        before = {key: tensor.clone() for key, tensor in classifier.groups.state_dict().items()}
        run(classifier, train, val, choices, rules=rules, epochs=1)
        after = classifier.groups.state_dict()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert "head.weight" in changed
        assert not any(key.startswith(same) for key in changed)
    assert "stem.0.weight" in changed


def test_the_best_epoch_is_kept(train: Pixels, val: Pixels) -> None:
    classifier = small_classifier()
    records = run(classifier, train, val, PLAIN, epochs=5, lr=0.3)  # so high that it goes up and down
    assert len({record.val_loss for record in records}) == 5
    best = max(
        records, key=lambda record: (record.val_top1.value if record.val_top1 else 0, -(record.scaled_loss or 0))
    )
    assert val.kept is not None
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(classifier(val.kept), val.labels)
    assert float(loss) == pytest.approx(best.val_loss, rel=1e-3)


def test_class_weights_weigh_the_loss(val: Pixels) -> None:
    lopsided = pixels_of([s for s in colored(300, 3) if s.label != 2 or int(s.name.split("/")[1]) < 12])
    plain, weighted = small_classifier(), small_classifier()
    run(plain, lopsided, val, PLAIN, epochs=1, lr=0.003)
    run(weighted, lopsided, val, replace(PLAIN, class_weights=np.array([0.1, 0.1, 10.0])), epochs=1, lr=0.003)
    assert val.kept is not None
    with torch.inference_mode():
        shares = [torch.softmax(c(val.kept), 1)[:, 2].mean().item() for c in (plain, weighted)]
    assert shares[1] > 2 * shares[0]


def dying() -> Classifier:
    """Dense layers of few ReLUs, which a rate of 1 sends below zero for good; a tenth of it learns."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.ReLU())]
        stage = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), *hidden)
        chain: dict[str, nn.Module] = {"stage1": stage, "head": nn.Linear(16, 3)}
    return Classifier(chain, SPEC).eval()


def test_a_rate_that_does_not_learn_is_noticed_and_a_lower_one_named(val: Pixels) -> None:
    many = pixels_of(colored(3600, 4))
    with pytest.raises(TrainingStalledError) as caught:
        run(dying(), many, val, PLAIN, epochs=1, lr=1.0)
    stall = caught.value
    assert stall.rate is not None
    assert stall.rate < 1.0
    assert set(stall.curves) >= {1.0, stall.rate}
    assert stall.curves[1.0][-1][0] <= 200
    assert stall.curves[stall.rate][-1][1] < 0.95 * math.log(3)
    assert f"--lr {stall.rate:g}" in str(stall)


def test_it_can_go_on_with_the_lower_rate(val: Pixels) -> None:
    many = pixels_of(colored(3600, 4))
    classifier = dying()
    (record,) = run(classifier, many, val, replace(PLAIN, stalled="lower"), epochs=1, lr=1.0)
    assert record.lr is not None
    assert record.lr < 1.0
    assert record.val_top1 is not None
    assert record.val_top1.value > 0.9
    straight = dying()
    run(straight, many, val, PLAIN, epochs=1, lr=record.lr)
    state = straight.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in classifier.state_dict().items())


def test_it_can_be_ignored(val: Pixels) -> None:
    many = pixels_of(colored(3600, 4))
    (record,) = run(dying(), many, val, replace(PLAIN, stalled="ignore"), epochs=1, lr=1.0)
    assert record.lr == 1.0
    assert record.train_loss is not None
    assert record.train_loss > 0.98 * math.log(3)


def test_labels_without_meaning_are_no_stall(val: Pixels, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no rate learns, no rate is to blame: training continues, and says so."""
    random = np.random.default_rng(0)
    noise = pixels_of([replace(s, label=int(random.integers(3))) for s in colored(3600, 5)])
    (record,) = run(small_classifier(), noise, val, PLAIN, epochs=1, lr=0.001)
    assert record.lr == 0.001
    assert "continuing" in capsys.readouterr().err


def test_chance_is_the_entropy_of_the_shares() -> None:
    assert chance_loss(np.repeat(np.arange(10), 5), None) == pytest.approx(math.log(10))
    shares = np.array([0.75, 0.25])
    assert chance_loss(np.array([0, 0, 0, 1]), None) == pytest.approx(float(-(shares * np.log(shares)).sum()))
    assert chance_loss(np.array([0, 0, 0, 1]), np.array([1.0, 3.0])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("count", [7, 16, 17])
def test_few_images_and_a_lone_last_one_are_enough(val: Pixels, count: int) -> None:
    """One batch an epoch, and a batch of one image where BatchNorm has a single value for each channel."""
    classifier = small_classifier()
    classifier.groups["stem"].append(nn.AdaptiveAvgPool2d(1)).append(nn.BatchNorm2d(8))
    classifier.groups["stage1"][0].stride = (1, 1)
    records = run(classifier, pixels_of(colored(count, 6)), val, PLAIN, epochs=6)
    assert len(records) == 6


def test_weights_that_overflow_are_an_error_and_not_a_result(val: Pixels) -> None:
    from topgraft.errors import TopgraftError

    with pytest.raises(TopgraftError, match=r"learning rate 1e\+30"):
        run(small_classifier(), pixels_of(colored(16, 1)), val, replace(PLAIN, optimizer="sgd"), epochs=1, lr=1e30)
