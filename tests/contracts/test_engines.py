"""Every engine at every precision that this machine has: the numbers it states, and how it may be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

from topgraft.data.loader import Batch
from topgraft.features import engines
from topgraft.features.engines import base, choose
from topgraft.features.engines.base import EngineChoice
from topgraft.models.classifier import load_pretrained

SIDE = 224
PHOTOS = 24
DIGITS = 160
POSSIBLE = choose.possible()


def photos() -> NDArray[np.uint8]:
    """Crops of two real photos at several scales; near ones overlap, none is empty sky."""
    made = []
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        image = Image.fromarray(load_sample_images().images[number % 2])
        side = int(rng.integers(SIDE, image.height + 1))
        left = int(rng.integers(0, image.width - side + 1))
        top = int(rng.integers(0, image.height - side + 1))
        box = (left, top, left + side, top + side)
        made.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)))
    return np.stack(made)


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = load_digits(return_X_y=True)
    made = []
    for pixels in images[:DIGITS]:
        gray = Image.fromarray((255 - pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8))
        made.append(np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")))
    return np.stack(made), labels[:DIGITS].astype(np.int64)


def test_the_table_is_what_this_machine_can_choose_from() -> None:
    assert {choice.name for choice in POSSIBLE} == {name for name, found in engines.available().items() if found}
    assert POSSIBLE[0] == choose.choose()


@pytest.fixture(scope="module")
def prefix() -> torch.nn.Module:
    return load_pretrained("efficientnet_lite0").prefix("stage7")


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.concatenate([photos(), digits()[0]])


@pytest.fixture(scope="module")
def reference(prefix: torch.nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Eager float32, as the usual loops run it."""
    with torch.inference_mode():
        rows = [prefix(torch.from_numpy(pixels[at : at + 4])).numpy() for at in range(0, len(pixels), 4)]
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module", params=POSSIBLE, ids=lambda c: f"{c.name}-{c.precision}-{c.device}")
def engine(request: pytest.FixtureRequest, prefix: torch.nn.Module, folder: Path) -> base.Engine:
    choice: EngineChoice = request.param
    return choose.build_engine(choice, prefix, input_size=SIDE, key="lite0", folder=folder)


