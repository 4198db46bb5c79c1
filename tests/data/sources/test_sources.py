import subprocess
import sys
from pathlib import Path

import pytest

from topgraft.data.sources import open_source
from topgraft.errors import DataError


def test_a_missing_path_names_what_is_near(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"there is no file or folder .*phots, .*did you mean .*photos\?"):
        open_source(tmp_path / "phots")


def test_a_misspelt_data_set_is_named():
    with pytest.raises(DataError, match=r"did you mean cifar10\?"):
        open_source("cifar_10")


def test_a_name_near_nothing_lists_the_data_sets():
    with pytest.raises(DataError, match="the data sets are cifar10, cifar100, cifar100_coarse, digits"):
        open_source("zzzzzz/zzzz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos.zip", "is an archive; unpack it"),
        ("photos.tar.gz", "is an archive; unpack it"),
        ("cat.jpg", "To classify one image use predict"),
    ],
)
def test_files_that_are_no_source(tmp_path: Path, name: str, message: str):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("where", [None, 3, 2.5, object()])
def test_objects_that_are_no_source(where: object):
    with pytest.raises(DataError, match=r"is not a source of images; give a folder or a CSV file"):
        open_source(where)


@pytest.mark.parametrize("where", ["", "a\0b", "x" * 5000, "~no-user-has-this-name/photos"])
def test_strings_that_can_be_no_path(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        open_source(where)


def test_a_folder_with_a_data_sets_name_is_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    source = open_source("digits")
    assert len(source.flat) == 1797
    assert source.notes == (
        "digits is the data set of that name; to open the folder digits that is here, write ./digits",
    )
    with pytest.raises(DataError, match="holds no images"):
        open_source("./digits")


def test_sources_import_neither_torch_nor_scikit_learn():
    modules = "topgraft.data.sources, topgraft.data.splits, topgraft.data.survey, topgraft.system.download"
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "topgraft.data.sources.folder" in loaded
    assert not {"torch", "sklearn", "requests"} & set(loaded)
