"""What is taken where nothing is asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from topgraft.settings.verbs import FitSettings
from topgraft.strategies import defaults

IMAGES = [1, 2, 10, 50, 200, 320, 400, 640, 1000, 1280, 2000, 5000, 19_999, 20_000, 50_000, 1_300_000]


@pytest.mark.parametrize(
    ("images", "passes"),
    [(1, 20), (320, 20), (400, 16), (640, 10), (1000, 6), (1280, 5), (19_999, 5), (20_000, 3), (1_300_000, 3)],
)
def test_few_images_are_passed_over_more_often(images: int, passes: int) -> None:
    assert defaults.epochs(images, 10, pretrained=True) == passes


@pytest.mark.parametrize("classes", [2, 100])
def test_more_images_never_take_more_passes_and_all_take_3_to_20(classes: int) -> None:
    passes = [defaults.epochs(images, classes, pretrained=True) for images in IMAGES]
    assert all(fewer >= more for fewer, more in pairwise(passes))
    assert set(passes) <= set(range(3, 21))


@pytest.mark.parametrize("images", [400, 640, 1000])
def test_there_are_about_200_steps_of_32_where_the_bounds_leave_room(images: int) -> None:
    steps = defaults.epochs(images, 10, pretrained=True) * images / 32
    assert steps == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize(("images", "more"), [(100, 0), (640, 1), (1280, 1), (5000, 0), (50_000, 0)])
def test_a_hundred_classes_take_one_pass_more_within_the_bounds(images: int, more: int) -> None:
    few, many = (defaults.epochs(images, classes, pretrained=True) for classes in (99, 100))
    assert many - few == more


@pytest.mark.parametrize("images", IMAGES)
def test_random_weights_take_10_passes_however_many_images(images: int) -> None:
    assert defaults.epochs(images, 2, pretrained=False) == defaults.epochs(images, 1000, pretrained=False) == 10


def test_without_an_image_there_is_a_number_all_the_same() -> None:
    assert defaults.epochs(0, 2, pretrained=True) == 20


@pytest.mark.parametrize(
    ("optimizer", "pretrained", "rate"),
    [
        ("adam", True, 3e-4), ("adamw", True, 3e-4), ("sgd", True, 0.01),
        ("adam", False, 1e-3), ("adamw", False, 1e-3), ("sgd", False, 0.1),
    ],
)  # fmt: skip
def test_the_rate_goes_by_optimizer_and_by_what_the_weights_know(optimizer: str, pretrained: bool, rate: float) -> None:
    assert defaults.learning_rate(optimizer, pretrained) == rate


def test_every_optimizer_has_both_rates() -> None:
    options = set(FitSettings.__dataclass_fields__["optimizer"].metadata["options"])
    assert options == set(defaults.LEARNING_RATES) == set(defaults.PRETRAINED_RATES)
