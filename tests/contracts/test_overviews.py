"""What a user reads of each record."""

from __future__ import annotations

from dataclasses import replace

from support.fitted import fitted

from topgraft.data.samples import Sample, Splits, Unreadable
from topgraft.evaluation.results import Prediction, Predictions
from topgraft.models.catalog import summary
from topgraft.system.formatting import listed
from topgraft.training.inspection import PlannedPhase


def samples(count: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"ants/{at}.jpg", at % 2, digest="ab" * 32) for at in range(count))


def test_a_model_says_how_good_it_is_and_what_judged_it() -> None:
    assert repr(fitted()).splitlines() == [
        "Classifier of 3 classes on tiny",
        "top-1       20.0 % (95 % interval 3.6 to 62.4, n = 5)",
        "judged by   validation, used for selection",
        "classes     ant, bee, Käfer",
        "images      train 3, validation 5, test 1 (not decoded by the fit); photos",
        "weights     tiny-0 (license: MIT)",
        "strategy    head; kept: the solved head",
        "input       32 × 32 pixels, BGR",
        "seconds     1.50",
        "unreadable  1 file: ant/ä.png is empty (0 bytes)",
    ]


def test_a_trained_model_says_which_epoch_was_kept() -> None:
    model = fitted()
    selection = {"epoch": 2, "phase": "top", "by": "validation", "images": 5}
    assert "kept: epoch 2 of top" in repr(replace(model, config={**model.config, "selection": selection}))


def test_a_model_at_chance_says_so_before_all_else_but_its_accuracy() -> None:
    model = fitted()
    warned = replace(model, config={**model.config, "largest_class": {"message": "the model is not clearly better"}})
    assert repr(warned).splitlines()[3].split() == ["warning", "the", "model", "is", "not", "clearly", "better"]


def test_splits_are_counts_by_class() -> None:
    splits = Splits("photos", ("ant", "bee"), samples(5), samples(2), (), frozenset({"val"}), 3)
    assert repr(splits).splitlines() == [
        "7 images of 2 classes",
        "source            photos",
        "split by content  validation (seed 3)",
        "class  train  validation",
        "ant        3           1",
        "bee        2           1",
    ]
    assert repr(splits.val).splitlines()[0] == "2 samples"


def test_an_evaluation_says_what_it_has_left_out() -> None:
    result = replace(fitted().validation, seen=("a", "b"), unreadable=(Unreadable("c", "is empty"),) * 3)
    lines = repr(result).splitlines()
    assert lines[0] == "Evaluation on 5 images (validation, used for selection)"
    assert "left out    2 images that fitting or selection has used" in lines
    assert "unreadable  3 files: c is empty; c is empty …" in lines
    assert "ant    " in repr(fitted().validation)


def test_answers_are_a_row_for_each_image() -> None:
    answers = Predictions((Prediction("a.jpg", ("ant", "bee"), (0.75, 0.25)),))
    assert repr(answers).splitlines() == [
        "Predictions for 1 image",
        "image  class  probability  then",
        "a.jpg  ant         75.0 %  bee 25.0 %",
    ]
    assert repr(answers.predictions[0]) == "Prediction(name=a.jpg, best=ant 75.0 %, then=bee 25.0 %)"


def test_a_history_is_a_row_for_each_record() -> None:
    first = fitted().history[0]
    model = replace(fitted(), history=(first, replace(first, epoch=1, strength=None, lr=1e-3, chosen=False)))
    assert repr(model.history).splitlines() == [
        "History: 1 solve of the head, 1 epoch",
        "phase  epoch  rate or C  train loss  val. loss  val. top-1  n  seconds  chosen",
        "head       –        0.1         0.1        0.2      80.0 %  5     0.50  yes",
        "head       1      0.001         0.1        0.2      80.0 %  5     0.50",
    ]


def test_a_phase_names_what_it_trains() -> None:
    groups: dict[str, float | None] = {"stem": None, "stage1": 0.1, "stage2": 0.3, "head": 1.0}
    phase = PlannedPhase("top", 3, 1e-3, groups)
    assert repr(phase) == "PlannedPhase(name=top, epochs=3, trains=stage1 to head, lr=0.001)"
    assert "<td" in phase._repr_html_()
    apart = replace(phase, multipliers={**groups, "stage2": None})
    assert repr(apart) == "PlannedPhase(name=top, epochs=3, trains=stage1, head, lr=0.001)"


def test_a_summary_is_its_totals_and_its_layers() -> None:
    lines = repr(summary("efficientnet_lite0")).splitlines()
    assert len(lines) == 10
    assert lines[0] == "efficientnet_lite0: 224 × 224 pixels, 1,000 classes, 134 layers"
    assert lines[-1].split() == ["head", "head", "Linear", "1000", "1,281,000", "1,280,000", "1,043", "px"]


def test_a_long_list_of_names_says_how_many_there_are() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(at) for at in range(1000)]) == "0, 1, 2, 3, 4, 5, 6, 7 … (1,000 in all)"
