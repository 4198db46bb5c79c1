from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.stats import ks_2samp
from support.image_files import cmyk, gray, jpeg, oriented, saved

from topgraft.data.augment import AUGMENTATIONS, Augmentation, View, draw_crop, load_view, recolor
from topgraft.data.decode import decode, decoded
from topgraft.data.preprocess import FILTERS, load_pixels
from topgraft.data.samples import ImageSpec
from topgraft.errors import ImageError

SPEC = ImageSpec(32, 36, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
FULL = replace(SPEC, decode="full")
WHOLE = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False, color=0.0)
DIGEST = hashlib.sha256(b"an image").hexdigest()


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def view(name: str, seed: int = 0, number: int = 1) -> View:
    return View(AUGMENTATIONS[name], seed, number)


def slopes(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards: what a crop shows says where it lies."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, np.full_like(x, 90)], axis=-1).round().astype(np.uint8)


def crops(count: int, width: int, height: int, augmentation: Augmentation) -> np.ndarray:
    generator = np.random.default_rng(1)
    return np.array([draw_crop(width, height, augmentation, generator) for _ in range(count)])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(500, 375), (40, 90), (1000, 130)])
def test_crops_are_distributed_as_torchvisions(torchvision: ModuleType, name: str, size: tuple[int, int]) -> None:
    width, height = size
    drawn = AUGMENTATIONS[name]
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    image = Image.new("L", size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([get_params(image, list(drawn.scale), list(drawn.ratio)) for _ in range(1500)])
    top, left, down, across = theirs.T
    ours = crops(1500, width, height, drawn).T
    pairs = {
        "left": (ours[0], left),
        "top": (ours[1], top),
        "width": (ours[2] - ours[0], across),
        "height": (ours[3] - ours[1], down),
        "area": ((ours[2] - ours[0]) * (ours[3] - ours[1]), across * down),
        "shape": ((ours[2] - ours[0]) / (ours[3] - ours[1]), across / down),
    }
    # 54 comparisons of draws that never change: one in 20,000 is below this by chance.
    assert {what: p for what, (a, b) in pairs.items() if (p := ks_2samp(a, b).pvalue) < 5e-5} == {}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_area_is_even_in_its_range_and_the_shape_in_its_logarithm(name: str) -> None:
    drawn = AUGMENTATIONS[name]
    # Crops of up to half of a square of this size fit always, so that none is drawn again.
    limited = replace(drawn, scale=(drawn.scale[0] / 2, 0.5))
    left, top, right, bottom = crops(3000, 2000, 2000, limited).T
    shares = ((right - left) * (bottom - top) / 4e6 - limited.scale[0]) / (0.5 - limited.scale[0])
    shapes = np.log((right - left) / (bottom - top)) / (2 * np.log(4 / 3)) + 0.5
    places = (left / (2000 - (right - left)), top / (2000 - (bottom - top)))
    for values in (shares, shapes, *places):
        assert np.quantile(values, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


def test_what_never_fits_becomes_the_largest_central_crop_of_an_allowed_shape() -> None:
    standard = AUGMENTATIONS["standard"]
    generator = np.random.default_rng(0)
    assert draw_crop(1, 5000, standard, generator) == (0, 2499, 1, 2500)
    assert draw_crop(5000, 3, standard, generator) == (2498, 0, 2502, 3)
    assert draw_crop(100, 101, replace(WHOLE, ratio=(0.5, 0.5)), generator) == (25, 0, 75, 101)
    tall = replace(WHOLE, ratio=(0.25, 0.5))
    assert draw_crop(1, 1, tall, generator) == (0, 0, 1, 1)


@pytest.mark.parametrize("spec", [SPEC, FULL])
def test_a_crop_of_everything_is_the_whole_image_resized(spec: ImageSpec) -> None:
    array = slopes(50, 50)
    expected = np.asarray(Image.fromarray(array).resize((32, 32), FILTERS["bilinear"]))
    assert np.array_equal(load_view(array, spec, View(WHOLE, 0, 0), DIGEST), expected)


@pytest.mark.parametrize("number", range(6))
def test_a_view_shows_its_crop(number: int) -> None:
    # A mirrored crop runs from right to left, so flips would show.
    array = slopes(400, 300)
    found = load_view(array, FULL, view("crop", number=number), DIGEST).astype(float)
    red, green = found[16, :, 0], found[:, 16, 1]
    assert np.all(np.diff(red) > 0)
    assert np.all(np.diff(green) > 0)
    across, down = (red[-1] - red[0]) / 255 * 400 / (31 / 32), (green[-1] - green[0]) / 255 * 300 / (31 / 32)
    assert 0.48 < across * down / (400 * 300) < 1.02
    assert 0.72 < across / down < 1.37


def test_about_half_of_the_views_are_mirrored() -> None:
    array = slopes(40, 40)

    def mirrored(name: str, count: int) -> int:
        seen = [load_view(array, SPEC, view(name), digest(k)) for k in range(count)]
        return sum(bool(image[0, 0, 0] > image[0, -1, 0]) for image in seen)

    assert 250 < mirrored("standard", 600) < 350  # four standard deviations
    assert mirrored("crop", 50) == 0


def test_a_flip_changes_nothing_else() -> None:
    array = slopes(60, 80)
    flipping = AUGMENTATIONS["standard"]
    plain = [load_view(array, SPEC, View(replace(flipping, flip=False), 3, k), DIGEST) for k in range(12)]
    found = [load_view(array, SPEC, View(flipping, 3, k), DIGEST) for k in range(12)]
    same = [np.array_equal(a, b) for a, b in zip(plain, found, strict=True)]
    assert 0 < sum(same) < 12
    for a, b, equal in zip(plain, found, same, strict=True):
        assert equal or np.array_equal(a[:, ::-1], b)


def test_every_image_number_and_seed_has_its_own_crop() -> None:
    array = slopes(640, 480)
    base = load_view(array, SPEC, view("crop"), DIGEST)
    assert np.array_equal(base, load_view(array, SPEC, view("crop"), DIGEST))
    for other in (
        load_view(array, SPEC, view("crop", number=2), DIGEST),
        load_view(array, SPEC, view("crop", seed=1), DIGEST),
        load_view(array, SPEC, view("crop", seed=1, number=0), DIGEST),
        load_view(array, SPEC, view("crop"), digest(1)),
    ):
        assert not np.array_equal(base, other)


def test_what_is_drawn_is_the_same_in_every_process_and_version() -> None:
    """Views are cached, and training is resumed: a change of what is drawn must be noticed."""
    boxes = [
        draw_crop(640, 480, AUGMENTATIONS["strong"], np.random.default_rng([seed, number, 0, int(DIGEST, 16)]))
        for seed, number in ((0, 1), (7, 0))
    ]
    assert boxes == [(353, 124, 610, 444), (445, 180, 634, 331)]
    array = slopes(640, 480)
    (left, top, right, bottom) = boxes[0]
    cut = Image.fromarray(array).resize((32, 32), FILTERS["bilinear"], box=(left, top, right, bottom))
    found = load_view(array, FULL, View(replace(AUGMENTATIONS["strong"], flip=False, color=0.0), 0, 1), DIGEST)
    assert np.array_equal(found, np.asarray(cut))


def test_no_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        load_view(slopes(8, 8), SPEC, view("crop"), "")


def test_what_cannot_be_read_is_an_image_error(tmp_path: Path) -> None:
    data = saved(Image.fromarray(slopes(300, 200)), "PNG")
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        load_view(data[: len(data) // 2], SPEC, view("strong"), DIGEST)
    with pytest.raises(ImageError, match="no such file"):
        load_view(tmp_path / "missing.jpg", SPEC, view("strong"), DIGEST)
    with pytest.raises(ImageError, match="is empty"):
        load_view(b"", SPEC, view("strong"), DIGEST)


@pytest.mark.parametrize("spec", [SPEC, FULL])
@pytest.mark.parametrize("data", [jpeg(gray()), jpeg(cmyk()), saved(gray(), "PNG"), saved(cmyk(), "TIFF")])
def test_gray_and_cmyk_files_are_flattened_as_for_the_plain_crop(data: bytes, spec: ImageSpec) -> None:
    upright = np.asarray(decode(data))
    assert np.array_equal(
        load_view(data, spec, view("strong"), DIGEST), load_view(upright, spec, view("strong"), DIGEST)
    )


@pytest.mark.parametrize("value", range(1, 9))
def test_a_crop_is_drawn_on_the_upright_image(value: int) -> None:
    # The picture is 96×64, and its halves must lie at the same place in a view however they are stored. At four
    # pixels it is shrunk while it is decoded.
    tiny = replace(SPEC, input_size=4, resize_size=4)
    data = oriented(value, "JPEG", quality=95)
    with decoded(data, lambda width, height: 8) as (image, size):
        assert (image.size, size) == ((12, 8), (96, 64))
    for number in range(5):
        found = load_view(data, tiny, view("standard", number=number), DIGEST).astype(int)
        expected = load_view(np.asarray(decode(data)), tiny, view("standard", number=number), DIGEST).astype(int)
        assert np.abs(found - expected).mean() < 6


@pytest.mark.parametrize("size", [(3024, 3024), (1025, 770), (220, 310), (9, 2000)])
def test_a_jpeg_is_shrunk_as_far_as_its_crop_allows(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    data = jpeg(Image.fromarray(slopes(*size)))
    drawn = replace(AUGMENTATIONS["strong"], color=0.0)
    sizes: list[tuple[int, int]] = []

    @contextmanager
    def watched(*arguments: Any) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
        with decoded(*arguments) as (image, before):
            assert before == size
            sizes.append(image.size)
            yield image, before

    monkeypatch.setattr("topgraft.data.augment.decoded", watched)
    for number in range(8):
        found = load_view(data, SPEC, View(drawn, 0, number), DIGEST).astype(int)
        full = load_view(data, FULL, View(drawn, 0, number), DIGEST).astype(int)
        assert np.abs(found - full).mean() < 2
        scaled, whole = sizes[-2:]
        assert whole == size
        left, top, right, bottom = draw_crop(*size, drawn, np.random.default_rng([0, number, 0, int(DIGEST, 16)]))
        crop = min(right - left, bottom - top)
        times = round(max(size) / max(scaled))
        assert times in (1, 2, 4, 8)
        assert times == 1 or crop / times >= 32
        assert times == 8 or crop / (2 * times) < 34  # the next step would be too far, but for rounding
    assert (len(set(sizes)) > 1) == (min(size) > 9)


def test_colors_are_those_of_pillow() -> None:
    image = Image.fromarray(slopes(64, 64) // 2 + 40)  # far from 0 and 255, where the steps would be cut one by one
    for factors in ((1.3, 1.0, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 1.4), (0.8, 1.2, 0.7), (1.1, 0.9, 1.3)):
        expected = image
        for enhance, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
        ):
            expected = enhance(expected).enhance(factor)
        apart = np.abs(np.asarray(recolor(image, *factors)).astype(int) - np.asarray(expected))
        assert apart.max() <= 3, factors  # Pillow rounds three times, and the mean
    assert np.array_equal(np.asarray(recolor(image, 1.0, 1.0, 1.0)), np.asarray(image))
    black = recolor(image, 0.0, 1.0, 1.0)
    assert np.asarray(black).max() == 0


def test_colors_differ_from_view_to_view_and_stay_in_their_range() -> None:
    flat = np.full((40, 40, 3), 100, dtype=np.uint8)
    strong = replace(AUGMENTATIONS["strong"], color=0.4)
    means = [float(load_view(flat, SPEC, View(strong, 0, k), DIGEST).mean()) for k in range(200)]
    assert 60 <= min(means) < 70 < 130 < max(means) <= 140  # gray of one color: only its brightness shows
    white = np.full((40, 40, 3), 255, dtype=np.uint8)
    assert load_view(white, SPEC, View(replace(strong, color=3.0), 0, 0), DIGEST).dtype == np.uint8


def test_the_plain_crop_is_untouched_by_views() -> None:
    array = slopes(90, 70)
    before = load_pixels(array, SPEC)
    load_view(array, SPEC, view("strong"), DIGEST)
    assert np.array_equal(before, load_pixels(array, SPEC))
