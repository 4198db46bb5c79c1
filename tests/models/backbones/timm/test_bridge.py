"""Networks of timm as backbones: what holds for each of a list across families, and what is said where it cannot."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import topgraft as tg
from topgraft.cli.main import main
from topgraft.data.loader import Batch
from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError, WeightsError
from topgraft.features import engines
from topgraft.features.engines import choose
from topgraft.models.backbones.timm.pretrained import image_spec
from topgraft.models.classifier import Classifier
from topgraft.models.registry import BACKBONES, find_backbone
from topgraft.models.spec import Backbone, Build, random_chain
from topgraft.models.summary import summarize
from topgraft.models.weights.load import Network, load_network

SIDE = 64
CLASSES = 6

# How many groups each has. Two are not a chain: HRNet's branches run side by side, SelecSLS hands lists on.
NETWORKS = {
    "convnext_atto": 6,
    "densenet121": 6,
    "dla46_c": 7,
    "edgenext_xx_small": 6,
    "ghostnet_050": 6,
    "hrnet_w18_small": 2,
    "lcnet_050": 7,
    "mnasnet_small": 7,
    "mobilenetv2_035": 7,
    "mobilenetv3_small_050": 6,
    "nf_regnet_b0": 6,
    "regnetx_002": 6,
    "repvgg_a0": 6,
    "repvit_m0_9": 6,
    "resnetblur18": 6,
    "resnext50_32x4d": 6,
    "selecsls42": 2,
    "tf_efficientnet_lite0": 7,
}
NO_CHAIN = {
    "hrnet_w18_small": "stages end at stem and stage1",
    "selecsls42": "more than one tensor comes out of stage1",
}
HEADLESS = ("repvit_m0_9",)  # its classifier is a BatchNorm and a dense layer


@dataclass(frozen=True)
class Case:
    """A network with weights, by timm and here; what is compared is drawn so that no layer does nothing."""

    name: str
    backbone: Backbone
    reference: Any
    network: Network
    classifier: Classifier
    pixels: torch.Tensor
    expected: torch.Tensor


def drawn(reference: nn.Module) -> None:
    """Norms and biases of random values, and the statistics of random images."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if parameter.dim() < 2:
                values = torch.rand(parameter.shape, generator=generator)
                parameter.copy_(0.2 * values - 0.1 if name.endswith("bias") else 0.5 + values)
        for layer in reference.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = None  # the plain average of all batches
        reference.train()
        for _ in range(2):
            reference(torch.randn(4, 3, SIDE, SIDE, generator=generator))
    reference.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def case(timm: ModuleType, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name: str = request.param
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        reference = timm.create_model(name, num_classes=CLASSES)
        drawn(reference)
    file = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in reference.state_dict().items()}, file)
    backbone = find_backbone(f"timm:{name}")
    classes = CLASSES if name in HEADLESS else None
    network = load_network(f"timm:{name}", file, input_size=SIDE, classes=classes)
    classifier = Classifier(network.chain, network.spec).eval()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (4, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        x = classifier.normalise(pixels)
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True)
    return Case(name, backbone, reference, network, classifier, pixels, expected.flatten(1))


def test_groups_are_the_networks_own_stages(case: Case) -> None:
    groups = tuple(case.network.chain)
    assert groups == case.backbone.groups
    assert len(groups) == NETWORKS[case.name]
    if case.name in NO_CHAIN:
        assert groups == ("base", "head")
        assert NO_CHAIN[case.name] in case.backbone.whole
    else:
        assert groups == ("stem", *(f"stage{number}" for number in range(1, len(groups) - 1)), "head")
        assert case.backbone.whole == ""
    head = case.network.chain["head"]
    assert type(head) is nn.Linear
    assert (head.in_features, head.out_features) == (case.backbone.feature_width, CLASSES)


def test_features_and_logits_are_timms_own(case: Case) -> None:
    with torch.inference_mode():
        features, logits = case.classifier.features(case.pixels), case.classifier(case.pixels)
        expected = case.reference(case.classifier.normalise(case.pixels))
    scale = case.expected.abs().max()
    assert (case.expected[0] - case.expected[1]).abs().max() > 1e-3 * scale, "a network that sees nothing would pass"
    assert (features - case.expected).abs().max() <= 1e-5 * scale
    if case.name in HEADLESS:
        assert not logits.any(), "the head is new"
    else:
        assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_one_tensor_crosses_each_boundary_and_a_prefix_is_the_first_groups(case: Case) -> None:
    with torch.inference_mode():
        x = case.classifier.normalise(case.pixels)
        for name, group in case.classifier.groups.items():
            x = group(x)
            assert type(x) is torch.Tensor
            assert len(x) == len(case.pixels)
            assert torch.equal(case.classifier.prefix(name)(case.pixels), x)


