"""The model card says what the numbers are, of which images, and with which uncertainty."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.fitted import fitted

import topgraft
from topgraft.artifacts.model_card import model_card
from topgraft.system.formatting import image_counts, percent, share, split_label


def card(**results: Any) -> str:
    model = fitted()
    config = {**model.config, "classes": list(model.classes), "image_spec": asdict(model.spec)}
    return model_card("photos", config, results)


def entry(*, used: bool = False, where: str = "photos", top5: Any = None) -> dict[str, Any]:
    top1 = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 1200}
    return {"where": where, "used_for_selection": used, "top1": top1, "top5": top5, "log_loss": 0.5, "ece": 0.02, "n": 1200}  # fmt: skip  # noqa: E501


def test_every_number_has_its_n_and_its_interval() -> None:
    text = card(test=entry())
    assert "| test | 90.0 % (95 % interval 85.0 to 95.0, n = 1,200) | – | 0.500 | 0.020 | 1,200 |" in text
    assert "Log loss (nats) and expected calibration error have none." in text
    assert "used for selection" not in text


def test_a_number_that_selected_is_marked() -> None:
    text = card(val=entry(used=True))
    assert "| validation, used for selection | 90.0 %" in text
    assert "A number used for selection is a little too good" in text
    assert split_label("val", True) == "validation, used for selection"
    assert split_label("test", False) == "test"


def test_top5_is_shown_where_there_is_one() -> None:
    assert card(test=entry(top5={"value": 1.0, "low": 0.99, "high": 1.0, "n": 1200})).count("n = 1,200)") == 2


def test_it_says_of_what_and_how() -> None:
    text = card()
    for part in (
        "# photos\n", "3 classes: ant, bee, Käfer.", "**tiny**", "license: MIT", "**head**", "Source: `photos`",
        "train 3, validation 5, test 1", "resized to 36 (bilinear)", "32 × 32 pixels", "(BGR)", "Note: one note.",
        'tg.load("photos")',
        "topgraft predict photos photo.jpg",
    ):  # fmt: skip
        assert part in text, part


def test_what_auto_kept_is_a_sentence() -> None:
    model = fitted()
    config = {**model.config, "classes": list(model.classes), "image_spec": asdict(model.spec)}
    config["kept"] = "kept: the head alone, right for 80.0 % of 5 validation images, as from Stem came to 60.0 %"
    assert "\nKept: the head alone, right for 80.0 % of 5 validation images, as from Stem came" in model_card(
        "photos", config, {}
    )


def test_percent() -> None:
    shown = percent({"value": 0.954, "low": 0.9087, "high": 0.978, "n": 153})
    assert shown == "95.4 % (95 % interval 90.9 to 97.8, n = 153)"


def test_a_share_is_written_in_one_way() -> None:
    shares = [share(0.9987), share(1.0), share(0.5, 0), share(0.0)]
    assert shares == ["99.9 %", "100.0 %", "50 %", "0.0 %"]


def test_no_module_writes_percent_without_the_space() -> None:
    tight = re.compile(r"\{[^{}\n]*:[^{}\n]*%\}|\}%")  # f"{x:.1%}", f"{x}%"
    source = Path(topgraft.__file__).parent
    assert [path.name for path in source.rglob("*.py") if tight.search(path.read_text(encoding="utf-8"))] == []


def test_counts_are_of_images_that_were_used() -> None:
    assert image_counts({"train": 1_200, "val": 3, "test": 0}, 0) == "train 1,200, validation 3"
    assert image_counts({"train": 4, "val": 3, "test": 2}, 12) == (
        "train 4, validation 3, test 2 (not decoded by the fit); left out 12 files that cannot be read"
    )
