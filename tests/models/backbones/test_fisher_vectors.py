"""Dense descriptors and the Fisher vector against OpenCV and against the formulas, term by term."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fitted import CHOICE

import topgraft as tg
from topgraft.errors import DataError, UsageError
from topgraft.models.backbones import dense_sift, descriptor_coding, fisher_vectors
from topgraft.models.spec import Build
from topgraft.settings import fields, verbs


def mixture(words: int, axes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2, words)
    return weights / weights.sum(), rng.normal(size=(words, axes)), rng.uniform(0.5, 1.5, (words, axes))


def by_the_formulas(
    x: np.ndarray, inside: np.ndarray, weights: np.ndarray, means: np.ndarray, deviations: np.ndarray
) -> np.ndarray:
    """Loops over everything, in float64."""
    parts = []
    for region in inside.astype(bool):
        chosen = x[region]
        by_mean, by_deviation = np.zeros_like(means), np.zeros_like(means)
        for one in chosen:
            density = weights * np.prod(
                np.exp(-((one - means) ** 2) / (2 * deviations**2)) / (np.sqrt(2 * np.pi) * deviations), axis=1
            )
            gamma = density / density.sum()
            for k in range(len(weights)):
                u = (one - means[k]) / deviations[k]
                by_mean[k] += gamma[k] * u / np.sqrt(weights[k])
                by_deviation[k] += gamma[k] * (u**2 - 1) / np.sqrt(2 * weights[k])
        vector = np.concatenate([by_mean, by_deviation]).ravel() / len(chosen)
        vector = np.sign(vector) * np.sqrt(np.abs(vector))
        parts.append(vector / np.linalg.norm(vector))
    return np.concatenate(parts) / np.sqrt(len(inside))


def test_the_fisher_vector_is_what_the_formulas_say() -> None:
    rng = np.random.default_rng(1)
    x, parameters = rng.normal(size=(40, 5)), mixture(3, 5)
    inside = np.stack([np.ones(40), rng.random(40) < 0.3, rng.random(40) < 0.7])
    expected = by_the_formulas(x, inside, *parameters)
    found = fisher_vectors.fisher_vector(*(torch.from_numpy(a) for a in (x, inside, *parameters)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    single = fisher_vectors.fisher_vector(*(torch.from_numpy(a).float() for a in (x, inside, *parameters)))
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-4)
    assert found.norm() == pytest.approx(1.0)


def test_an_empty_region_is_zeros() -> None:
    x, parameters = np.random.default_rng(1).normal(size=(10, 5)), mixture(3, 5)
    inside = np.stack([np.ones(10), np.zeros(10)])
    found = fisher_vectors.fisher_vector(*(torch.from_numpy(a) for a in (x, inside, *parameters)))
    whole, empty = found.chunk(2)
    assert empty.abs().max() == 0
    assert whole.norm() == pytest.approx(1 / np.sqrt(2))


def test_a_descriptor_looks_at_its_own_square_of_pixels() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 96), dtype=np.uint8)
    changed = image.copy()
    changed[48:, :] = 255 - changed[48:, :][::-1]
    one, other = (dense_sift.describe(torch.from_numpy(i / 255).float()[None, None])[0] for i in (image, changed))
    points = np.array(dense_sift._points(96, 96))  # of the finest scale, which comes first
    same = np.array([np.array_equal(a, b) for a, b in zip(one, other, strict=True)])[: len(points)]
    # OpenCV spreads each gradient over two cells, so that half a cell beyond the square counts too; and it blurs.
    assert same[points[:, 0] < 48 - dense_sift.PATCH / 2 - dense_sift.PATCH / 8 - 4].all()
    assert not same[points[:, 0] > 48].any()


def test_descriptors_are_square_roots_of_opencvs() -> None:
    cv2 = dense_sift.import_opencv()
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    found = dense_sift.describe(torch.from_numpy(image / 255).float()[None, None])[0]
    assert found.dtype == np.float32
    assert len(found) == sum(len(dense_sift._points(*size)) for size in dense_sift._sizes(32, 32))
    sift = cv2.SIFT_create(nOctaveLayers=1, sigma=dense_sift._BLUR)
    raw = sift.compute(image, [cv2.KeyPoint(13.0, 8.0, 8 / 3, 0.0)])[1][0]
    np.testing.assert_allclose(found[1] ** 2, raw / raw.sum(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_a_flat_image_has_finite_features() -> None:
    base = descriptor_coding.build(Build(input_size=64, classes=2))["base"]
    descriptor_coding.initialize({"base": base, "head": torch.nn.Linear(1, 1)}, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert base(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_every_point_is_in_the_whole_and_in_a_quarter_where_it_lies() -> None:
    for side in (32, 33, 64, 224):
        places = dense_sift.region_masks(side, side)
        assert places.shape == (
            5,
            sum(len(dense_sift._points(*size)) for size in dense_sift._sizes(side, side)),
        )
        assert places[0].min() == 1
        assert places[1:].sum(0).min() >= 1
        assert places.sum(1).min() >= 1
    points = dense_sift._points(224, 224)
    top_left = dense_sift.region_masks(224, 224)[1][: len(points)]
    assert [bool(x) for x in top_left] == [row <= 112 and column <= 112 for row, column in points]


def test_gray_of_three_equal_channels_is_the_gray_itself() -> None:
    x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(dense_sift.grayscale(x), dense_sift.grayscale(x.expand(2, 3, 48, 48)))


def test_the_dictionary_describes_what_it_was_learned_from() -> None:
    chain = descriptor_coding.build(Build(input_size=96, classes=2))
    x = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    descriptor_coding.learn(chain, [x], 4, seed=0)
    base = chain["base"]
    assert isinstance(base, fisher_vectors.FisherCoding)
    torch.testing.assert_close(base.axes.T @ base.axes, torch.eye(fisher_vectors.AXES), atol=1e-5, rtol=0)
    assert base.weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert base.deviations.min() > 0
    reduced = (torch.from_numpy(np.concatenate(dense_sift.describe(x))) - base.mean) @ base.axes
    variance = reduced.var(0)
    assert (variance[:-1] >= variance[1:] * 0.99).all(), "largest first"
    # A mixture has the mean and the variance of the whole sample.
    torch.testing.assert_close(base.weights @ base.means, reduced.mean(0), atol=1e-3, rtol=0)
    second = base.weights @ (base.deviations**2 + base.means**2)
    torch.testing.assert_close(second, reduced.square().mean(0), atol=1e-3, rtol=0.05)


def test_too_few_descriptors_are_refused() -> None:
    chain = descriptor_coding.build(Build(input_size=32, classes=2))
    with pytest.raises(DataError, match=r"1 training images give .* too few for a codebook of 32"):
        descriptor_coding.learn(chain, [torch.rand(1, 3, 32, 32)], 1, seed=0)
    with pytest.raises(DataError, match="0 training images"):
        descriptor_coding.learn(chain, [], 0, seed=0)


def test_without_opencv_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"pip install 'topgraft\[descriptors\]'"):
        dense_sift.describe(torch.rand(1, 3, 32, 32))


def test_without_opencv_nothing_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = fields.make(verbs.FitSettings, {"backbone": "descriptor_coding"})
    resolved = {"engine": asdict(CHOICE), "training": "fp32"}
    (tmp_path / "config.json").write_text(json.dumps({"settings": fields.as_json(made), "resolved": resolved}))
    with pytest.raises(DataError, match="nowhere"):
        tg.extract_features(tmp_path / "nowhere", backbone="descriptor_coding")
    monkeypatch.setitem(sys.modules, "cv2", None)
    for work in (
        lambda: tg.fit(tmp_path / "nowhere", backbone="descriptor_coding"),
        lambda: tg.fit(tmp_path / "nowhere", config=tmp_path),
        lambda: tg.extract_features(tmp_path / "nowhere", backbone="descriptor_coding"),
    ):
        with pytest.raises(UsageError, match=r"pip install 'topgraft\[descriptors\]'"):
            work()
