"""Features as files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from topgraft.errors import UsageError
from topgraft.features.export import Features, check_suffix, write_features

FEATURES = Features(
    names=("a/ä.png", "b/1.png", "c.png"),
    features=np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    labels=np.array([1, 0, -1]),
    splits=("train", "val", "undivided"),
    classes=("ant", "bee"),
    backbone="tiny",
)


def test_an_npz_holds_everything_and_needs_no_pickle(tmp_path: Path) -> None:
    write_features(FEATURES, tmp_path / "deep" / "f.npz")
    with np.load(tmp_path / "deep" / "f.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"features", "labels", "names", "splits", "classes"}
        assert np.array_equal(arrays["features"], FEATURES.features)
        assert arrays["features"].dtype == np.float32
        assert arrays["labels"].tolist() == [1, 0, -1]
        assert arrays["names"].tolist() == list(FEATURES.names)
        assert arrays["splits"].tolist() == list(FEATURES.splits)
        assert arrays["classes"].tolist() == ["ant", "bee"]


def test_a_parquet_has_one_row_for_each_image(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_features(FEATURES, tmp_path / "f.parquet")
    table = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert table["name"] == list(FEATURES.names)
    assert table["split"] == list(FEATURES.splits)
    assert table["label"] == ["bee", "ant", None]
    assert np.array_equal(np.array(table["features"], np.float32), FEATURES.features)


def test_other_suffixes_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("f.csv", "f", "f.npz.gz"):
        with pytest.raises(UsageError, match=r"must end in \.npz or \.parquet"):
            check_suffix(tmp_path / name)
    check_suffix(tmp_path / "f.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'topgraft\[parquet\]'"):
        check_suffix(tmp_path / "f.parquet")


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.npz"
    write_features(FEATURES, path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_features(FEATURES, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]
