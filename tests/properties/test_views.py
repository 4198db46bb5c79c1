"""A view is a function of seed, number and content alone, and its crop lies in the image."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from topgraft.data.augment import Augmentation, View, draw_crop, load_view
from topgraft.data.hashing import digest_bytes
from topgraft.data.loader import batches
from topgraft.data.pixel_cache import epoch, open_pixels
from topgraft.data.samples import ImageSpec, Sample

SPEC = ImageSpec(16, 18, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

SHARES = st.floats(0.01, 1.0)
RATIOS = st.floats(0.2, 5.0)
SIDES = st.one_of(st.integers(1, 12), st.integers(1, 400), st.sampled_from([3024, 5000]))
DIGESTS = st.binary(max_size=8).map(digest_bytes)


@st.composite
def augmentations(draw: st.DrawFn) -> Augmentation:
    low, high = sorted((draw(SHARES), draw(SHARES)))
    narrow, wide = sorted((draw(RATIOS), draw(RATIOS)))
    return Augmentation((low, high), (narrow, wide), draw(st.booleans()), draw(st.sampled_from([0.0, 0.4, 1.5])))


VIEWS = st.builds(View, augmentations(), st.integers(0, 2**40), st.integers(0, 10**6))


@settings(max_examples=300, deadline=None)
@given(width=SIDES, height=SIDES, drawn=augmentations(), seed=st.integers(0, 99))
def test_a_crop_lies_inside_the_image(width: int, height: int, drawn: Augmentation, seed: int) -> None:
    left, top, right, bottom = draw_crop(width, height, drawn, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@settings(max_examples=60, deadline=None)
@given(
    width=st.one_of(st.integers(1, 150), st.just(2000)),
    height=st.integers(1, 150),
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    kind=st.sampled_from(["JPEG", "TIFF"]),
    decode=st.sampled_from(["scaled", "full"]),
    view=VIEWS,
    digest=DIGESTS,
)
def test_every_file_has_every_view(
    width: int, height: int, mode: str, kind: str, decode: str, view: View, digest: str
) -> None:
    spec = replace(SPEC, decode=decode)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        Image.new(mode, (width, height), 70 if mode == "L" else (70,) * len(mode)).save(path, kind)
        found = load_view(path, spec, view, digest)
        assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
        assert np.array_equal(found, load_view(path.read_bytes(), spec, view, digest))


def samples(count: int) -> list[Sample]:
    made = []
    for number in range(count):
        array = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        made.append(Sample(str(number), number % 3, array=array, digest=digest_bytes(array.tobytes())))
    return made


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(9)),
    batch_size=st.integers(1, 10),
    workers=st.integers(0, 3),
    keep=st.booleans(),
    view=VIEWS,
)
def test_views_depend_on_no_order_batch_or_worker(
    order: list[int], batch_size: int, workers: int, keep: bool, view: View
) -> None:
    images = samples(9)
    expected = [load_view(sample.array, SPEC, view, sample.digest) for sample in images if sample.array is not None]
    shuffled = [images[index] for index in order]
    made = list(batches(shuffled, SPEC, batch_size=batch_size, workers=workers, view=view))
    assert [index for batch in made for index in batch.indices] == list(range(9))
    pixels = open_pixels(images, SPEC, workers=workers, keep=keep, description="decode")
    stepped = list(epoch(pixels, np.array(order), batch_size, view))
    assert torch.cat([labels for _, labels in stepped]).tolist() == [index % 3 for index in order]
    for found in (torch.cat([batch.pixels for batch in made]), torch.cat([part for part, _ in stepped])):
        assert np.array_equal(found.numpy(), np.stack([expected[index] for index in order]))


@settings(max_examples=100, deadline=None)
@given(one=VIEWS, other=VIEWS)
def test_keys_are_equal_where_views_are(one: View, other: View) -> None:
    assert (one.key == other.key) == (one == other)
    assert one.key == View(replace(one.augmentation), one.seed, one.number).key
    assert replace(one, number=one.number + 1).key != one.key
    assert replace(one, seed=one.seed + 1).key != one.key
    for change in ({"flip": not one.augmentation.flip}, {"color": one.augmentation.color + 0.1}):
        assert replace(one, augmentation=replace(one.augmentation, **change)).key != one.key


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), number=st.integers(0, 1000), digest=DIGESTS, change=st.integers(0, 2))
def test_another_seed_number_or_image_has_another_crop(seed: int, number: int, digest: str, change: int) -> None:
    strong = Augmentation((0.08, 1.0), (3 / 4, 4 / 3), True, 0.4)
    x, y = np.meshgrid(np.linspace(0, 255, 90), np.linspace(0, 255, 70))
    array = np.stack([x, y, x], axis=-1).astype(np.uint8)
    other = (seed + (change == 0), number + (change == 1), digest_bytes(digest.encode()) if change == 2 else digest)
    found = load_view(array, SPEC, View(strong, seed, number), digest)
    assert not np.array_equal(found, load_view(array, SPEC, View(strong, *other[:2]), other[2]))
