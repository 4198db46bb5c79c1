from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from topgraft.data.hashing import digest_bytes
from topgraft.data.samples import SPLIT_NAMES, Duplicate, Sample, Splits, Unreadable
from topgraft.data.sources.base import Source
from topgraft.data.split_checks import refuse_unreadable, require_readable
from topgraft.data.splits import divide, divide_if_possible, without
from topgraft.errors import DataError

IMAGE = np.zeros((1, 1), np.uint8)
CLASSES = ("ant", "bee")


def sample(name: str, label: int, content: str | None = None) -> Sample:
    return Sample(name, label, array=IMAGE, digest=digest_bytes((content or name).encode()))


def several(split: str, ants: int, bees: int) -> tuple[Sample, ...]:
    return tuple(
        sample(f"{split}/{CLASSES[label]}{n}", label) for label, size in enumerate((ants, bees)) for n in range(size)
    )


def flat(ants: int = 10, bees: int = 10) -> Source:
    return Source("photos", CLASSES, flat=several("all", ants, bees))


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def sizes(splits: Splits) -> tuple[int, ...]:
    return tuple(len(splits[split]) for split in SPLIT_NAMES)


def test_flat_images_are_divided_60_20_20():
    splits = divide(flat(100, 50))
    assert sizes(splits) == (90, 30, 30)
    for split, ants in zip(SPLIT_NAMES, (60, 20, 20), strict=True):
        assert sum(s.label == 0 for s in splits[split]) == ants
    assert splits.made == {"train", "val", "test"}


def test_what_the_source_knows_travels_on():
    bad = (Unreadable("b.jpg", "no image"),)
    splits = divide(replace(flat(), unreadable=bad, notes=("a note",)), split_seed=3)
    assert (splits.where, splits.classes, splits.split_seed) == ("photos", CLASSES, 3)
    assert (splits.unreadable, splits.notes, splits.duplicates) == (bad, ("a note",), ())


def test_a_division_is_the_same_for_ever():
    # Written down: a change here moves users' test images into their next training set.
    splits = divide(flat(5, 5))
    assert names(splits.val) == ["all/ant3", "all/bee4"]
    assert names(splits.test) == ["all/ant1", "all/bee1"]


def test_another_seed_divides_otherwise():
    divisions = {tuple(names(divide(flat(), split_seed=seed).test)) for seed in range(10)}
    assert len(divisions) == 10


def test_three_images_of_a_class_are_enough_for_three_splits():
    assert sizes(divide(flat(3, 3))) == (2, 2, 2)


def test_a_class_with_fewer_images_than_splits_is_in_train_and_it_is_said():
    splits = divide(flat(9, 2))
    assert sizes(splits) == (5 + 2, 2, 2)
    assert {s.label for s in (*splits.val, *splits.test)} == {0}
    assert splits.notes == (
        "all images of the class bee (2) are in train, as there are so few: how well it is recognized will not be "
        "known",
    )


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (2, 2)])
def test_without_three_images_of_any_class_nothing_validates_and_it_is_said(counts):
    splits = divide(flat(*counts))
    assert sizes(splits) == (sum(counts), 0, 0)
    assert splits.notes == (
        "there are no validation images, as no class has 3 different images: how good the model is will not be known "
        "until it is evaluated on others",
    )
    assert splits.problem is None


def test_copies_do_not_make_up_for_images():
    copies = tuple(sample(f"copy{n}", 1, "all/bee0") for n in range(9))
    source = flat(9, 2)
    splits = divide(replace(source, flat=source.flat + copies))
    assert {s.label for s in (*splits.val, *splits.test)} == {0}


def test_copies_stay_together_also_under_two_labels():
    source = flat(10, 10)
    copies = tuple(sample(f"copy of {s.name}", 1 - s.label, s.name) for s in source.flat)
    splits = divide(replace(source, flat=source.flat + copies))
    for split in SPLIT_NAMES:
        originals = {name for name in names(splits[split]) if not name.startswith("copy of")}
        assert {name.removeprefix("copy of ") for name in names(splits[split])} == originals
    assert sizes(splits) == (24, 8, 8)
    assert all(set(group.labels) == {0, 1} and group.dropped == () for group in splits.duplicates)
    assert len(splits.duplicates) == 20


def test_train_and_test_give_a_fifth_of_train_to_val():
    train, test = several("train", 10, 20), several("test", 5, 5)
    splits = divide(Source("photos", CLASSES, given={"train": train, "test": test}))
    assert sizes(splits) == (24, 6, 10)
    assert [sum(s.label == label for s in splits.val) for label in (0, 1)] == [2, 4]
    assert splits.test == test
    assert set(names(splits.train)) | set(names(splits.val)) == set(names(train))
    assert splits.made == {"val"}