@pytest.fixture(scope="module")
def computed(engine: base.Engine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return run(engine, pixels)


def cut(pixels: NDArray[np.uint8], size: int) -> Iterator[Batch]:
    for at in range(0, len(pixels), size):
        part = pixels[at : at + size]
        yield Batch(np.arange(at, at + len(part)), torch.from_numpy(np.ascontiguousarray(part)))


def run(engine: base.Engine, pixels: NDArray[np.uint8], size: int = 16) -> NDArray[np.float32]:
    found = list(engine.run(cut(pixels, size)))
    assert np.array_equal(np.concatenate([indices for indices, _ in found]), np.arange(len(pixels)))
    return np.concatenate([rows for _, rows in found])


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_features_keep_the_stated_cosine_to_eager_float32(
    engine: base.Engine, computed: NDArray[np.float32], reference: NDArray[np.float32]
) -> None:
    assert computed.dtype == np.float32
    found = cosines(computed, reference)
    assert found.min() >= choose.tolerance(engine.choice).cosine
    assert np.median(found[:PHOTOS]) >= choose.tolerance(engine.choice).median_cosine


def test_the_same_head_keeps_its_accuracy(
    engine: base.Engine, computed: NDArray[np.float32], reference: NDArray[np.float32]
) -> None:
    labels = digits()[1]
    half = DIGITS // 2
    truth, ours = reference[PHOTOS:], computed[PHOTOS:]
    head = LogisticRegression(C=100, max_iter=2000).fit(truth[:half], labels[:half])
    with_truth = head.score(truth[half:], labels[half:])
    with_ours = head.score(ours[half:], labels[half:])
    assert with_truth > 0.7  # ten classes; far from what guessing gives, and from certain
    assert abs(with_ours - with_truth) <= choose.tolerance(engine.choice).accuracy


def test_a_row_depends_on_its_image_alone(
    engine: base.Engine, computed: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> None:
    order = np.random.default_rng(1).permutation(30)
    again = run(engine, pixels[:30][order], size=7)  # other neighbors, other places, short batches
    assert np.array_equal(again, computed[:30][order])


def test_batches_that_lost_images_are_no_trouble(
    engine: base.Engine, computed: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> None:
    none = torch.empty((0, SIDE, SIDE, 3), dtype=torch.uint8)
    given = [
        Batch(np.array([], dtype=np.int64), none, ((0, "bad"), (1, "bad"))),
        Batch(np.array([3, 5]), torch.from_numpy(pixels[[3, 5]]), ((2, "bad"), (4, "bad"))),
        Batch(np.array([], dtype=np.int64), none),
        Batch(np.array([7]), torch.from_numpy(pixels[[7]])),
    ]
    found = list(engine.run(given))
    assert [indices.tolist() for indices, _ in found] == [[3, 5], [7]]
    assert np.array_equal(np.concatenate([rows for _, rows in found]), computed[[3, 5, 7]])


def test_nothing_in_nothing_out(engine: base.Engine) -> None:
    assert list(engine.run([])) == []


def test_a_caller_may_stop_and_start_again(
    engine: base.Engine, computed: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> None:
    first = engine.run(cut(pixels[:40], 4))
    indices, rows = next(first)
    second = engine.run(cut(pixels[:8], 4))  # at the same time as the first
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert np.array_equal(rows, computed[indices])
    assert np.array_equal(run(engine, pixels[:12]), computed[:12])
    assert [indices.tolist() for indices, _ in second] == [[4, 5, 6, 7]]


def test_an_error_of_the_batches_comes_through(engine: base.Engine, pixels: NDArray[np.uint8]) -> None:
    def failing() -> Iterator[Batch]:
        yield from cut(pixels[:8], 4)
        raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError, match="the disk went away"):
        list(engine.run(failing()))


def test_a_feature_map_is_a_boundary_too(engine: base.Engine, folder: Path, pixels: NDArray[np.uint8]) -> None:
    below = load_pretrained("efficientnet_lite0").prefix("stage2")
    built = choose.build_engine(engine.choice, below, input_size=SIDE, key="lite0 stage2", folder=folder)
    found = run(built, pixels[:6], size=6)
    with torch.inference_mode():
        expected = below(torch.from_numpy(pixels[:6])).numpy()
    assert found.shape == expected.shape == (6, 24, 56, 56)
    assert cosines(found.reshape(6, -1), expected.reshape(6, -1)).min() >= choose.tolerance(engine.choice).cosine


def test_the_prefix_is_left_as_it_was(engine: base.Engine, folder: Path) -> None:
    mine = load_pretrained("efficientnet_lite0").prefix("stage1")
    before = {name: (value.clone(), value.stride(), value.requires_grad) for name, value in mine.named_parameters()}
    built = choose.build_engine(engine.choice, mine, input_size=SIDE, key="lite0 stage1", folder=folder)
    list(built.run([Batch(np.array([0]), torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8))]))
    for name, value in mine.named_parameters():
        was, stride, needs_gradient = before[name]
        assert torch.equal(value, was)
        assert (value.stride(), value.requires_grad) == (stride, needs_gradient)


def test_a_prefix_in_training_mode_is_refused(engine: base.Engine, folder: Path) -> None:
    training = load_pretrained("efficientnet_lite0").train().prefix("stage1")
    with pytest.raises(ValueError, match="evaluation mode"):
        choose.build_engine(engine.choice, training, input_size=SIDE, key="x", folder=folder)


def test_it_says_what_it_is(engine: base.Engine) -> None:
    assert EngineChoice(**asdict(engine.choice)) == engine.choice
    assert engine.version == engines.version(engine.choice.name)
    assert engine.version.startswith(f"{engine.choice.name} ")


def test_the_thread_count_of_pytorch_is_left_alone(engine: base.Engine, pixels: NDArray[np.uint8]) -> None:
    before = torch.get_num_threads()
    run(engine, pixels[:4])
    assert torch.get_num_threads() == before
