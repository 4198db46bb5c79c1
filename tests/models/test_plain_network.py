from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import topgraft as tg
from topgraft.models.classifier import load_pretrained

NAME = "efficientnet_lite0"


def images(n: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_published_top_is_kept_where_it_has_as_many_outputs() -> None:
    published = load_pretrained(NAME).groups.state_dict()
    for classes in (None, 1000):
        network = tg.create_network(NAME, classes=classes)
        assert not network.training
        assert all(torch.equal(tensor, published[key]) for key, tensor in network.groups.state_dict().items())
    other = tg.create_network(NAME, classes=7)
    assert torch.equal(other.groups.state_dict()["stem.conv.weight"], published["stem.conv.weight"])
    head = other.groups["head"]
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    assert 0 < head.weight.abs().max() <= 1280**-0.5


def test_it_takes_normalized_floats_and_both_layouts() -> None:
    first = tg.create_network(NAME, weights="random", input_size=64, classes=5)
    last = tg.create_network(NAME, weights="random", input_size=64, classes=5, data_format="channels_last")
    x = images()
    with torch.inference_mode():
        assert first(x).shape == (2, 5)
        assert torch.equal(first(x), last(x.permute(0, 2, 3, 1)))
    with pytest.raises(tg.UsageError, match=r"takes N×3×64×64 \(channels_first\), not 2×3×32×32"):
        first(images(side=32))
    with pytest.raises(tg.UsageError, match="takes N×64×64×3"):
        last(x)


def test_options_of_the_notes() -> None:
    plain = tg.create_network(NAME, weights="random", input_size=32, classes=5)
    fixed = tg.create_network(NAME, weights="random", input_size=32, classes=5, batch_size=2, rescale_inputs=True)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    means = torch.tensor([123.68, 116.78, 103.94]).reshape(1, 3, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(fixed(x), plain(x * 255 - means))
    with pytest.raises(tg.UsageError, match="takes 2×3×32×32"):
        fixed(x[:1])


def test_random_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    states = [tg.create_network(NAME, weights="random", input_size=32, seed=s).state_dict() for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["groups.head.weight"], states[2]["groups.head.weight"])


def test_gray_images_see_what_three_equal_channels_see() -> None:
    color = tg.create_network(NAME, input_size=64)
    gray = tg.create_network(NAME, input_size=64, channels=1)
    x = images()[:, :1]
    with torch.inference_mode():
        torch.testing.assert_close(gray(x), color(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-3)


def test_a_file_of_weights_goes_anywhere_a_name_goes(tmp_path: Path) -> None:
    made = tg.create_network(NAME, weights="random", classes=6, seed=3)
    state = {key: tensor.contiguous() for key, tensor in made.groups.state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "mine.pth")
    for file in ("mine.safetensors", "mine.pth"):
        again = tg.create_network(NAME, tmp_path / file)
        assert all(torch.equal(tensor, state[key]) for key, tensor in again.groups.state_dict().items())
    save_file({**state, "extra": torch.zeros(3)}, tmp_path / "more.safetensors")
    with pytest.raises(tg.WeightsError, match=r"unexpected: extra \(3,\)"):
        tg.create_network(NAME, tmp_path / "more.safetensors")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(tg.WeightsError, match="no weights that Topgraft can read"):
        tg.create_network(NAME, tmp_path / "text.pth")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"data_format": "NHWC"}, "channels_first or channels_last"),
        ({"channels": 2}, "3 channels"),
        ({"channels": 1, "rescale_inputs": True}, "three colors"),
        ({"input_size": 16}, "too small"),
        ({"input_size": (64, 32)}, "images are square"),
        ({"classes": 0}, "at least one class"),
        ({"weights": "nowhere.pth"}, "no weights named 'nowhere.pth'"),
    ],
)
def test_impossible_choices_are_refused(choices: dict[str, object], message: str) -> None:
    with pytest.raises(tg.UsageError, match=message):
        tg.create_network(NAME, **choices)  # type: ignore[arg-type]


def test_a_networks_own_state_dict_can_be_given_back(tmp_path: Path) -> None:
    made = tg.create_network(NAME, weights="random", classes=6, seed=3, channels=1)
    torch.save(made.state_dict(), tmp_path / "gray.pth")
    color = tg.create_network(NAME, tmp_path / "gray.pth", input_size=64)
    gray = tg.create_network(NAME, tmp_path / "gray.pth", input_size=64, channels=1)
    x = images()[:, :1]
    with torch.inference_mode():
        torch.testing.assert_close(gray(x), color(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-6)


def test_weights_and_shape_as_keras_users_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    made = tg.create_network(NAME, weights="imagenet", input_size=(64, 64, 3))
    assert "weights imagenet: efficientnet_lite0_imagenet, the default of efficientnet_lite0" in capsys.readouterr().err
    same = tg.create_network(NAME, input_size=64)
    assert capsys.readouterr().err == ""
    states = made.state_dict(), same.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert made.build == same.build


def test_a_network_without_published_weights_has_no_imagenet_ones() -> None:
    with pytest.raises(tg.UsageError, match="no weights of resnet50_notes are published"):
        tg.create_network("resnet50_notes", weights="imagenet")
