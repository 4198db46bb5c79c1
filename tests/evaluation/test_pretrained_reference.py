"""The published network again, and which of its outputs a class of a source is."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.fitted import SPEC, TINY, build, fitted, write_weights
from torch import nn

from topgraft.data.samples import Sample
from topgraft.errors import DataError, UsageError, WeightsError
from topgraft.evaluation.pretrained_reference import (
    PretrainedReference,
    base_state,
    find_reference,
    output_indices,
    reference_of,
    source_samples,
    untouched,
)
from topgraft.evaluation.results import FittedClassifier
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Build
from topgraft.models.weights.load import load_network

OUTPUTS = 7


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    write_weights(tmp_path / "w.safetensors", OUTPUTS)
    return tmp_path / "w.safetensors"


def model_from(weights: Path, **changed: Any) -> FittedClassifier:
    """A model with a head of its own on the base of a file."""
    network = load_network("tiny", weights, classes=3)
    backbone = {
        "name": "tiny", "build": asdict(network.build), "weights": weights.name, "weights_sha256": network.sha256,
        **changed,
    }  # fmt: skip
    model = fitted()
    config = {**model.config, "backbone": backbone, "settings": {"weights": str(weights)}}
    return replace(model, classifier=Classifier(network.chain, SPEC).eval(), config=config)


def test_it_has_its_own_top_and_the_tuned_networks_pixels(weights: Path) -> None:
    model = model_from(weights)
    found = reference_of(model)
    assert found.classifier is not None
    assert (found.answers, found.why, found.classifier.spec) == (True, "", SPEC)
    assert found.classifier.head.out_features == OUTPUTS
    assert found.classifier.head.weight.abs().sum() > 0
    assert untouched(model.classifier, found)


@pytest.mark.parametrize("key", sorted(base_state(Classifier(build(Build(input_size=32, classes=2)), SPEC))))
def test_a_change_of_any_tensor_of_the_base_is_noticed(weights: Path, key: str) -> None:
    model = model_from(weights)
    with torch.no_grad():
        model.classifier.head.bias.add_(1)
        assert untouched(model.classifier, reference_of(model))
        model.classifier.groups.state_dict()[key].add_(1)
    assert not untouched(model.classifier, reference_of(model))


def test_weights_that_are_gone_or_changed_are_named(weights: Path, tmp_path: Path) -> None:
    model = model_from(weights)
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(
        WeightsError, match=r"w\.safetensors, .* is no longer there; give the file with --weights .*[0-9a-f]{64}"
    ):
        reference_of(model)
    assert reference_of(model, str(moved)).answers
    weights.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"w\.safetensors is not the file that the model was fitted from"):
        reference_of(model)


def test_published_weights_are_found_by_name_where_the_file_is_gone(tmp_path: Path) -> None:
    network = load_network("efficientnet_lite0", classes=2)
    found = find_reference(
        "efficientnet_lite0",
        network.build,
        network.spec,
        weights=network.weights,
        sha256=network.sha256,
        asked=str(tmp_path / "gone.pth"),
    )
    assert found.answers
    assert untouched(Classifier(network.chain, network.spec), found)


def test_where_there_was_no_task_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Build(input_size=32, classes=2)
    random = find_reference("resnet18", small, SPEC, weights="random", sha256="")
    learned = find_reference("descriptor_coding", small, SPEC, weights="learnt", sha256="")
    assert [found.classifier for found in (random, learned)] == [None, None]
    assert "weights were random" in random.why
    assert "learned from your own images" in learned.why
    assert not untouched(Classifier(build(small), SPEC), random)


def test_a_top_that_is_no_dense_layer_leaves_the_features(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    sha256 = write_weights(path, OUTPUTS, backbone="squeezenet1_1")
    network = load_network("squeezenet1_1", path, classes=2)
    found = find_reference(
        "squeezenet1_1", network.build, network.spec, weights=path.name, sha256=sha256, asked=str(path)
    )
    assert not found.answers
    assert "published top of squeezenet1_1 does not fit these features" in found.why
    assert untouched(Classifier(network.chain, network.spec), found)
    with pytest.raises(UsageError, match="leave the source out"):
        source_samples([], [], found)


@pytest.mark.parametrize(("name", "dense"), [("lcnet_050", True), ("repvit_m0_9", False)])
def test_a_network_of_timm(timm: ModuleType, tmp_path: Path, name: str, dense: bool) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model(name).state_dict(), path)
    network = load_network(f"timm:{name}", path, classes=2)
    found = find_reference(
        f"timm:{name}", network.build, network.spec, weights=path.name, sha256=network.sha256, asked=str(path)
    )
    assert found.answers == dense
    assert untouched(Classifier(network.chain, network.spec), found)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_published_top_that_is_dense_stands_on_the_base_that_a_new_one_stands_on(name: str) -> None:
    record = BACKBONES[name]
    size = record.untrained.input_size
    with torch.device("meta"):
        own, published = (
            record.build(Build(input_size=size, classes=5, top=top))  # type: ignore[arg-type]
            for top in ("own", "published")
        )
    heads = own.pop("head"), published.pop("head")
    if not isinstance(heads[1], nn.Linear):
        assert name == "squeezenet1_1"  # its answers are not asked
        return
    assert repr(own) == repr(published)
    assert repr(heads[0]) == repr(heads[1])


def test_classes_that_are_numbers_are_outputs() -> None:
    assert output_indices(("0", "10", "9"), 11) == (0, 10, 9)
    assert output_indices(("00001", "2"), 1000) == (1, 2)


def test_as_many_classes_as_outputs_are_taken_in_the_order_of_their_names() -> None:
    assert output_indices(("n02", "n01", "n10"), 3) == (1, 0, 2)


@pytest.mark.parametrize(
    "classes",
    [("cat", "dog"), ("1", "2", "3"), ("0", "dog"), ("-1", "0"), ("²", "0"), ("a", "a", "b")],
    ids=["names", "from 1", "mixed", "negative", "no digit", "twice"],
)
def test_classes_that_cannot_be_matched_say_what_is_needed(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"matched with the 3 outputs .* 0 to 2 .*file,class_index.*exactly 3"):
        output_indices(classes, 3)


def test_source_samples_count_the_originals_outputs() -> None:
    original = PretrainedReference("tiny", "w", Classifier(build(Build(input_size=32, classes=5)), SPEC), True)
    samples = [Sample("a", 0), Sample("b", 1)]
    assert [s.label for s in source_samples(samples, ("4", "2"), original)] == [4, 2]
    with pytest.raises(DataError, match="no images that can be read"):
        source_samples([], ("4", "2"), original)
