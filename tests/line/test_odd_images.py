"""Every odd file is read right or named with its reason; none crashes and none is silently replaced."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from topgraft.dataset import batches
from topgraft.errors import ImageError
from topgraft.records import ImageSpec, Sample
from topgraft.transforms import load_pixels, probe


def _corpus() -> ModuleType:
    path = Path(__file__).parents[1] / "odd_images.py"
    spec = importlib.util.spec_from_file_location("odd_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd_images"] = module
    spec.loader.exec_module(module)
    return module


CASES = _corpus().cases()
SPECS = {
    decode: ImageSpec(32, 32, "bilinear", (0.5,) * 3, (0.5,) * 3, decode=decode)  # type: ignore[arg-type]
    for decode in ("scaled", "full")
}


def test_there_are_at_least_sixty_kinds() -> None:
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("decode", ["scaled", "full"])
@pytest.mark.parametrize(
    ("name", "data", "outcome"), CASES, ids=[name[:40].encode("ascii", "replace") for name, _, _ in CASES]
)
def test_outcome(tmp_path: Path, name: str, data: bytes, outcome: object, decode: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    spec = SPECS[decode]
    if isinstance(outcome, str) and outcome not in ("solid", "narrow"):
        with pytest.raises(ImageError) as caught:
            load_pixels(path, spec)
        reason = str(caught.value)
        assert reason.startswith(outcome), reason
        assert "\n" not in reason
        return
    pixels = load_pixels(path, spec)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert probe(data)[0] > 0
    if outcome == "solid":
        assert (pixels == (200, 30, 40)).all()
    elif outcome == "narrow":  # the middle of the long side: the edge between the halves
        assert abs(pixels[:, :7].astype(int) - (200, 30, 40)).max() <= 2
        assert (pixels[:, 25:] == 255).all()
    elif name == "long.png":  # two pixels wide
        assert abs(pixels[:, 0].astype(int) - (200, 30, 40)).max() <= 2
    else:
        left, right = pixels[4:28, 2:12].astype(int), pixels[4:28, 20:30].astype(int)
        assert abs(left - np.array(outcome)).max() <= 12, left[0, 0]
        assert abs(right - 255).max() <= 12, right[0, 0]


def test_a_folder_called_like_an_image_a_missing_file_and_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for name, reason in [("a.jpg", "is a folder"), ("b.jpg", "no such file"), ("c.jpg", "no such file")]:
        with pytest.raises(ImageError, match=reason):
            load_pixels(tmp_path / name, SPECS["full"])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_keep_order_and_name_every_failure(tmp_path: Path, workers: int) -> None:
    samples = []
    for number, (_, data, _) in enumerate(CASES):
        path = tmp_path / str(number)
        path.write_bytes(data)
        samples.append(Sample(str(number), 0, path=path))
    made = list(batches(samples, SPECS["scaled"], batch_size=7, workers=workers))
    good = [int(i) for batch in made for i in batch.indices]
    bad = {i: reason for batch in made for i, reason in batch.failed}
    assert good == sorted(good)
    assert sorted([*good, *bad]) == list(range(len(CASES)))
    expected = {
        i for i, (_, _, outcome) in enumerate(CASES) if isinstance(outcome, str) and outcome not in ("solid", "narrow")
    }
    assert set(bad) == expected
    for batch in made:
        assert batch.pixels.shape == (len(batch.indices), 32, 32, 3)


def test_stopping_early_ends_the_threads(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "a"
    path.write_bytes(CASES[0][1])
    run = batches([Sample(str(i), 0, path=path) for i in range(500)], SPECS["scaled"], batch_size=4, workers=2)
    next(run)
    run.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("topgraft-decode")]
