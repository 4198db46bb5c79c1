from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from topgraft.data.samples import Unreadable
from topgraft.data.sources import open_source
from topgraft.data.sources.csv_table import open_table, takes
from topgraft.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.fromarray(np.full((5, 5, 3), number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_images_and_labels(folder: Path):
    source = open_source(str(write(folder, "image,label\nimages/0.png,dog\nimages/1.png,cat\n")))
    assert source.classes == ("cat", "dog")
    assert [(s.name, s.label, s.path) for s in source.flat] == [
        ("images/0.png", 1, folder / "images" / "0.png"),
        ("images/1.png", 0, folder / "images" / "1.png"),
    ]
    assert (source.given, source.unreadable) == ({}, ())


def test_paths_are_relative_to_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write(folder, "image,label\nimages/0.png,a\nimages/1.png,b\n")
    monkeypatch.chdir(folder.parent)
    assert len(open_table(f"{folder.name}/table.csv").flat) == 2


def test_absolute_paths(folder: Path):
    source = open_table(write(folder, f"image,label\n{folder / 'images' / '0.png'},a\nimages/1.png,b\n"))
    assert [sample.path for sample in source.flat] == [folder / "images" / "0.png", folder / "images" / "1.png"]


def test_paths_written_on_windows(folder: Path):
    assert len(open_table(write(folder, "image,label\nimages\\0.png,a\nimages\\1.png,b\n")).flat) == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write(folder: Path, delimiter: str, encoding: str, end: str):
    rows = [
        ("Label ", "other", "IMAGE"),
        ("größe, klein", "x", "images/0.png"),
        ("b", "y", "images/1.png"),
        ("", "", ""),
    ]
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    source = open_table(write(folder, end.join(delimiter.join(row) for row in quoted), encoding))
    assert source.classes == ("b", "größe, klein")
    assert len(source.flat) == 2


def test_the_split_column_names_splits_as_folders_do(folder: Path):
    text = "image,label,split\nimages/0.png,a,train\nimages/1.png,b,Train\nimages/2.png,a,valid\nimages/3.png,b,TEST\n"
    source = open_table(write(folder, text))
    assert source.flat == ()
    assert {split: [s.name for s in samples] for split, samples in source.given.items()} == {
        "train": ["images/0.png", "images/1.png"],
        "val": ["images/2.png"],
        "test": ["images/3.png"],
    }


def test_file_and_class_index_are_other_names_of_the_columns(folder: Path):
    source = open_table(write(folder, "file,class_index,wnid\nimages/0.png,65,n1\nimages/1.png,7,n2\n"))
    assert source.classes == ("65", "7")
    assert [(s.name, s.label) for s in source.flat] == [("images/0.png", 0), ("images/1.png", 1)]


def test_the_usual_names_come_first(folder: Path):
    source = open_table(write(folder, "file,class_index,image,label\nno,1,images/0.png,a\nno,2,images/1.png,b\n"))
    assert (source.classes, source.unreadable) == (("a", "b"), ())


def test_an_empty_split_column_is_none(folder: Path):
    source = open_table(write(folder, "image,label,split\nimages/0.png,a,\nimages/1.png,b,\n"))
    assert len(source.flat) == 2


def test_an_image_under_two_labels_keeps_both(folder: Path):
    source = open_table(write(folder, "image,label\nimages/0.png,a\nimages/0.png,b\n"))
    assert [(s.name, s.label) for s in source.flat] == [("images/0.png", 0), ("images/0.png (line 3)", 1)]


def test_rows_that_cannot_be_used_are_named(folder: Path):
    (folder / "notes.txt").write_text("no image")
    text = (
        "image,label\nimages/0.png,a\nimages/9.png,a\nimages,b\nimages/1.png,\n,b\n"
        "https://example.org/1.png,b\nimages/1.png,b\n"
    )
    source = open_table(write(folder, text))
    assert source.unreadable == (
        Unreadable("images/1.png", "no label in line 5"),
        Unreadable("line 6", "the line names no image"),
        Unreadable("https://example.org/1.png", "is an address; download it, and give its path"),
        Unreadable("images/9.png", "no such file"),
        Unreadable("images", "is a folder, not a file"),
    )
    assert len(source.flat) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.png,1\n", r"no columns named image and label; its first line is 'file,class'"),
        ("", r"no columns named image and label; its first line is ''"),
        ("image,label\n", "lists no images"),
        ("image,label,split\na.png,a,dev\nb.png,b,dev\n", r"none of train, val and test: 'dev' \(2 lines\)"),
        ("image,label,split\na.png,a,train\nb.png,b,\n", "lines without a split: 3"),
        ('image,label\n"a.png,a\nb.png,b\n', "is damaged at line"),
    ],
)
def test_tables_that_cannot_be_read(folder: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        open_table(write(folder, text))


def test_another_encoding_is_an_error(folder: Path):
    with pytest.raises(DataError, match=r"is not UTF-8\. Save it as 'CSV UTF-8'"):
        open_table(write(folder, "image,label\nä.png,größe\n", "latin-1"))


def test_a_folder_with_the_name_of_a_table_is_no_table(folder: Path):
    (folder / "photos.csv").mkdir()
    assert not takes(str(folder / "photos.csv"))
    assert not takes(str(folder / "missing.csv"))