def test_a_fifth_needs_two_images_of_each_class():
    given = {"train": several("train", 5, 1), "test": several("test", 5, 5)}
    splits = divide(Source("photos", CLASSES, given=given))
    assert sizes(splits) == (4 + 1, 1, 10)
    assert splits.notes == (
        "all images of the class bee (1) are in train, as there are so few: how well it is recognized will not be "
        "known",
    )
    given = {"train": several("train", 1, 1), "test": several("test", 5, 5)}
    splits = divide(Source("photos", CLASSES, given=given))
    assert sizes(splits) == (2, 0, 10)
    assert splits.notes[0].startswith("there are no validation images, as no class has 2 different images")


@pytest.mark.parametrize("there", [("train", "val"), ("train", "val", "test")])
def test_given_splits_are_kept(there: tuple[str, ...]):
    given = {split: several(split, 3, 4) for split in there}
    for seed in (0, 1):
        splits = divide(Source("photos", CLASSES, given=given), split_seed=seed)
        assert {split: splits[split] for split in there} == given
        assert splits.made == frozenset()
    assert bool(splits.test) == ("test" in there)


def test_a_copy_across_given_splits_is_dropped_from_train_and_never_from_test():
    given = {split: several(split, 3, 3) for split in SPLIT_NAMES}
    given["train"] += (
        sample("train/a", 0, "in all"),
        sample("train/b", 0, "in two"),
        sample("train/c", 0, "test/bee1"),
    )
    given["val"] += (sample("val/a", 0, "in all"), sample("val/b", 0, "in two"))
    given["test"] += (sample("test/a", 1, "in all"),)
    splits = divide(Source("photos", CLASSES, given=given))
    assert splits.test == given["test"]
    assert names(splits.val) == [*names(given["val"][:6]), "val/b"]
    assert names(splits.train) == names(given["train"][:6])
    assert set(splits.duplicates) == {
        Duplicate(
            digest_bytes(b"in all"),
            ("train/a", "val/a", "test/a"),
            (0, 0, 1),
            ("train", "val", "test"),
            ("train/a", "val/a"),
        ),
        Duplicate(digest_bytes(b"in two"), ("train/b", "val/b"), (0, 0), ("train", "val"), ("train/b",)),
        Duplicate(digest_bytes(b"test/bee1"), ("train/c", "test/bee1"), (0, 1), ("train", "test"), ("train/c",)),
    }


def test_copies_inside_a_given_split_are_reported_and_kept():
    train = (*several("train", 3, 3), sample("train/again", 1, "train/ant0"))
    splits = divide(Source("photos", CLASSES, given={"train": train, "val": several("val", 2, 2)}))
    assert splits.train == train
    ant = digest_bytes(b"train/ant0")
    assert splits.duplicates == (Duplicate(ant, ("train/ant0", "train/again"), (0, 1), ("train", "train")),)


def test_a_class_whose_training_images_are_all_in_test_is_an_error():
    train = (*several("train", 3, 0), sample("train/bee", 1, "test/bee0"))
    given = {"train": train, "test": several("test", 2, 2), "val": several("val", 2, 2)}
    with pytest.raises(DataError, match="no images in train that are not in val or test too of the class bee"):
        divide(Source("photos", CLASSES, given=given))


def test_a_class_without_training_images_is_an_error():
    given = {"train": several("train", 3, 0), "val": several("val", 2, 2)}
    with pytest.raises(DataError, match=r"no images in train of the class bee in photos\. Add images"):
        divide(Source("photos", CLASSES, given=given))


def test_a_class_missing_in_val_or_test_is_noted():
    given = {"train": several("train", 3, 3), "val": several("val", 2, 0), "test": several("test", 0, 2)}
    splits = divide(Source("photos", CLASSES, given=given))
    assert splits.notes == ("val has no images of the class bee", "test has no images of the class ant")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("photos", ()), "photos holds no images that can be read. Give a folder"),
        (
            Source("photos", CLASSES, unreadable=(Unreadable("a", "no image"), Unreadable("b", "no image"))),
            r"photos holds no images that can be read. .*\n2 files cannot be read:\n  a: no image\n  b: no image$",
        ),
        (Source("photos", ("ant",), flat=several("all", 3, 0)), "photos has only one class, ant"),
        (Source("photos", CLASSES, flat=several("all", 5, 0)), "no images that can be read in the class bee of photos"),
        (
            Source("photos", (*CLASSES, "cat"), flat=several("all", 5, 5), unreadable=(Unreadable("c", "empty"),)),
            r"in the class cat of photos. .*\n1 file cannot be read:\n  c: empty$",
        ),
        (Source("photos", CLASSES, given={"val": several("val", 2, 2)}), "no images in train, only in val"),
        (
            Source("photos", CLASSES, given={"train": several("train", 2, 2), "val": ()}),
            "a val without images that can be read",
        ),
        (Source("photos", CLASSES, given={"train": several("train", 2, 2)}), "no images in val and test"),
    ],
)
def test_what_cannot_be_divided_says_what_to_do(source: Source, message: str):
    with pytest.raises(DataError, match=message):
        divide(source)


def test_a_limit_takes_of_each_split_and_class_in_proportion():
    splits = divide(flat(200, 100), limit=30)
    assert sizes(splits) == (18, 6, 6)
    assert [sum(s.label == 0 for s in splits[split]) for split in SPLIT_NAMES] == [12, 4, 4]


