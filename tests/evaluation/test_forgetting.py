"""How much is forgotten: formulas against their definitions, exactly 0 where nothing moved, and the verb."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.fitted import TINY, write_weights
from support.small import colored, small_classifier

import topgraft as tg
from topgraft.cli import main
from topgraft.data.samples import Sample
from topgraft.errors import DataError
from topgraft.evaluation.evaluate import head_logits
from topgraft.evaluation.forgetting import Forgetting, Kept, measure, short
from topgraft.evaluation.pretrained_reference import PretrainedReference
from topgraft.evaluation.similarity import Similarity, linear_cka, mean_cosine
from topgraft.features.engines.base import EngineChoice
from topgraft.features.extract import run
from topgraft.features.frozen_base import open_base
from topgraft.metrics import Difference, Interval
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES
from topgraft.strategies.plan import Phase, Rule

CHOICE = EngineChoice("torch", "fp32", "cpu", 8, threads=1)
OUTPUTS = 4


def pair() -> tuple[PretrainedReference, Classifier]:
    """A small original with four outputs, and a base that was tuned away from it."""
    original = small_classifier(classes=OUTPUTS)
    tuned = small_classifier()
    tuned.groups.load_state_dict({**tuned.groups.state_dict(), **_base(original)})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.groups["stage1"].parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return PretrainedReference("small", "w", original, True), tuned


def _base(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {k: v for k, v in classifier.groups.state_dict().items() if not k.startswith("head.")}


def features(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize(("n", "d", "e"), [(30, 5, 7), (6, 20, 3), (6, 20, 30)])
def test_cka_is_the_normalized_hsic_of_linear_kernels(n: int, d: int, e: int) -> None:
    x, y = features(n, d, 0), features(n, e, 1)
    center = np.eye(n) - 1 / n
    k, m = (center @ (f.astype(np.float64) @ f.T) @ center for f in (x, y))
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_cka_does_not_see_rotation_scale_and_offset() -> None:
    x, y = features(40, 6, 0).astype(np.float64), features(40, 6, 1)
    turn = np.linalg.qr(features(6, 6, 2).astype(np.float64))[0]
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1)
    plain = linear_cka(x, y)
    assert plain is not None
    assert plain < 0.5
    assert linear_cka(x @ turn * 0.1 - 2, y) == pytest.approx(plain)
    assert linear_cka(x[:, :1] * [1, 2], y) != pytest.approx(plain)


def test_cka_of_one_image_or_of_equal_rows_is_undefined() -> None:
    assert linear_cka(features(1, 3, 0), features(1, 3, 1)) is None
    assert linear_cka(np.ones((4, 3)), features(4, 3, 1)) is None


def test_mean_cosine() -> None:
    x = np.array([[1, 0], [2, 2], [0, 0], [0, 0]])
    y = np.array([[0, 3], [1, 1], [0, 0], [1, 0]])
    assert mean_cosine(x, y) == pytest.approx((0 + 1 + 1 + 0) / 4)


def test_a_base_that_never_moved_has_lost_exactly_0_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    original, tuned = pair()
    tuned.groups.load_state_dict({**tuned.groups.state_dict(), **_base(original.classifier)})  # type: ignore[arg-type]
    monkeypatch.setitem(measure.__globals__, "compute", lambda *_, **__: pytest.fail("an image ran"))
    found = measure(tuned, original, CHOICE, own=colored(5), source=colored(5))
    assert (found.untouched, found.lost, found.own, found.source) == (True, 0.0, None, None)
    assert "0 points lost" in short(found)


def test_own_images_are_compared_under_the_original_classifier(tmp_path: Path) -> None:
    original, tuned = pair()
    samples = [replace(s, label=None) for s in colored(24)]
    found = measure(tuned, original, CHOICE, own=samples, workers=0, folder=tmp_path)
    before, after = (
        run(samples, open_base(each, CHOICE, 0, tmp_path / "direct"), description="").rows
        for each in (original.classifier, tuned)  # type: ignore[arg-type]
    )
    head = original.classifier
    assert head is not None
    same = (head_logits(head, before).argmax(1) == head_logits(head, after).argmax(1)).mean()
    assert found.own is not None
    assert found.own.agreement is not None
    assert 0 < found.own.agreement.value < 1
    assert found.own.agreement.value == pytest.approx(same)
    assert found.lost == pytest.approx(100 * (1 - same))
    assert found.own.cosine == pytest.approx(mean_cosine(before, after), abs=1e-3)  # the cache keeps float16
    assert found.own.cka == pytest.approx(linear_cka(before, after), abs=1e-3)
    assert (found.own.n, found.source) == (24, None)
    assert f"{100 * same:.1f} %" in short(found)


def test_a_source_is_counted_before_and_after(tmp_path: Path) -> None:
    original, tuned = pair()
    samples = colored(40)
    assert original.classifier is not None
    rows = run(samples, open_base(original.classifier, CHOICE, 0, tmp_path), description="").rows
    told = head_logits(original.classifier, rows).argmax(1)
    told[:10] = (told[:10] + 1) % OUTPUTS  # so that the original is right on 30 of 40
    labeled = [replace(s, label=int(label)) for s, label in zip(samples, told, strict=True)]
    found = measure(tuned, original, CHOICE, source=labeled, where="there", workers=0, folder=tmp_path)
    assert found.source is not None
    assert (found.own, found.source.n, found.source.where) == (None, 40, "there")
    assert found.source.top1_before.value == 0.75
    assert (found.source.top5_before, found.source.top5_after) == (None, None)  # four outputs
    lost = found.source.top1_before.value - found.source.top1_after.value
    assert lost != 0
    assert found.source.lost.value == pytest.approx(lost)
    assert found.source.lost.low < lost < found.source.lost.high
    assert found.lost == pytest.approx(100 * lost)
    assert "75.0 % before" in short(found)


def test_without_a_published_classifier_features_are_compared_all_the_same(tmp_path: Path) -> None:
    original, tuned = pair()
    headless = replace(original, answers=False, why="the published top does not fit")
    found = measure(tuned, headless, CHOICE, own=colored(9), workers=0, folder=tmp_path)
    assert found.own is not None
    assert (found.lost, found.own.agreement, found.cannot) == (None, None, "the published top does not fit")
    assert found.own.cosine < 1
    assert "the published top does not fit" in short(found)


def test_where_there_was_no_task_nothing_is_measured() -> None:
    _, tuned = pair()
    found = measure(
        tuned, PretrainedReference("small", "random", None, False, "no task before"), CHOICE, own=colored(3)
    )
    assert (found.untouched, found.lost, found.cannot) == (False, None, "no task before")
    assert short(found) == "original task: no task before"


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    original, tuned = pair()
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = Sample("bad.png", 0, path=tmp_path / "bad.png", digest="f" * 64)
    found = measure(tuned, original, CHOICE, own=[bad, *colored(4)], workers=0, folder=tmp_path)
    assert found.own is not None
    assert (found.own.n, [entry.name for entry in found.unreadable]) == (4, ["bad.png"])
    with pytest.raises(DataError, match="there are no images to compare on"):
        measure(tuned, original, CHOICE, workers=0, folder=tmp_path)
    with pytest.raises(DataError, match="none of the images to compare"):
        measure(tuned, original, CHOICE, own=[bad], workers=0, folder=tmp_path)
    with pytest.raises(DataError, match="strict"):
        measure(tuned, original, CHOICE, own=[bad, *colored(4)], workers=0, folder=tmp_path, strict=True)


# --- The verb -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Artifacts of both strategies from one file of weights, and a labeled source of its seven outputs."""
    folder = tmp_path_factory.mktemp("forgetting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        write_weights(folder / "w.safetensors", 7)
        # Without the head that would be solved first, so that the tuned base is what is kept, however bad it is.
        whole: dict[str, Any] = {
            "rules": [Phase("all", (Rule("*", 1.0),), 1, 0.1)],
            "strategy": "rules",
            "stalled": "ignore",
        }
        for name, more in (("head", {"strategy": "head"}), ("full", whole)):
            model = tg.fit(
                "digits",
                backbone="tiny",
                weights=folder / "w.safetensors",
                limit=60,
                engine="torch",
                **more,
            )
            tg.save(model, folder / name)
        draw = np.random.default_rng(0)
        (folder / "source").mkdir()
        lines = ["file,class_index,wnid"]
        for number in range(12):
            Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                folder / "source" / f"{number}.png"
            )
            lines.append(f"{number}.png,{number % 5},n{number}")
        (folder / "source" / "labels.csv").write_text("\n".join(lines))
        yield folder


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main(["forgetting", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_head_reports_exactly_0_and_opens_no_image(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(capsys, runs / "head", "--source", runs / "nowhere", "--json")
    said = json.loads(out)
    assert (code, said["untouched"], said["lost"]) == (0, True, 0.0)
    code, out, _ = ask(capsys, runs / "head", "--quiet")
    assert out.splitlines()[-1].startswith("forgotten: 0 points")


def test_full_without_a_source_uses_the_validation_images(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(capsys, runs / "full", "--engine", "torch", "--json")
    said = json.loads(out)
    model = tg.load(runs / "full")
    assert (code, said["untouched"], said["source"]) == (0, False, None)
    assert said["own"]["n"] == model.validation.metrics.n
    assert said["lost"] == pytest.approx(100 * (1 - said["own"]["agreement"]["value"]))
    code, out, _ = ask(capsys, runs / "full", "--engine", "torch", "--quiet")
    assert "your own images" in out
    assert out.splitlines()[-1].startswith("same answer as the original network:")


def test_a_table_of_the_original_task_is_a_source(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = runs / "source" / "labels.csv"
    code, out, _ = ask(capsys, runs / "full", "--source", source, "--engine", "torch", "--json")
    said = json.loads(out)
    assert (code, said["own"], said["source"]["n"], said["source"]["where"]) == (0, None, 12, str(source))
    assert said["source"]["top5_before"]["n"] == 12
    code, out, _ = ask(capsys, runs / "full", "--source", source, "--images", "digits", "--limit", "40", "--quiet")
    assert "your own images" in out
    assert "n = 12, the same images" in out.splitlines()[-1]


def test_the_verb_takes_a_model_and_arrays(runs: Path) -> None:
    model = tg.load(runs / "full")
    images = np.random.default_rng(1).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    found = tg.forgetting(model, source=(images, np.arange(8) % 4), engine="torch")
    assert found.source.n == 8


def test_a_source_that_cannot_be_matched_is_wrong_usage(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes((runs / "source" / f"{len(name)}.png").read_bytes())
    code, out, err = ask(capsys, runs / "full", "--source", tmp_path, "--engine", "torch")
    assert (code, out) == (2, "")
    assert "cannot be matched with the 7 outputs" in err


def test_what_cannot_be_opened_is_left_out_and_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes((runs / "source" / f"{name}.png").read_bytes())
    (tmp_path / "1" / "bad.png").write_bytes(b"no image")
    code, out, _ = ask(capsys, runs / "full", "--source", tmp_path, "--engine", "torch", "--json")
    said = json.loads(out)
    assert (code, said["source"]["n"], [entry["name"] for entry in said["unreadable"]]) == (0, 2, ["1/bad.png"])


@pytest.mark.parametrize("limit", [{}, {"forget_at_most": 0.0}])
def test_a_fit_takes_the_whole_source_and_names_what_it_leaves_out(
    runs: Path, tmp_path: Path, limit: dict[str, float]
) -> None:
    """The limit of images is on the user's own."""
    for name in "0123456":
        (tmp_path / name).mkdir()
        for number in range(12):
            shade = np.random.default_rng([int(name), number]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(shade).save(tmp_path / name / f"{number}.png")
    (tmp_path / "1" / "bad.png").write_bytes(b"no image")
    cut = tmp_path / "2" / "3.png"
    cut.write_bytes(cut.read_bytes()[:2000])
    rules = [Phase("all", (Rule("*", 1.0),), 1, 0.1)]
    asked = {"backbone": "tiny", "weights": runs / "w.safetensors", "engine": "torch", "stalled": "ignore"}
    model = tg.fit("digits", **asked, rules=rules, limit=60, source=str(tmp_path), **limit)
    assert sorted(entry.name for entry in model.unreadable) == [f"{tmp_path}: 1/bad.png", f"{tmp_path}: 2/3.png"]
    if not limit:
        assert model.config["forgetting"]["source"]["n"] == 83
        return
    trade = model.config["trade"]
    chosen = next(point for point in trade["points"] if point["share"] == trade["share"])
    assert chosen["choosing"]["n"] + chosen["reported"]["n"] == 83
    assert chosen["lost"]["value"] <= 0


def test_weights_that_were_changed_are_an_error(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(tmp_path / "other.safetensors", 7, seed=3)
    code, _, err = ask(capsys, runs / "full", "--weights", tmp_path / "other.safetensors")
    assert code == 1
    assert "is not the file that the model was fitted from" in err


def test_imagenet_before_and_after(real_data: Callable[[str], Path]) -> None:
    """On 100 of the images: what is there before is the published network's accuracy, and a shaken base loses some."""
    labels = real_data("imagenet-val-1000") / "labels.csv"
    some = labels.with_name("some.csv")
    some.write_text("\n".join(labels.read_text().splitlines()[:101]))
    images = np.random.default_rng(1).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    model = tg.fit((images, np.arange(12) % 2), strategy="head")
    assert tg.forgetting(model).lost == 0.0
    classifier = copy.deepcopy(model.classifier)
    with torch.no_grad():
        for parameter in list(classifier.groups.values())[-2].parameters():
            parameter.mul_(0.5 + torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
    found = tg.forgetting(replace(model, classifier=classifier), source=some)
    assert found.source is not None
    assert found.source.n == 100
    assert 0.6 < found.source.top1_before.value < 0.85
    assert found.source.lost.value > 0
    assert found.source.top5_before is not None
    assert found.source.top5_before.value >= found.source.top1_before.value


def test_every_form_has_a_sentence() -> None:
    at = Interval(0.5, 0.4, 0.6, 10)
    kept = Kept(10, "there", at, at, None, None, Difference(-0.0, -0.1, 0.1, 10))
    found = Forgetting("b", "w", False, 0.0, None, kept)
    assert short(found).endswith("0.0 points lost (95 % interval -10.0 to 10.0, n = 10)")
    own = Similarity(1, at, 0.5, None)
    assert short(Forgetting("b", "w", False, 50.0, own)).endswith("features kept cosine 0.500")