def test_no_tensor_is_on_the_meta_device_and_none_is_missing(case: Case) -> None:
    groups = case.classifier.groups
    assert not [key for key, t in (*groups.named_parameters(), *groups.named_buffers()) if t.is_meta]
    parameters = sum(p.numel() for p in case.reference.parameters())
    if case.name not in HEADLESS:
        assert sum(p.numel() for p in groups.parameters()) == parameters


def test_the_summary_counts_every_parameter(case: Case) -> None:
    found = summarize(case.backbone.name, SIDE, CLASSES)
    assert found.parameters.total == sum(layer.parameters for layer in found.layers)
    assert found.parameters.trainable == sum(p.numel() for p in case.classifier.groups.parameters())
    assert list(dict.fromkeys(layer.group for layer in found.layers)) == list(case.backbone.groups)
    assert found.layers[-1].output == (CLASSES,)
    said = [note for note in found.notes if note.startswith("the base cannot be frozen in part: ")]
    assert len(said) == (case.name in NO_CHAIN)


def test_random_weights_are_drawn_from_their_seed_alone(case: Case) -> None:
    before = torch.get_rng_state()
    build = Build(input_size=SIDE, classes=CLASSES)
    one, again, other = (nn.ModuleDict(random_chain(case.backbone, build, seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    state, different = again.state_dict(), other.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in one.state_dict().items())
    assert not all(torch.equal(tensor, different[key]) for key, tensor in one.state_dict().items())
    with torch.inference_mode():
        assert Classifier(dict(one.items()), case.network.spec).eval()(case.pixels).isfinite().all()


@pytest.mark.skipif(engines.available()["openvino"] is None, reason="OpenVINO is not installed")
def test_openvino_computes_the_same_features(case: Case, tmp_path: Path) -> None:
    choice = choose.choose("openvino", "fp32")
    base = case.classifier.prefix(case.backbone.groups[-2])
    engine = choose.build_engine(choice, base, input_size=SIDE, key=case.name, folder=tmp_path)
    (_, rows), *_ = engine.run([Batch(np.arange(len(case.pixels)), case.pixels)])
    found, wanted = rows.astype(np.float64), case.expected.numpy().astype(np.float64)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() >= choose.tolerance(choice).cosine
    assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()


# --- One network each -----------------------------------------------------------------------------------------------

SMALL = "timm:lcnet_050"


def test_an_unknown_name_is_answered_with_close_ones(timm: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"no network named 'resnet19'; did you mean .*timm:resnet18"):
        find_backbone("timm:resnet19")
    for name in ("timm:hf-hub:timm/resnet18.a1_in1k", "timm:local-dir:/tmp", "timm:"):
        with pytest.raises(UsageError, match="has no network named"):
            find_backbone(name)
    with pytest.raises(UsageError, match=r"no weights of timm:resnet18\.unknown"):
        find_backbone("timm:resnet18.unknown")


def test_the_record_is_made_once(timm: ModuleType) -> None:
    assert find_backbone(SMALL) is find_backbone(SMALL)
    assert SMALL not in BACKBONES


def test_a_missing_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"timm, which is not installed: pip install topgraft\[timm\]$"):
        find_backbone(SMALL)


def test_a_timm_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm").mkdir()
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "timm" / "__init__.py").write_text(code, "utf-8")
    for module in [name for name in sys.modules if name == "timm" or name.startswith("timm.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"torchvision::nms does not exist\).*torchvision.* installed PyTorch"):
        find_backbone(SMALL)


@pytest.mark.parametrize(
    ("published", "spec", "notes"),
    [
        (
            {"input_size": (3, 224, 224), "crop_pct": 0.95, "interpolation": "bicubic"},
            ImageSpec(224, 235, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            0,
        ),
        (
            {
                "input_size": (3, 288, 288),
                "crop_pct": 1.0,
                "mean": (0.5,) * 3,
                "std": (0.5,) * 3,
                "crop_mode": "squash",
            },
            ImageSpec(288, 288, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            1,
        ),
        (
            {"input_size": (3, 299, 299), "interpolation": "lanczos"},
            ImageSpec(299, 341, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            1,
        ),
    ],
)
def test_the_image_spec_is_timms(timm: ModuleType, published: dict[str, Any], spec: ImageSpec, notes: int) -> None:
    found, said = image_spec(timm, published)
    assert found == spec
    assert len(said) == notes


def test_sizes_that_a_network_does_not_take(timm: ModuleType) -> None:
    with pytest.raises(UsageError, match="timm:inception_v3 takes no images of 48 pixels a side"):
        load_network("timm:inception_v3", "random", input_size=48, classes=2)
    with pytest.raises(UsageError, match="takes images of 160 pixels a side, not of 64"):
        load_network("timm:test_vit", "random", input_size=64, classes=2)


def test_a_transformer_is_a_base_and_a_head(timm: ModuleType) -> None:
    backbone = find_backbone("timm:test_vit")
    assert backbone.groups == ("base", "head")
    network = load_network("timm:test_vit", "random", classes=3)
    with torch.inference_mode():
        pixels = torch.zeros(1, 160, 160, 3, dtype=torch.uint8)
        assert Classifier(network.chain, network.spec).eval()(pixels).shape == (1, 3)


def test_gray_images_go_through_summed_kernels(timm: ModuleType, tmp_path: Path) -> None:
    reference = timm.create_model("lcnet_050", num_classes=3).eval()
    save_file(reference.state_dict(), tmp_path / "file")
    gray = load_network(SMALL, tmp_path / "file", input_size=SIDE, channels=1)
    x = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = nn.Sequential(*gray.chain.values())(x)
        torch.testing.assert_close(found, reference(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_a_file_of_another_network_is_refused(timm: ModuleType, tmp_path: Path) -> None:
    save_file(timm.create_model("lcnet_035").state_dict(), tmp_path / "file")
    with pytest.raises(WeightsError, match=r"do not fit timm:lcnet_050 \(names as in timm\): of another shape"):
        load_network(SMALL, tmp_path / "file")


def test_published_weights_come_through_timm(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def create_model(name: str, *, pretrained: bool, **options: Any) -> Any:
        asked.append(pretrained)
        return create(name, **options)

    backbone = find_backbone(SMALL)
    with torch.device("meta"):
        backbone.build(Build(input_size=SIDE, classes=2))  # its size is checked once
    monkeypatch.setattr(timm, "create_model", create_model)
    network = load_network(SMALL, input_size=SIDE, classes=2)
    assert True in asked
    assert not network.chain["head"].weight.any()
    assert (network.weights, network.sha256, network.license) == ("timm:lcnet_050.ra2_in1k", "", "apache-2.0")


def test_the_whole_line_and_an_artifact_that_needs_no_download(
    timm: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits = load_digits()
    few = digits.target < 2
    images = (digits.images[few][:60] * 15).astype(np.uint8)
    create = timm.create_model
    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, *, pretrained, **options: create(name, **options))
        model = tg.fit((images, digits.target[few][:60]), backbone=SMALL, strategy="head")
    assert model.config["versions"]["timm"] == timm.__version__
    tg.save(model, tmp_path / "run")
    monkeypatch.setenv("TOPGRAFT_OFFLINE", "1")
    again = tg.load(tmp_path / "run")
    assert again.config["backbone"]["name"] == SMALL
    given = torch.from_numpy(np.repeat(images[:2, :, :, None], 3, axis=3).repeat(28, axis=1).repeat(28, axis=2))
    with torch.inference_mode():
        assert torch.equal(again.classifier(given), model.classifier(given))


def test_without_a_connection_it_says_what_to_do(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = find_backbone("timm:mnasnet_small")
    assert backbone.fetch is not None
    with monkeypatch.context() as patch:
        patch.setenv("TOPGRAFT_OFFLINE", "1")
        with pytest.raises(
            WeightsError, match=r"TOPGRAFT_OFFLINE is set, .*timm:mnasnet_small\.lamb_in1k\. Give a file"
        ):
            load_network(backbone.name)

    def create_model(name: str, **options: Any) -> Any:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(WeightsError, match=r"cannot get .* \(Network is unreachable\); without a connection"):
        load_network(backbone.name)


def test_a_top_of_another_form_needs_a_number_of_classes(timm: ModuleType, tmp_path: Path) -> None:
    save_file(timm.create_model("repvit_m0_9").state_dict(), tmp_path / "file")
    with pytest.raises(UsageError, match="top of timm:repvit_m0_9 is not one dense layer; say how many classes"):
        load_network("timm:repvit_m0_9", tmp_path / "file")


def test_the_summary_of_the_command_line(timm: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "timm:convnext_atto", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["backbone"], found["input_size"], found["classes"]) == ("timm:convnext_atto", 224, 1000)
    assert round(found["parameters"]["total"] / 1e6, 2) == 3.70  # results/results-imagenet.csv of timm
