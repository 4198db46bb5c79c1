import json
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from topgraft.data.file_types import name_format
from topgraft.data.samples import Sample, Splits
from topgraft.data.sources import open_source
from topgraft.data.splits import divide, divide_if_possible
from topgraft.data.survey import Range, survey


def draw(path: Path, width: int = 8, height: int = 6, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """4 ants and 2 bees in train, 2 and 1 in val; copies; and files that cannot be read."""
    root = tmp_path / "photos"
    for n in range(4):
        draw(root / "train" / "ant" / f"{n}.png", width=10 + n, height=20 + n)
    for n in range(2):
        draw(root / "train" / "bee" / f"{n}.jpg", width=40, height=30)
        draw(root / "val" / "ant" / f"{n}.gif")
    draw(root / "val" / "bee" / "0.webp")
    shutil.copy(root / "train" / "ant" / "0.png", root / "train" / "bee" / "same.png")
    shutil.copy(root / "val" / "ant" / "0.gif", root / "train" / "ant" / "same.gif")
    (root / "train" / "ant" / "empty.png").write_bytes(b"")
    whole = (root / "train" / "bee" / "0.jpg").read_bytes()
    (root / "train" / "bee" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def test_what_is_in_a_folder(photos: Path):
    found = survey(divide(open_source(photos)))
    assert (found.where, found.classes) == (str(photos), ("ant", "bee"))
    assert found.counts == {"train": {"ant": 4, "bee": 3}, "val": {"ant": 2, "bee": 1}}
    assert (found.images, found.made) == (10, ())
    assert found.widths == Range(8, 10.5, 40)
    assert found.heights == Range(6, 20.5, 30)
    assert found.formats == {"PNG": 5, "JPEG": 2, "GIF": 2, "WebP": 1}
    assert found.imbalance == 6 / 4
    assert [entry.name for entry in found.unreadable] == ["train/ant/empty.png", "train/bee/cut.jpg"]
    assert all(entry.reason for entry in found.unreadable)


def test_copies_are_told_by_what_they_mix_up(photos: Path):
    found = survey(divide(open_source(photos)))
    groups = {group.digest: group for group in found.duplicates}
    assert len(groups) == 2
    (labels,) = found.under_two_labels
    (across,) = found.across_splits
    assert set(groups[labels].names) == {"train/ant/0.png", "train/bee/same.png"}
    assert set(groups[across].names) == {"train/ant/same.gif", "val/ant/0.gif"}
    assert groups[across].dropped == ("train/ant/same.gif",)


def test_it_is_ready_for_json(photos: Path):
    read = json.loads(json.dumps(asdict(survey(divide(open_source(photos))))))
    assert read["counts"]["train"]["ant"] == 4
    assert read["widths"] == {"smallest": 8, "median": 10.5, "largest": 40}


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_the_number_of_threads_changes_nothing(photos: Path, workers: int | None):
    splits = divide(open_source(photos))
    assert survey(splits, workers=workers) == survey(splits, workers=2)


def test_a_turned_photo_is_measured_as_it_is_shown(tmp_path: Path):
    for name in ("a", "b"):
        for n in range(3):
            exif = Image.Exif()
            exif[0x0112] = 6
            draw(tmp_path / name / f"{n}.jpg", width=50, height=20, exif=exif)
    found = survey(divide(open_source(tmp_path)))
    assert (found.widths, found.heights) == (Range(20, 20.0, 20), Range(50, 50.0, 50))


def test_arrays_have_sizes_too():
    images = [np.full((2 + n, 3, 3), n, np.uint8) for n in range(6)]
    found = survey(divide(open_source((images, [0, 0, 0, 1, 1, 1]))))
    assert (found.formats, found.heights, found.made) == ({"array": 6}, Range(2, 4.5, 7), ("train", "val", "test"))


@pytest.mark.parametrize(
    ("files", "counts", "problem"),
    [
        (["cat/1.png", "cat/2.png"], {"cat": 2}, "has only one class, cat"),
        (["cat/1.png", "dog/"], {"cat": 1, "dog": 0}, "no images that can be read in the class dog"),
    ],
)
def test_what_cannot_be_divided_is_counted_all_the_same(tmp_path: Path, files, counts, problem):
    for name in files:
        (tmp_path / name).mkdir(parents=True) if name.endswith("/") else draw(tmp_path / name)
    found = survey(divide_if_possible(open_source(tmp_path)))
    assert (found.counts, found.images) == ({"undivided": counts}, len([f for f in files if f.endswith("png")]))
    assert found.widths == Range(8, 8, 8)
    assert found.problem is not None
    assert problem in found.problem


def test_a_class_that_cannot_be_decoded_is_a_problem(photos: Path):
    assert survey(divide(open_source(photos))).problem is None
    for path in (photos / "train" / "bee").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # the header is whole, the pixels are not
    found = survey(divide_if_possible(open_source(photos)))
    assert found.problem == "no training image of the class bee can be read. Add images, or remove the class"


def test_without_images_there_are_no_sizes():
    found = survey(Splits("photos", ("ant", "bee"), (), (), ()))
    assert (found.images, found.widths, found.imbalance, found.counts) == (0, None, None, {})


def test_a_file_that_is_gone_by_now_is_named(tmp_path: Path):
    gone = Sample("ant/1.jpg", 0, tmp_path / "1.jpg")
    found = survey(Splits("photos", ("ant", "bee"), (gone,), (), ()))
    assert [(entry.name, entry.reason) for entry in found.unreadable] == [("ant/1.jpg", "no such file")]
    assert found.counts == {"train": {"ant": 0, "bee": 0}}
    assert found.imbalance is None


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "ICO", "WebP", "AVIF", "JPEG2000", "PPM"])
def test_formats_are_told_by_their_first_bytes(tmp_path: Path, name: str):
    path = tmp_path / "image"
    Image.new("RGB", (20, 20)).save(path, format=name)
    shown = {"JPEG2000": "JPEG 2000", "PPM": "PNM"}.get(name, name)
    assert name_format(path.read_bytes()) == shown


@pytest.mark.parametrize(("data", "name"), [(b"", "other"), (b"\0\0\0\x18ftypmp42", "other"), (b"text", "other")])
def test_other_first_bytes(data: bytes, name: str):
    assert name_format(data) == name
