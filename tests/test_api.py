"""The verbs from Python, where they differ from the command line: arrays, samples, sources too small to divide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import topgraft as tg
from topgraft.data.loader import batches
from topgraft.evaluation.results import FittedClassifier


def colors(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are rather red, green or blue."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.integers(0, 90, (count, 40, 40, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 150
    return images, labels


@pytest.fixture(scope="module")
def model() -> FittedClassifier:
    return tg.fit(colors(30, 0), strategy="head")


def write(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number}.png")
    return folder


def test_the_path_of_the_readme(model: FittedClassifier, tmp_path: Path) -> None:
    photos = tg.open_images(colors(30, 0))
    result = tg.evaluate(model, photos.test)
    assert (result.split, result.metrics.n, result.used_for_selection) == ("test", len(photos.test), False)
    assert result.metrics.top1.low <= result.metrics.top1.value == 1.0
    tg.save(model, tmp_path / "run")
    again = tg.load(tmp_path / "run")
    images = colors(3, 5)[0]
    answers = list(tg.predict(again, images))
    assert [answer.classes[0] for answer in answers] == ["0", "1", "2"]
    assert answers == list(tg.predict(model, images))


def test_a_fit_ends_with_its_result_on_standard_error_unless_it_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    model = tg.fit(colors(30, 0), strategy="head")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[-1].startswith("top-1 (validation, used for selection): 100.0 %")
    assert "3 classes; train 18, validation 6, test 6 (not decoded by the fit)" in lines
    assert not any(line.startswith("saved") for line in lines)
    quiet = tg.fit(colors(30, 0), strategy="head", quiet=True)
    assert capsys.readouterr() == ("", "")
    assert "quiet" not in quiet.config["settings"]
    assert quiet.config["settings"] == model.config["settings"]


@pytest.mark.parametrize("each", [1, 2])
def test_one_or_two_photos_of_a_class_are_enough_and_no_number_is_invented(
    each: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = write(tmp_path / "few", *colors(3 * each, 0))
    model = tg.fit(where)  # auto, with a budget of minutes: nothing says whether steps help
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("how good it is, is not known")
    assert model.validation is None
    assert model.config["selection"]["by"] == "default"
    assert model.config["largest_class"] is None
    assert list(model.config["phases"]) == ["head"]
    assert "there are no validation images" in " ".join(model.config["notes"])
    assert "as there are no validation images" in repr(model)
    tg.save(model, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").read_text() == "{}\n"
    assert "no validation images" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    again = tg.load(tmp_path / "run")
    assert again.validation is None
    new = write(tmp_path / "new", *colors(30, 9))
    assert tg.evaluate(again, new).metrics.top1.value == 1.0
    assert [answer.classes[0] for answer in tg.predict(again, new / "1")] == ["1"] * 10


@pytest.mark.parametrize("choices", [{"strategy": "full"}, {"strategy": "partial"}, {"weights": "random"}])
def test_what_steps_needs_validation_images(choices: dict[str, str]) -> None:
    with pytest.raises(tg.UsageError, match=r"there are no validation images.*--strategy head"):
        tg.fit(colors(3, 0), **choices)


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_a_deployed_head_is_bounded_whatever_the_features(model: FittedClassifier, factor: float) -> None:
    rows = factor * np.abs(np.random.default_rng(0).normal(size=(4, 1280))).astype(np.float32)
    norm = model.classifier.head.norm
    with torch.inference_mode():
        y = norm(torch.from_numpy(rows))
        assert float(y.abs().max()) <= float(norm.radius) * (1 + 1e-6)
        assert torch.isfinite(model.classifier.head(torch.from_numpy(rows))).all()


def test_a_few_new_photos_are_enough_to_evaluate_on(model: FittedClassifier, tmp_path: Path) -> None:
    folder = write(tmp_path / "new", *colors(4, 7))
    result = tg.evaluate(model, folder)
    assert (result.metrics.n, result.split, result.where) == (4, "test", str(folder))
    one = write(tmp_path / "one", colors(1, 8)[0], np.array([0]))
    assert tg.evaluate(model, one).metrics.n == 1
    assert len(tg.open_images(folder).train) == 4


def test_images_that_were_used_are_left_out_unless_asked_for(model: FittedClassifier) -> None:
    photos = tg.open_images(colors(30, 0))
    samples = [photos.train[0], *photos.test]
    result = tg.evaluate(model, samples)
    assert (result.seen, result.metrics.n) == ((photos.train[0].name,), len(photos.test))
    every = tg.evaluate(model, samples, include_seen=True)
    assert (every.seen, every.metrics.n, every.used_for_selection) == ((), len(samples), True)
    with pytest.raises(tg.UsageError, match="were used in fitting or selection"):
        tg.evaluate(model, photos.train)


def test_features_of_a_source_too_small_to_be_divided(tmp_path: Path) -> None:
    found = tg.extract_features(write(tmp_path / "photos", *colors(1, 9)))
    assert (found.features.shape, found.splits) == ((1, 1280), ("undivided",))
    assert (found.classes, found.labels.tolist()) == (("0",), [0])


def test_a_survey_takes_what_is_open_already() -> None:
    photos = tg.open_images(colors(30, 0))
    assert tg.survey(photos) == tg.survey(colors(30, 0))
    assert tg.survey(photos).problem is None


def test_arrays_to_predict_are_checked(model: FittedClassifier) -> None:
    images = colors(2, 3)[0]
    assert len(tg.predict(model, images[0])) == 1
    assert len(tg.predict(model, [images[0], images[1][..., 0]])) == 2
    for wrong in (images.astype(np.float32), [images[0], "a.png"], np.zeros((2, 2, 2, 2, 2), np.uint8)):
        with pytest.raises(tg.UsageError, match="must be uint8"):
            tg.predict(model, wrong)


def test_an_artifact_is_inspected_with_its_own_images(model: FittedClassifier, tmp_path: Path) -> None:
    tg.save(model, tmp_path / "arrays")
    with pytest.raises(tg.UsageError, match="fitted to arrays"):
        tg.inspect(tmp_path / "arrays")
    folder = write(tmp_path / "photos", *colors(30, 0))
    tg.save(tg.fit(folder, limit=12, strategy="head"), tmp_path / "run")
    shown = tg.inspect(tmp_path / "run")
    assert shown.stations[-1].shape == (6, 3)  # six of twelve are train
    with pytest.raises(tg.UsageError, match="has its own --backbone; leave it out"):
        tg.inspect(tmp_path / "run", backbone="efficientnet_lite1")


def test_choices_that_do_not_exist_are_named(model: FittedClassifier) -> None:
    with pytest.raises(tg.UsageError, match="did you mean strict"):
        tg.evaluate(model, "digits", strct=True)
    with pytest.raises(tg.UsageError, match="split must be one of"):
        tg.evaluate(model, "digits", split="dev")
    with pytest.raises(tg.UsageError, match="no backbone"):
        tg.extract_features(colors(30, 0), backbone="resnet5")


def test_a_number_of_classes_is_asked_for_in_the_summary() -> None:
    assert tg.summary("efficientnet_lite0", 64, 7).classes == 7
    assert {row["name"] for row in tg.list_backbones()} >= {"efficientnet_lite0", "efficientnet_lite1"}


def test_logits_from_the_cache_are_those_of_the_whole_network(tmp_path: Path) -> None:
    photos = tg.open_images(colors(30, 0))
    model = tg.fit(photos, engine="torch", precision="fp32", cache_dir=tmp_path, strategy="head")
    cached = tg.evaluate(model, photos, engine="torch", precision="fp32", cache_dir=tmp_path)
    (batch,) = batches(photos.test, model.spec, batch_size=64, workers=0)
    with torch.inference_mode():
        whole = model.classifier(batch.pixels).numpy()
    assert cached.names == tuple(sample.name for sample in photos.test)
    np.testing.assert_allclose(cached.logits, whole, atol=0.01)  # the cache stores half precision
    answers = tg.predict(model, [sample.array for sample in photos.test], engine="torch", precision="fp32", top_k=1)
    assert [int(a.classes[0]) for a in answers] == whole.argmax(1).tolist()


def test_a_fit_decodes_no_test_image() -> None:
    photos = tg.open_images(colors(30, 0))
    gone = tuple(replace(s, array=None, path=Path("nowhere"), digest=f"{n:064x}") for n, s in enumerate(photos.test))
    model = tg.fit(replace(photos, test=gone), strict=True, strategy="head")
    assert model.unreadable == ()
    assert [model.seen[sample.digest] for sample in gone] == ["test"] * len(gone)
    with pytest.raises(tg.DataError, match="none of the images to evaluate on can be read"):
        tg.evaluate(model, replace(photos, test=gone))
