"""What an artifact has used is left out by content, whatever the files are called and wherever they lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.fitted import fitted

from topgraft.data.samples import Sample, Splits
from topgraft.errors import DataError, UsageError
from topgraft.evaluation.results import FittedClassifier
from topgraft.evaluation.unseen import leave_out_seen, select_unseen

IMAGE = np.zeros((1, 1), np.uint8)
MODEL = replace(fitted(), seen={"t": "train", "v": "val", "e": "test"})


def sample(digest: str, label: int | None = 0) -> Sample:
    return Sample(f"{digest}.png", label, array=IMAGE, digest=digest)


def names(samples: tuple[Sample, ...]) -> str:
    return "".join(s.digest for s in samples)


def flat(*digests: str, classes: tuple[str, ...] = ("ant", "bee")) -> Splits:
    return Splits("photos", classes, (), (), (), undivided=tuple(map(sample, digests)), notes=("one",))


def test_without_given_splits_the_model_remembers_them() -> None:
    made = Splits("p", ("ant",), (sample("e"),), (sample("n"),), (sample("t"), sample("v")), made=frozenset({"test"}))
    for splits in (made, flat("e", "n", "t", "v")):
        chosen = select_unseen(MODEL, splits, "test", include_seen=False)
        assert (names(chosen.samples), chosen.seen, chosen.used) == ("en", (), False)
        assert chosen.notes[-1].startswith("2 images are not counted")
        assert chosen.notes[-1].endswith("t.png, v.png")
        every = select_unseen(MODEL, splits, "test", include_seen=True)
        assert (names(every.samples), every.used, every.notes[:-1]) == ("entv", True, splits.notes)
    for split, digest in (("train", "t"), ("val", "v")):
        with pytest.raises(UsageError, match=f"all 1 images of {split} were used"):
            select_unseen(MODEL, flat("e", "n", "t", "v"), split, include_seen=False)  # type: ignore[arg-type]
        chosen = select_unseen(MODEL, flat("e", "n", "t", "v"), split, include_seen=True)  # type: ignore[arg-type]
        assert (names(chosen.samples), chosen.used) == (digest, True)


def test_given_splits_are_taken_as_they_are_without_what_was_used() -> None:
    splits = Splits("p", ("ant",), (sample("n"),), (), (sample("e"), sample("t"), sample("x")))
    chosen = select_unseen(MODEL, splits, "test", include_seen=False)
    assert (names(chosen.samples), chosen.seen, chosen.used) == ("ex", ("t.png",), False)
    every = select_unseen(MODEL, splits, "test", include_seen=True)
    assert (names(every.samples), every.seen, every.used) == ("etx", (), True)
    assert names(select_unseen(MODEL, splits, "train", include_seen=False).samples) == "n"
    with pytest.raises(UsageError, match="p has no val images; its splits are train, test"):
        select_unseen(MODEL, splits, "val", include_seen=False)


def test_labels_are_turned_into_the_models_by_name() -> None:
    splits = flat("n", classes=("bee", "Käfer"))
    (got,) = select_unseen(MODEL, splits, "test", include_seen=False).samples
    assert got.label == 1
    with pytest.raises(DataError, match=r"does not know the classes wasp; it knows ant, bee, Käfer"):
        select_unseen(MODEL, flat("n", classes=("ant", "wasp")), "test", include_seen=False)


def test_nothing_to_evaluate_on_says_why() -> None:
    with pytest.raises(UsageError, match="the model knows all 2 images of photos, and none of them as test"):
        select_unseen(MODEL, flat("t", "v"), "test", include_seen=False)
    empty = Splits("photos", ("ant",), (), (), (), problem="nothing can be read")
    with pytest.raises(DataError, match="nothing can be read"):
        select_unseen(MODEL, empty, "test", include_seen=False)


@pytest.mark.parametrize("label", [None, -1, 3])
def test_samples_need_labels_of_the_model(label: int | None) -> None:
    model: FittedClassifier = MODEL
    with pytest.raises(DataError, match=f"has the label {label}, which is none of the model's 3 classes"):
        leave_out_seen(model, [sample("n", label)], "test", include_seen=False)
    assert leave_out_seen(model, [sample("n", 2), sample("v", 0)], "test", include_seen=False).seen == ("v.png",)


def test_images_that_the_model_was_fitted_to_are_said_to_be() -> None:
    samples = [sample("t"), sample("v"), sample("e")]
    for refit, count in ((False, 1), (True, 2)):
        model = replace(MODEL, config={**MODEL.config, "settings": {"refit": refit}})
        (note,) = leave_out_seen(model, samples, "test", include_seen=True).notes
        assert note.startswith(f"the model was fitted to {count} of the 3 images")
        assert leave_out_seen(model, samples, "test", include_seen=False).notes == ()
