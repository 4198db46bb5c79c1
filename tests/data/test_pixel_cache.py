from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.small import SPEC, colored, pixels_of

from topgraft.data.augment import AUGMENTATIONS, View, load_view
from topgraft.data.pixel_cache import epoch, fits, open_pixels
from topgraft.data.samples import Sample
from topgraft.training.sgd.step import shuffled


def with_a_damaged_file(folder: Path) -> list[Sample]:
    samples = colored(10)
    bad = folder / "bad.png"
    Image.new("RGB", (20, 20)).save(bad)
    bad.write_bytes(bad.read_bytes()[:40])
    samples[4] = Sample("bad.png", 1, path=bad)
    return samples


@pytest.mark.parametrize("keep", [True, False])
def test_an_epoch_brings_every_image_with_its_label_in_order(keep: bool) -> None:
    samples = colored(11)
    pixels = pixels_of(samples, keep)
    order = np.array([3, 0, 10, 7, 5, 1])
    found = list(epoch(pixels, order, 4))
    assert [len(labels) for _, labels in found] == [4, 2]
    images = torch.cat([part for part, _ in found]).numpy()
    labels = torch.cat([part for _, part in found]).tolist()
    assert labels == [samples[index].label for index in order]
    assert all(np.array_equal(image, samples[index].array) for image, index in zip(images, order, strict=True))


@pytest.mark.parametrize("keep", [True, False])
def test_what_cannot_be_decoded_is_named_and_left_out(keep: bool, tmp_path: Path) -> None:
    pixels = open_pixels(with_a_damaged_file(tmp_path), SPEC, workers=2, keep=keep, description="decode")
    seen = torch.cat([labels for _, labels in epoch(pixels, shuffled(pixels.readable, 0, 1), 3)])
    assert len(seen) == 9
    assert pixels.readable.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    (entry,) = pixels.unreadable
    assert entry.name == "bad.png"
    assert "truncated" in entry.reason or "damaged" in entry.reason
    assert len(torch.cat([labels for _, labels in epoch(pixels, shuffled(pixels.readable, 0, 2), 3)])) == 9


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    images = np.arange(50)
    one = shuffled(images, 0, 1)
    assert sorted(one) == list(range(50))
    assert np.array_equal(one, shuffled(images, 0, 1))
    assert not np.array_equal(one, shuffled(images, 0, 2))
    assert not np.array_equal(one, shuffled(images, 1, 1))


def test_pixels_are_kept_up_to_a_gigabyte() -> None:
    from dataclasses import replace

    assert fits(60_000, replace(SPEC, input_size=32))
    assert not fits(60_000, replace(SPEC, input_size=224))


@pytest.mark.parametrize("keep", [True, False])
def test_a_view_is_decoded_anew_and_leaves_what_is_kept_alone(keep: bool) -> None:
    samples = colored(8)
    pixels = pixels_of(samples, keep)
    order = np.array([5, 2, 7, 0, 1])
    plain = torch.cat([part for part, _ in epoch(pixels, order, 2)])
    for number in (1, 2):
        view = View(AUGMENTATIONS["strong"], 0, number)
        found = list(epoch(pixels, order, 2, view))
        assert [len(labels) for _, labels in found] == [2, 2, 1]
        assert torch.cat([labels for _, labels in found]).tolist() == [samples[index].label for index in order]
        chosen = [samples[index] for index in order]
        expected = [load_view(sample.array, SPEC, view, sample.digest) for sample in chosen]
        assert np.array_equal(torch.cat([part for part, _ in found]).numpy(), np.stack(expected))
    assert torch.equal(torch.cat([part for part, _ in epoch(pixels, order, 2)]), plain)


@pytest.mark.parametrize("keep", [True, False])
def test_what_cannot_be_decoded_for_a_view_is_noted(keep: bool, tmp_path: Path) -> None:
    samples = colored(4)
    path = tmp_path / "changing.png"
    Image.new("RGB", (20, 20)).save(path)
    samples[1] = Sample("changing.png", 0, path=path, digest="ab" * 32)
    pixels = open_pixels(samples, SPEC, workers=2, keep=keep, description="decode")
    path.write_bytes(path.read_bytes()[:40])
    view = View(AUGMENTATIONS["crop"], 0, 1)
    seen = torch.cat([labels for _, labels in epoch(pixels, np.arange(4), 3, view)])
    assert len(seen) == 3
    assert [entry.name for entry in pixels.unreadable] == ["changing.png"]
