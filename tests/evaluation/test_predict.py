"""Which files are asked for, and what is answered."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.fitted import CLASSES, base_of, fitted

from topgraft.data.samples import Sample
from topgraft.errors import DataError
from topgraft.evaluation.predict import find_images, predict


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.JPG", "deep/c.webp", "deep/er/d.png", "deep/notes.txt", ".hidden/e.png", "deep/._b.jpg",
                 "[1].png", "plain"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["b.jpg", "a.JPG"], ["b.jpg", "a.JPG"]),
        (["b.jpg", "*.jpg", "b.jpg"], ["b.jpg"]),
        (["."], ["[1].png", "a.JPG", "b.jpg", "deep/c.webp", "deep/er/d.png"]),
        (["deep", "b.jpg"], ["deep/c.webp", "deep/er/d.png", "b.jpg"]),
        (["**/*.png"], ["[1].png", "deep/er/d.png"]),
        (["[1].png"], ["[1].png"]),
        (["plain"], ["plain"]),
        (["missing.jpg"], ["missing.jpg"]),
        (["empty", "*.tiff", "b.jpg"], ["b.jpg", "empty", "*.tiff"]),
    ],
)
def test_what_is_found(here: Path, asked: list[str], found: list[str]) -> None:
    assert [path.as_posix() for path in find_images(asked)] == found
    wholly = [str(here / name) for name in asked]
    assert [path.as_posix() for path in find_images(wholly)] == [(here / name).as_posix() for name in found]


def test_a_home_folder_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(here))
    assert find_images(["~/deep/er"]) == [here / "deep" / "er" / "d.png"]


@pytest.mark.parametrize("asked", [[], ["empty"], ["*.tiff"]])
def test_nothing_at_all_is_an_error(here: Path, asked: list[str]) -> None:
    with pytest.raises(DataError, match="no images in"):
        find_images(asked)


def test_answers_are_best_first_and_sum_to_one(tmp_path: Path) -> None:
    model = fitted()
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    samples = [Sample(f"image {n}", None, array=image) for n, image in enumerate(images)]
    answers = predict(model, samples, base_of(model, tmp_path), top_k=9)
    assert [answer.name for answer in answers] == ["image 0", "image 1", "image 2", "image 3"]
    for answer in answers:
        assert set(answer.classes) == set(CLASSES)
        assert sum(answer.probabilities) == pytest.approx(1.0)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    for k in (1, 2):
        short = predict(model, samples, base_of(model, tmp_path), top_k=k)
        assert [a.classes for a in short] == [a.classes[:k] for a in answers]


def test_a_bad_image_is_named_and_the_rest_is_answered(tmp_path: Path) -> None:
    model = fitted()
    good = np.zeros((9, 9), np.uint8)
    samples = [Sample("gone.png", None, path=tmp_path / "gone.png"), Sample("good", None, array=good)]
    answers = predict(model, samples, base_of(model, tmp_path), top_k=1)
    assert [answer.name for answer in answers] == ["good"]
    assert [(entry.name, entry.reason) for entry in answers.unreadable] == [("gone.png", "no such file")]
    nothing = predict(model, samples[:1], base_of(model, tmp_path), top_k=1)
    assert (len(nothing), len(nothing.unreadable)) == (0, 1)