def test_a_limit_below_one_image_of_each_is_an_error():
    with pytest.raises(DataError, match=r"limit of 5 images is too small: .* Raise the limit to 6 or more"):
        divide(flat(), limit=5)
    assert sizes(divide(flat(), limit=6)) == (2, 2, 2)


def test_a_limit_above_all_images_takes_all():
    source = flat()
    assert divide(source, limit=20) == divide(source, limit=10**9) == divide(source)


def test_a_limited_given_split_follows_the_content():
    given = {"train": several("train", 50, 50), "val": several("val", 50, 50), "test": several("test", 50, 50)}
    source = Source("photos", CLASSES, given=given)
    backwards = replace(source, given={split: samples[::-1] for split, samples in given.items()})
    assert set(names(divide(source, limit=30).train)) == set(names(divide(backwards, limit=30).train))


def test_unlabeled_images_cannot_be_divided():
    with pytest.raises(DataError, match="x has no label"):
        divide(Source("photos", CLASSES, flat=(*several("all", 5, 5), replace(sample("x", 0), label=None))))


def test_strict_lists_what_cannot_be_read():
    refuse_unreadable(())
    with pytest.raises(DataError) as raised:
        refuse_unreadable([Unreadable(f"{n}.jpg", "is empty") for n in range(22)])
    lines = str(raised.value).splitlines()
    assert lines[0] == "22 files cannot be read:"
    assert lines[1:23] == [f"  {n}.jpg: is empty" for n in range(22)]
    assert lines[23:] == ["Mend or remove them, or run without --strict to leave them out"]


def test_too_few_images_name_what_could_not_be_read():
    source = replace(flat(9, 0), unreadable=tuple(Unreadable(f"bee{n}.jpg", "empty file") for n in range(22)))
    with pytest.raises(DataError) as raised:
        divide(source)
    first, second, *lines = str(raised.value).splitlines()
    assert first.startswith("no images that can be read in the class bee")
    assert second == "22 files cannot be read:"
    assert lines == [*(f"  bee{n}.jpg: empty file" for n in range(20)), "  and 2 more"]


def test_what_cannot_be_divided_is_there_with_the_problem():
    source = flat(9, 0)
    twin = sample("copy", 0, "all/ant0")
    splits = divide_if_possible(replace(source, flat=(*source.flat, twin)))
    assert (sizes(splits), names(splits.undivided)) == ((0, 0, 0), [*names(source.flat), "copy"])
    assert splits.problem is not None
    assert splits.problem.startswith("no images that can be read in the class bee")
    assert [(group.names, group.splits) for group in splits.duplicates] == [(("all/ant0", "copy"), ())]
    limited = divide_if_possible(source, limit=4).undivided
    assert [sum(s.label == label for s in limited) for label in (0, 1)] == [4, 0]
    with pytest.raises(DataError, match="limit of 0 images is too small"):
        divide_if_possible(source, limit=0)


def test_given_splits_that_cannot_be_used_stay():
    given = {"train": several("train", 3, 0), "test": several("test", 2, 2)}
    splits = divide_if_possible(Source("photos", CLASSES, given=given))
    assert (sizes(splits), splits.undivided) == ((3, 0, 4), ())
    assert splits.problem is not None
    assert "no images in train of the class bee" in splits.problem


def test_what_can_be_divided_has_no_problem():
    source = flat(9, 9)
    splits = divide(source, split_seed=2, limit=9)
    assert divide_if_possible(source, split_seed=2, limit=9) == splits
    assert splits.problem is None


def test_dropped_copies_and_double_labels_are_noted():
    twin = sample("val/twin", 1, "train/ant0")
    given = {"train": several("train", 3, 3), "val": (*several("val", 2, 2), twin), "test": several("test", 2, 2)}
    splits = divide(Source("photos", CLASSES, given=given))
    assert splits.notes == (
        "1 image is left out of train or val, because a later split holds an exact copy: train/ant0",
        "1 image is there under two labels or more, and kept so: train/ant0 = val/twin",
    )


def test_what_pixels_leave_must_have_every_class():
    require_readable(CLASSES, {0, 1}, [0])
    with pytest.raises(DataError, match="no training image of the class bee can be read"):
        require_readable(CLASSES, {0}, [0, 1])
    with pytest.raises(DataError, match="no validation image can be read"):
        require_readable(CLASSES, {0, 1}, [])
    require_readable(CLASSES, {0, 1}, None)  # there were none


def test_what_could_not_be_decoded_is_taken_out_of_its_split():
    splits = divide(flat())
    bad = (splits.train[1].name, splits.test[0].name)
    left = without(splits, [Unreadable(name, "is damaged") for name in bad])
    assert [len(left[name]) - len(splits[name]) for name in SPLIT_NAMES] == [-1, 0, -1]
    assert not set(bad) & {sample.name for part in left.parts.values() for sample in part}
    assert (left.where, left.made, left.classes) == (splits.where, splits.made, splits.classes)
