"""Every odd file is read right or named with its reason; none crashes and none is silently replaced."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_files import png, saved
from support.odd_images import Case, cases

from topgraft.data.decode import decode
from topgraft.data.loader import batches
from topgraft.data.preprocess import load_pixels, probe
from topgraft.data.samples import ImageSpec, Sample
from topgraft.errors import ImageError

CASES = cases()
SPECS = {
    how: ImageSpec(32, 32, "bilinear", (0.5,) * 3, (0.5,) * 3, decode=how)  # type: ignore[arg-type]
    for how in ("scaled", "full")
}


def write(folder: Path) -> list[Path]:
    paths = [folder / case.name for case in CASES]
    for path, case in zip(paths, CASES, strict=True):
        path.write_bytes(case.data)
    return paths


def test_the_corpus_has_many_kinds_of_each_outcome() -> None:
    assert len({case.name.lower() for case in CASES}) == len(CASES)
    assert sum(not case.reason for case in CASES) >= 60
    assert sum(bool(case.reason) for case in CASES) >= 60


@pytest.mark.parametrize("how", ["scaled", "full"])
@pytest.mark.parametrize("case", CASES, ids=[case.name[:60].encode("ascii", "replace").decode() for case in CASES])
def test_outcome(tmp_path: Path, case: Case, how: str) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.data)
    if case.reason:
        with pytest.raises(ImageError) as caught:
            load_pixels(path, SPECS[how])
        reason = str(caught.value)
        assert reason.startswith(case.reason), reason
        assert "\n" not in reason
        return
    pixels = load_pixels(path, SPECS[how])
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert min(probe(case.data)) > 0
    # The outer parts: near the edge between the halves a filter or a lossy format mixes them.
    for part, color in ((pixels[8:24, :6], case.left), (pixels[8:24, 26:], case.right)):
        assert abs(part.astype(int) - color).max() <= case.within, part[0, 0]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_keep_order_and_name_every_failure(tmp_path: Path, workers: int) -> None:
    samples = [Sample(path.name, 0, path=path) for path in write(tmp_path)]
    made = list(batches(samples, SPECS["scaled"], batch_size=7, workers=workers))
    indices = [sorted([*batch.indices, *(index for index, _ in batch.failed)]) for batch in made]
    assert indices == [list(range(len(CASES)))[start : start + 7] for start in range(0, len(CASES), 7)]
    reasons = {index: reason for batch in made for index, reason in batch.failed}
    assert set(reasons) == {index for index, case in enumerate(CASES) if case.reason}
    for index, reason in reasons.items():
        assert reason.startswith(CASES[index].reason)
    for batch in made:
        assert list(batch.indices) == sorted(batch.indices)
        for index, pixels in zip(batch.indices, batch.pixels.numpy(), strict=True):
            assert (pixels == load_pixels(CASES[index].data, SPECS["scaled"])).all()


def test_no_warning_comes_out_whatever_the_filters_say() -> None:
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)  # type: ignore[arg-type]
            for case in CASES:
                with suppress(ImageError):
                    load_pixels(case.data, SPECS["scaled"])
            assert caught == []
            # What others do with Pillow still warns, or raises.
            if action == "always":
                Image.open(io.BytesIO(png((10000, 9000), 8, 2, b""))).close()
                assert [warning.category for warning in caught] == [Image.DecompressionBombWarning]


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    reasons = {"folder.jpg": "is a folder, not a file", "missing.jpg": "no such file"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
        (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
        reasons |= {"pipe.jpg": "is not a regular file", "dangling.jpg": "no such file"}
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=f"^{reason}$"):
            decode(tmp_path / name)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    samples = [Sample(path.name, 0, path=path) for path in write(tmp_path)[:3]]
    (tmp_path / samples[1].name).unlink()
    (made,) = batches(samples, SPECS["full"], batch_size=8, workers=2)
    assert list(made.indices) == [0, 2]
    assert made.failed == ((1, "no such file"),)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_no_cut_is_read_as_a_whole(kind: str) -> None:
    """A file cut anywhere is named, or was cut behind its pixels and shows them all."""
    if kind == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow reads no AVIF")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    data = saved(noise, kind)
    whole = np.asarray(decode(data))
    assert whole.shape == (40, 60, 3)
    for cut in (*(len(data) * part // 100 for part in (1, 10, 25, 50, 75, 90, 97)), *range(len(data) - 12, len(data))):
        try:
            pixels = np.asarray(decode(data[:cut]))
        except ImageError:
            continue
        assert cut >= len(data) - 12
        assert (pixels == whole).all()
