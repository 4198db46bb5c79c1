"""What phases step on: pixels with views of their own in each epoch, and rows of a cache."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.small import colored, pixels_of

from topgraft.data.augment import AUGMENTATIONS
from topgraft.errors import DataError
from topgraft.training.inputs import CachedActivations, PixelInputs

ORDER = np.array([5, 1, 7, 0, 3])


def batches(material: Any, order: np.ndarray = ORDER, size: int = 2, at: int | None = None) -> list[Any]:
    return list(material.batches(order, size, at))


def test_batches_come_in_the_order_with_their_labels() -> None:
    pixels = pixels_of(colored(9, 1))
    assert pixels.kept is not None
    found = batches(PixelInputs(pixels))
    assert [len(labels) for _, labels in found] == [2, 2, 1]
    assert torch.equal(torch.cat([images for images, _ in found]), pixels.kept[torch.from_numpy(ORDER)])
    assert torch.equal(torch.cat([labels for _, labels in found]), pixels.labels[torch.from_numpy(ORDER)])


def test_an_epoch_has_views_of_its_own_whatever_the_order() -> None:
    pixels = pixels_of(colored(9, 1))
    material = PixelInputs(pixels, AUGMENTATIONS["strong"], seed=3)
    one, again, two = (torch.cat([i for i, _ in batches(material, at=at)]) for at in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    backwards = torch.cat([i for i, _ in batches(material, ORDER[::-1].copy(), size=3, at=1)])
    assert torch.equal(backwards.flip(0), one)
    plain = torch.cat([i for i, _ in batches(material)])
    assert pixels.kept is not None
    assert torch.equal(plain, pixels.kept[torch.from_numpy(ORDER)])
    other = torch.cat([i for i, _ in batches(PixelInputs(pixels, AUGMENTATIONS["strong"], seed=4), at=1)])
    assert not torch.equal(one, other)


@pytest.mark.parametrize("alone", [False, True])
def test_an_image_that_judges_and_is_gone_is_named(tmp_path: Path, alone: bool) -> None:
    """Left out, it would shift what is compared image by image."""
    samples = colored(9, 1)
    samples[7] = replace(samples[7], array=None, path=tmp_path / "gone.png", name="gone.png")
    judged = pixels_of(samples[6:]) if alone else None
    material = PixelInputs(pixels_of(samples, keep=False), None, 0, judged, first=6)
    assert [len(labels) for _, labels in batches(material, np.array([6, 8]))] == [2]
    with pytest.raises(DataError, match=r"gone\.png(.|\n)*continue with --resume"):
        batches(material, np.array([6, 7, 8]))
    assert [len(labels) for _, labels in batches(material, np.array([0, 7]), at=1)] == [1], "it is left out of training"


def test_a_view_that_failed_once_does_not_end_what_judges_the_image_later(tmp_path: Path) -> None:
    """As in folds, where all images train and judge in turn."""
    samples = colored(4, 1)
    samples[3] = replace(samples[3], array=None, path=tmp_path / "late.png", name="late.png")
    material = PixelInputs(pixels_of(samples, keep=False), AUGMENTATIONS["crop"])
    material.pixels.failed.clear()
    assert [len(labels) for _, labels in batches(material, np.arange(4), 4, at=1)] == [3]
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "late.png")
    assert [len(labels) for _, labels in batches(material, np.arange(4), 4)] == [4]


def test_images_that_judge_may_be_kept_alone() -> None:
    samples = colored(9, 1)
    loose, judged = pixels_of(samples, keep=False), pixels_of(samples[6:])
    material = PixelInputs(loose, AUGMENTATIONS["crop"], 0, judged, first=6)
    order = np.array([8, 6])
    ((images, labels),) = batches(material, order)
    assert judged.kept is not None
    assert torch.equal(images, judged.kept[[2, 0]])
    assert torch.equal(labels, loose.labels[[8, 6]])
    # Not where they train, as in folds.
    ((views, _),) = batches(material, order, at=1)
    assert not torch.equal(views, images)
    ((mixed, _),) = batches(material, np.array([0, 8]))
    assert torch.equal(mixed[1], judged.kept[2])


@dataclass
class Rows:
    """A store that knows its number."""

    number: int
    map: bool = False

    def gather(self, digests: list[str]) -> np.ndarray:
        rows = np.array([[self.number, int(digest)] for digest in digests], dtype=np.float32)
        return rows.reshape(len(digests), 2, 1, 1).repeat(3, 2).repeat(3, 3) if self.map else rows


@pytest.mark.parametrize("ahead", [False, True])
def test_views_of_a_cache_come_in_turn(ahead: bool) -> None:
    labels = torch.arange(9)
    stores: Any = tuple(Rows(number) for number in range(4))
    material = CachedActivations(labels, "stem", [str(n) for n in range(9)], stores[0], stores[1:], ahead=ahead)
    seen = {at: {int(row[0]) for rows, _ in batches(material, at=at) for row in rows} for at in (None, 1, 2, 3, 4)}
    assert seen == {None: {0}, 1: {1}, 2: {2}, 3: {3}, 4: {1}}
    found = batches(material, at=1)
    assert [len(rows) for rows, _ in found] == [2, 2, 1]
    assert torch.equal(torch.cat([rows[:, 1] for rows, _ in found]).long(), torch.from_numpy(ORDER))
    assert torch.equal(torch.cat([found for _, found in found]), torch.from_numpy(ORDER))
    alone = CachedActivations(labels, "stem", [str(n) for n in range(9)], stores[2])
    assert all(int(row[0]) == 2 for rows, _ in batches(alone, at=5) for row in rows)


def test_maps_lie_as_convolutions_take_them() -> None:
    store: Any = Rows(1, map=True)
    material = CachedActivations(torch.arange(9), "stem", [str(n) for n in range(9)], store)
    rows, _ = batches(material)[0]
    assert rows.shape == (2, 2, 3, 3)
    assert rows.is_contiguous(memory_format=torch.channels_last)


@dataclass
class Slow:
    """A store that notes what is read, and by which thread; it fails at one image, and waits where it is told to."""

    bad: str = ""
    read: list[list[str]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    second: threading.Event = field(default_factory=threading.Event)

    def gather(self, digests: list[str]) -> np.ndarray:
        self.read.append(digests)
        self.threads.add(threading.current_thread().name)
        if self.bad in digests:
            raise KeyError(self.bad)
        if len(self.read) > 1:
            self.second.set()
        return np.array([[int(digest)] for digest in digests], dtype=np.float32)


def reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("topgraft-read")]


def stored(store: Any) -> CachedActivations:
    return CachedActivations(torch.arange(9), "stem", [str(n) for n in range(9)], store, ahead=True)


def test_one_batch_is_read_ahead_and_no_more_and_the_thread_ends_with_the_iterator() -> None:
    store = Slow()
    walk: Any = stored(store).batches(np.arange(9), 2, None)
    rows, labels = next(walk)
    assert store.second.wait(10)
    assert (rows[:, 0].tolist(), labels.tolist()) == ([0, 1], [0, 1])
    assert store.read == [["0", "1"], ["2", "3"]]
    assert threading.current_thread().name not in store.threads
    assert reading()
    walk.close()
    assert not reading()
    assert list(stored(store).batches(np.arange(0), 2, None)) == []
    here = Slow()
    next(replace(stored(here), ahead=False).batches(np.arange(9), 2, None))
    assert here.threads == {threading.current_thread().name}


def test_what_the_thread_meets_comes_through_in_its_turn() -> None:
    walk = stored(Slow(bad="3")).batches(np.arange(9), 2, None)
    assert len(next(walk)[0]) == 2
    with pytest.raises(KeyError):
        next(walk)
    assert not reading()
