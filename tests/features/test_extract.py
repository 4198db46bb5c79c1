"""The frozen base runs once for each content, and what cannot be decoded is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.fitted import CHOICE, base_of, fitted
from support.small import colored, small_classifier

from topgraft.data.hashing import digest_arrays
from topgraft.data.samples import Sample
from topgraft.errors import DataError
from topgraft.features.extract import compute, run
from topgraft.features.frozen_base import open_base, open_probes
from topgraft.system import progress


def images(count: int, seed: int = 0) -> list[Sample]:
    arrays = list(np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8))
    digests = digest_arrays(arrays)
    return [Sample(f"{n}", n % 2, array=a, digest=d) for n, (a, d) in enumerate(zip(arrays, digests, strict=True))]


def bad(name: str, folder: Path) -> Sample:
    (folder / name).write_bytes(b"no image")
    return Sample(name, 0, path=folder / name, digest=f"{len(name):064x}")


def test_rows_are_the_features_in_order_as_float16_keeps_them(tmp_path: Path) -> None:
    model, samples = fitted(), images(5)
    got = compute(samples, base_of(model, tmp_path), strict=False, description="")
    direct = run(samples, base_of(model, tmp_path), description="")
    assert (got.kept.tolist(), got.rows.shape, got.rows.dtype) == ([0, 1, 2, 3, 4], (5, 8), np.float32)
    np.testing.assert_allclose(got.rows, direct.rows, rtol=1e-3)
    assert len({row.tobytes() for row in direct.rows}) == 5


def test_a_second_run_runs_nothing_and_sees_the_same(tmp_path: Path) -> None:
    model, samples = fitted(), images(5)
    first = compute(samples, base_of(model, tmp_path), strict=False, description="")
    base = replace(base_of(model, tmp_path), build=None)  # calling it would fail
    second = compute(samples, base, strict=False, description="")
    assert (first.decoded, second.decoded, second.seconds) == (5, 0, 0.0)
    assert np.array_equal(first.rows, second.rows)


def test_only_what_is_new_runs(tmp_path: Path) -> None:
    model, ran = fitted(), list[int]()
    compute(images(4), base_of(model, tmp_path), strict=False, description="")
    more = compute([*images(4), *images(1, seed=9)], base_of(model, tmp_path, ran), strict=False, description="")
    assert (ran, more.decoded, len(more.rows)) == ([1], 1, 5)


def test_copies_run_once(tmp_path: Path) -> None:
    model, ran, one = fitted(), list[int](), images(1)[0]
    copies = [one, replace(one, name="copy"), replace(one, name="again")]
    got = compute(copies, base_of(model, tmp_path, ran), strict=False, description="")
    assert ran == [1]
    assert (got.rows == got.rows[0]).all()
    assert got.kept.tolist() == [0, 1, 2]


def test_what_cannot_be_decoded_is_named_every_copy_of_it(tmp_path: Path) -> None:
    model = fitted()
    broken = bad("bad.png", tmp_path)
    samples = [broken, *images(2), replace(broken, name="copy of bad.png")]
    base = base_of(model, tmp_path)
    got = compute(samples, base, strict=False, description="")
    assert got.kept.tolist() == [1, 2]
    assert [entry.name for entry in got.unreadable] == ["bad.png", "copy of bad.png"]
    assert {entry.reason for entry in got.unreadable} == {"is text, no image"}
    with pytest.raises(DataError, match=r"^2 files cannot be read:\n  bad\.png: is text, no image\n  copy of bad"):
        compute(samples, base, strict=True, description="")


def test_no_engine_is_built_where_nothing_can_be_decoded(tmp_path: Path) -> None:
    base = replace(base_of(fitted(), tmp_path), build=None)
    for got in (
        compute([bad("bad.png", tmp_path)], base, strict=False, description=""),
        run([bad("bad.png", tmp_path)], base, description=""),
    ):
        assert (got.rows.shape, got.kept.tolist(), len(got.unreadable)) == ((0, 8), [], 1)


def test_the_bar_counts_every_image_also_the_bad_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[progress.Bar] = []
    close = progress.Bar.close
    monkeypatch.setattr(progress.Bar, "close", lambda bar: (bars.append(bar), close(bar))[1])
    samples = [*images(3), bad("bad.png", tmp_path), bad("worse.png", tmp_path)]
    compute(samples, base_of(fitted(), tmp_path), strict=False, description="base")
    run(samples, base_of(fitted(), tmp_path), description="predict")
    assert [(bar.description, bar.done, bar.total) for bar in bars] == [("base", 5, 5), ("predict", 5, 5)]


def test_files_and_arrays_of_the_same_pixels_give_the_same_rows(tmp_path: Path) -> None:
    model, samples = fitted(), images(3)
    files = []
    for sample in samples:
        assert sample.array is not None
        path = tmp_path / f"{sample.name}.png"
        Image.fromarray(sample.array).save(path)
        files.append(Sample(path.name, 0, path=path))
    one, two = (run(some, base_of(model, tmp_path), description="") for some in (samples, files))
    assert np.array_equal(one.rows, two.rows)


@pytest.mark.parametrize("change", ["weights", "spec", "choice"])
def test_another_base_has_another_place_in_the_cache(tmp_path: Path, change: str) -> None:
    model, samples = fitted(), images(2)
    compute(samples, base_of(model, tmp_path), strict=False, description="")
    other, choice = fitted(1 if change == "weights" else 0).classifier, CHOICE
    if change == "spec":
        other.spec = replace(other.spec, resize_size=40)
    if change == "choice":
        choice = replace(CHOICE, precision="bf16")
    assert len(open_base(other, choice, 0, tmp_path / "cache").store.missing([s.digest for s in samples])) == 2
    assert open_base(model.classifier, CHOICE, 0, tmp_path / "cache").store.missing([samples[0].digest]) == []


def test_graphs_with_equal_tensors_do_not_share_rows(tmp_path: Path) -> None:
    """ResNet-50 of 2015 and torchvision's differ in where they stride, and in nothing that a state dict holds."""
    from topgraft.models.classifier import Classifier
    from topgraft.models.weights.load import load_network

    folders = set()
    for name in ("resnet50", "resnet50_v1"):
        network = load_network(name, "random", input_size=32, classes=2)
        classifier = Classifier(network.chain, network.spec).eval()
        folders.add(open_base(classifier, CHOICE, 0, tmp_path).store.folder)
    assert len(folders) == 2


def test_probes_stand_side_by_side_and_the_network_runs_once_for_their_widths(tmp_path: Path) -> None:
    classifier, ran = small_classifier(), list[int]()
    classifier.groups["stem"].register_forward_hook(lambda *given: ran.append(1))
    base, widths = open_probes(classifier, CHOICE, 0, tmp_path)
    assert widths == {"stem": 8, "stage1": 12}
    assert len(ran) == 1
    samples = colored(3)
    rows = compute(samples, base, strict=True, description="").rows
    assert rows.shape == (3, 20)
    pixels = torch.from_numpy(np.stack([sample.array for sample in samples if sample.array is not None]))
    with torch.inference_mode():
        maps = classifier.groups["stem"](classifier.normalise(pixels))
        expected = torch.cat([maps.mean((2, 3)), classifier.groups["stage1"](maps)], 1)
    np.testing.assert_allclose(rows, expected, atol=1e-3)
