import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from topgraft.data.hashing import digest_bytes
from topgraft.data.samples import Unreadable
from topgraft.data.sources import open_source
from topgraft.data.sources.base import Source
from topgraft.data.sources.folder import open_folder
from topgraft.errors import DataError

links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


def draw(*paths: Path) -> None:
    """A different small picture at each path; the format is that of the name."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int(digest_bytes(str(path).encode())[:8], 16)
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def names(source: Source, samples: Sequence | None = None) -> dict[str, str]:
    """Name → class."""
    return {sample.name: source.classes[sample.label] for sample in (source.flat if samples is None else samples)}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    draw(*(root / name / f"{number}.png" for name in ("dog", "cat") for number in range(3)))
    return root


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    draw(*(root / split / name / "1.png" for split in ("train", "val", "test") for name in ("cat", "dog")))
    return root


def test_class_folders_are_classes_in_order_of_name(flat: Path):
    source = open_folder(flat)
    assert source.classes == ("cat", "dog")
    assert names(source) == {f"{name}/{number}.png": name for name in ("cat", "dog") for number in range(3)}
    assert (source.given, source.unreadable, source.notes, source.where) == ({}, (), (), str(flat))


def test_samples_know_their_file_and_its_digest(flat: Path):
    for sample in open_folder(flat).flat:
        assert sample.path == flat / sample.name
        assert sample.digest == digest_bytes(sample.path.read_bytes())


def test_a_relative_path_stays_right_when_the_working_folder_changes(flat: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(flat.parent)
    source = open_folder("photos")
    monkeypatch.chdir(flat)
    assert source.where == "photos"
    assert all(sample.path.is_file() for sample in source.flat)


def test_the_home_folder_is_expanded(flat: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(flat.parent))
    monkeypatch.setenv("USERPROFILE", str(flat.parent))
    assert len(open_source("~/photos").flat) == 6


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation", "VAL"])
def test_split_folders_are_given_splits(tmp_path: Path, val: str):
    draw(*(tmp_path / split / name / "1.png" for split in ("train", val, "test") for name in ("cat", "dog")))
    source = open_folder(tmp_path)
    assert source.flat == ()
    assert list(source.given) == ["train", "val", "test"]
    assert names(source, source.given["val"]) == {f"{val}/cat/1.png": "cat", f"{val}/dog/1.png": "dog"}


def test_classes_are_those_of_all_splits(divided: Path):
    draw(divided / "test" / "ant" / "1.png")
    source = open_folder(divided)
    assert source.classes == ("ant", "cat", "dog")
    assert names(source, source.given["train"]) == {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}


def test_train_and_val_alone_have_no_test(tmp_path: Path):
    draw(*(tmp_path / split / name / "1.png" for split in ("train", "val") for name in ("cat", "dog")))
    assert list(open_folder(tmp_path).given) == ["train", "val"]


def test_train_alone_is_opened_as_a_flat_folder(tmp_path: Path):
    draw(*(tmp_path / "train" / name / "1.png" for name in ("cat", "dog")))
    source = open_folder(tmp_path)
    assert names(source) == {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}
    assert source.notes == ("the class folders are in train, which was opened",)


def test_a_class_may_be_called_train(tmp_path: Path):
    draw(*(tmp_path / name / "1.png" for name in ("bus", "train", "tram")))
    assert open_folder(tmp_path).classes == ("bus", "train", "tram")


def test_a_train_folder_beside_others_that_could_be_either_is_an_error(tmp_path: Path):
    draw(tmp_path / "train" / "steam" / "1.png", tmp_path / "bus" / "1.png")
    with pytest.raises(DataError, match="is ambiguous: train may be a split or a class, next to bus"):
        open_folder(tmp_path)


def test_other_folders_beside_splits_are_left_aside_and_said(divided: Path):
    draw(divided / "extra" / "1.png")
    source = open_folder(divided)
    assert source.classes == ("cat", "dog")
    assert source.notes == ("not used, because they are neither train, val nor test: extra",)


def test_two_folders_for_one_split_are_an_error(divided: Path):
    draw(divided / "validation" / "cat" / "1.png")
    with pytest.raises(DataError, match="two folders for val: val and validation"):
        open_folder(divided)


def test_val_and_test_without_train_is_an_error(tmp_path: Path):
    draw(*(tmp_path / split / name / "1.png" for split in ("val", "test") for name in ("cat", "dog")))
    with pytest.raises(DataError, match="Add train with one folder for each class"):
        open_folder(tmp_path)


def test_splits_without_class_folders_are_an_error(tmp_path: Path):
    draw(tmp_path / "train" / "1.png", tmp_path / "test" / "1.png")
    with pytest.raises(DataError, match=r"no class folders inside\. Make one folder for each class"):
        open_folder(tmp_path)


def test_a_test_folder_without_classes_is_left_out_and_said(tmp_path: Path):
    draw(*(tmp_path / "train" / name / "1.png" for name in ("cat", "dog")), tmp_path / "test" / "1.png")
    source = open_folder(tmp_path)
    assert source.notes == ("test holds no class folders, so its 1 files have no label and are not used",)
    assert len(source.samples) == 2


def test_folders_inside_a_class_belong_to_it(tmp_path: Path):
    draw(tmp_path / "cat" / "tabby" / "old" / "1.png", tmp_path / "cat" / "2.png", tmp_path / "dog" / "train" / "3.png")
    assert names(open_folder(tmp_path)) == {
        "cat/2.png": "cat",
        "cat/tabby/old/1.png": "cat",
        "dog/train/3.png": "dog",
    }


def test_formats_are_told_by_content_not_by_name(tmp_path: Path):
    for name in ("a.png", "b.JPG", "c.gif", "d.webp", "e.bmp", "f.tif"):
        draw(tmp_path / "cat" / name)
    (tmp_path / "cat" / "c.gif").rename(tmp_path / "cat" / "c.jpg")
    (tmp_path / "cat" / "a.png").rename(tmp_path / "cat" / "a")
    draw(tmp_path / "dog" / "1.png")
    (tmp_path / "dog" / "2.jpg").write_text("no image")
    source = open_folder(tmp_path)
    assert [sample.name for sample in source.flat] == [
        *(f"cat/{name}" for name in ("a", "b.JPG", "c.jpg", "d.webp", "e.bmp", "f.tif")),
        "dog/1.png",
    ]
    assert [entry.name for entry in source.unreadable] == ["dog/2.jpg"]


def test_what_systems_leave_behind_is_skipped_quietly(flat: Path):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", "Icon\r"):
        if sys.platform != "win32" or "\r" not in name:
            (flat / "cat" / name).write_text("litter")
    draw(flat / "__MACOSX" / "cat" / "0.png", flat / ".git" / "0.png", flat / "cat" / ".thumbs" / "0.png")
    source = open_folder(flat)
    assert source.classes == ("cat", "dog")
    assert (len(source.flat), source.unreadable) == (6, ())


def test_files_that_are_no_images_are_named_with_the_reason(flat: Path):
    (flat / "cat" / "notes.txt").write_text("a note")
    (flat / "cat" / "empty.jpg").write_bytes(b"")
    source = open_folder(flat)
    assert [entry.name for entry in source.unreadable] == ["cat/empty.jpg", "cat/notes.txt"]
    assert all(entry.reason for entry in source.unreadable)
    assert len(source.flat) == 6


def test_images_beside_the_class_folders_are_named_and_other_files_are_not(flat: Path, divided: Path):
    (flat / "README.md").write_text("about these photos")
    draw(flat / "loose.png", flat / "train" / "loose.png")
    assert set(open_folder(flat).unreadable) == {
        Unreadable("loose.png", "is not in a class folder"),
        Unreadable("train/loose.png", "is not in a class folder"),
    }


def test_unicode_names(tmp_path: Path):
    draw(tmp_path / "кошка" / "größe ☃.png", tmp_path / "犬" / "1 2.png")
    source = open_folder(tmp_path)
    assert source.classes == ("кошка", "犬")
    assert names(source) == {"кошка/größe ☃.png": "кошка", "犬/1 2.png": "犬"}


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    draw(*(tmp_path / split / "tea" / "1.png" for split in ("train", "val")))
    draw(tmp_path / "train" / composed / "1.png", tmp_path / "val" / decomposed / "1.png")
    assert open_folder(tmp_path).classes == (composed, "tea")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are text")
def test_a_name_that_is_no_text_can_be_printed(tmp_path: Path):
    draw(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png")
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / os.fsdecode(b"\xff.png"))
    source = open_folder(tmp_path)
    assert [sample.name for sample in source.flat] == ["cat/\\xff.png", "dog/1.png"]
    assert source.flat[0].path.is_file()


@links
def test_links_to_files_and_folders_are_followed(flat: Path, tmp_path: Path):
    draw(tmp_path / "elsewhere" / "9.png", tmp_path / "birds" / "1.png")
    (flat / "cat" / "9.png").symlink_to(tmp_path / "elsewhere" / "9.png")
    (flat / "bird").symlink_to(tmp_path / "birds", target_is_directory=True)
    source = open_folder(flat)
    assert source.classes == ("bird", "cat", "dog")
    assert {"bird/1.png", "cat/9.png"} < set(names(source))


@links
def test_links_that_lead_back_are_walked_once(flat: Path):
    (flat / "cat" / "again").symlink_to(flat / "cat", target_is_directory=True)
    (flat / "cat" / "up").symlink_to(flat, target_is_directory=True)
    (flat / "cat" / "self").symlink_to("self")
    source = open_folder(flat)
    assert len(source.flat) == 6
    assert [entry.name for entry in source.unreadable] == ["cat/self"]


@links
def test_a_link_to_nothing_is_named(flat: Path):
    (flat / "cat" / "gone.png").symlink_to(flat / "nowhere.png")
    assert open_folder(flat).unreadable == (Unreadable("cat/gone.png", "no such file"),)


def test_one_folder_around_the_class_folders_is_opened_and_said(tmp_path: Path):
    draw(*(tmp_path / "outer" / "Dataset" / name / "1.png" for name in ("cat", "dog")))
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert names(source) == {"outer/Dataset/cat/1.png": "cat", "outer/Dataset/dog/1.png": "dog"}
    assert source.notes == ("the class folders are in outer/Dataset, which was opened",)


def test_one_folder_around_splits_is_opened_and_said(divided: Path):
    source = open_folder(divided.parent)
    assert list(source.given) == ["train", "val", "test"]
    assert source.notes == ("the class folders are in photos, which was opened",)


def test_an_empty_class_folder_is_still_a_class(flat: Path):
    (flat / "bird").mkdir()
    assert open_folder(flat).classes == ("bird", "cat", "dog")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images"),
        (["1.png", "2.png"], "holds 2 files but no class folders. Make one folder for each class"),
    ],
)
def test_layouts_that_cannot_be_learned_from(tmp_path: Path, files: list[str], message: str):
    draw(*(tmp_path / name for name in files))
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path)


def test_a_folder_that_may_not_be_listed_is_named(flat: Path, monkeypatch: pytest.MonkeyPatch):
    draw(flat / "cat" / "secret" / "1.png")
    scandir = os.scandir

    def refuse(path: Path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("topgraft.data.sources.folder_walk.os.scandir", refuse)
    source = open_folder(flat)
    assert [entry.name for entry in source.unreadable] == ["cat/secret"]
    assert source.unreadable[0].reason == f"the folder {flat / 'cat' / 'secret'} cannot be listed: permission denied"
    assert len(source.flat) == 6


def test_real_photos_one_of_them_a_gif_with_another_name(real_data: Callable[[str], Path]):
    source = open_folder(real_data("hymenoptera"))
    assert source.classes == ("ants", "bees")
    assert {split: len(samples) for split, samples in source.given.items()} == {"train": 245, "val": 153}
    assert (source.unreadable, source.notes) == ((), ())
    assert any(sample.path.read_bytes().startswith(b"GIF8") for sample in source.given["train"])


def test_real_photos_one_folder_too_high(real_data: Callable[[str], Path]):
    source = open_folder(real_data("sign-digits"))
    assert source.classes == tuple("0123456789")
    assert (len(source.flat), source.unreadable) == (2062, ())
    assert source.notes == ("the class folders are in Dataset, which was opened",)
