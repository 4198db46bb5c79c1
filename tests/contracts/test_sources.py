"""What every source keeps to. A new row of SOURCES needs an example here, and no test."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from topgraft.data import decode
from topgraft.data.hashing import digest_array, digest_bytes
from topgraft.data.samples import SPLIT_NAMES, Sample
from topgraft.data.sources import SOURCES, open_source
from topgraft.data.sources.base import Source
from topgraft.data.splits import divide
from topgraft.data.survey import survey


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def a_folder(folder: Path) -> Path:
    for number, picture in enumerate(pictures(12)):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def a_table(folder: Path) -> Path:
    a_folder(folder)
    rows = [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (folder / "images.csv").write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    return folder / "images.csv"


def some_arrays(folder: Path) -> tuple[np.ndarray, list[int]]:
    return pictures(12), [0, 1] * 6


def cifar_files(folder: Path, inside: str, batches: list[str], keys: list[str], meta: str, names: dict) -> None:
    (folder / inside).mkdir()
    for number, batch in enumerate(batches):
        planes = pictures(24)[number * 4 : number * 4 + 4].transpose(0, 3, 1, 2).reshape(4, -1)
        table = {"data": planes, **{key: [0, 1, 0, 1] for key in keys}}
        (folder / inside / batch).write_bytes(pickle.dumps(table, 2))
    (folder / inside / meta).write_bytes(pickle.dumps(names, 2))


def cifar10(folder: Path) -> str:
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    names = {"label_names": ["airplane", "automobile"]}
    cifar_files(folder, "cifar-10-batches-py", batches, ["labels"], "batches.meta", names)
    return "cifar10"


def cifar100(folder: Path) -> str:
    names = {"fine_label_names": ["apple", "bee"], "coarse_label_names": ["fruit", "insects"]}
    keys = ["fine_labels", "coarse_labels"]
    cifar_files(folder, "cifar-100-python", ["train", "test"], keys, "meta", names)
    return "cifar100"


def cifar100_coarse(folder: Path) -> str:
    cifar100(folder)
    return "cifar100_coarse"


EXAMPLES: dict[str, Callable[[Path], Any]] = {
    "arrays": some_arrays,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100_coarse": cifar100_coarse,
    "digits": lambda folder: "digits",
    "folder": a_folder,
    "table": a_table,
}


def test_every_source_has_an_example():
    assert sorted(EXAMPLES) == sorted(SOURCES)


@pytest.fixture(params=sorted(EXAMPLES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def where(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TOPGRAFT_OFFLINE", "1")
    return EXAMPLES[name](tmp_path)


@pytest.fixture
def source(where: Any, tmp_path: Path) -> Source:
    return open_source(where, data_dir=tmp_path)


def content(sample: Sample) -> str:
    return digest_array(sample.array) if sample.path is None else digest_bytes(sample.path.read_bytes())


def facts(source: Source) -> list[tuple]:
    return [(sample.name, sample.label, sample.digest) for sample in source.samples]


def test_one_row_takes_it(name: str, where: Any):
    assert [row for row, kind in SOURCES.items() if kind.takes(where)] == [name]


def test_no_row_takes_what_is_nothing():
    assert not [row for row, kind in SOURCES.items() for where in (None, 3, "no such thing") if kind.takes(where)]


def test_its_classes_are_two_or_more_different_names(source: Source):
    assert len(set(source.classes)) == len(source.classes) >= 2
    assert all(isinstance(name, str) and name for name in source.classes)


def test_its_samples_are_flat_or_in_given_splits(source: Source, where: Any):
    assert bool(source.flat) != bool(source.given)
    assert set(source.given) <= set(SPLIT_NAMES)
    assert source.where == ("arrays" if isinstance(where, tuple) else str(where))


def test_its_samples_are_named_labeled_and_known_by_content(source: Source):
    assert len({sample.name for sample in source.samples}) == len(source.samples) > 0
    assert {sample.label for sample in source.samples} <= set(range(len(source.classes)))
    for sample in source.samples:
        assert (sample.path is None) != (sample.array is None)
        assert sample.digest == content(sample)


def test_its_arrays_are_pixels(source: Source):
    for sample in source.samples:
        if sample.array is not None:
            assert sample.array.dtype == np.uint8
            assert sample.array.ndim == 2 or sample.array.shape[2:] == (3,)


def test_its_files_are_below_or_beside_what_was_given_and_absolute(source: Source):
    assert all(sample.path.is_absolute() for sample in source.samples if sample.path is not None)


def test_it_opens_the_same_twice(source: Source, where: Any, tmp_path: Path):
    assert facts(open_source(where, data_dir=tmp_path)) == facts(source)


def test_every_image_can_be_decoded(source: Source):
    for sample in source.samples[:50]:
        given = sample.path if sample.array is None else sample.array
        assert decode.decode(given).mode == "RGB"


def test_it_can_be_divided_and_surveyed(source: Source):
    splits = divide(source)
    assert splits.train
    assert splits.val
    assert splits.test
    found = survey(splits)
    assert found.images == len(source.samples)
    assert found.unreadable == ()
