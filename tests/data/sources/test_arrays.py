import re

import numpy as np
import pytest

from topgraft.data.hashing import digest_array
from topgraft.data.sources import open_source
from topgraft.errors import DataError

X = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)


def test_images_and_whole_number_labels():
    source = open_source((X, np.array([10, 2, 10, 3])))
    assert source.classes == ("2", "3", "10")
    assert [(s.name, s.label) for s in source.flat] == [("0", 2), ("1", 0), ("2", 2), ("3", 1)]
    assert all(np.array_equal(sample.array, image) for sample, image in zip(source.flat, X, strict=True))
    assert [sample.digest for sample in source.flat] == [digest_array(image) for image in X]
    assert (source.where, source.given) == ("arrays", {})


def test_images_are_not_copied():
    assert all(np.shares_memory(sample.array, X) for sample in open_source((X, [0, 1, 0, 1])).flat)


@pytest.mark.parametrize("labels", [["b", "a", "b", "a"], np.array(["b", "a", "b", "a"]), np.array([*"baba"], object)])
def test_labels_may_be_strings(labels):
    source = open_source((X, labels))
    assert source.classes == ("a", "b")
    assert [sample.label for sample in source.flat] == [1, 0, 1, 0]


def test_class_names_are_counted_into():
    source = open_source((X, [2, 0, 0, 2], ["ant", "bee", "cat"]))
    assert source.classes == ("ant", "bee", "cat")
    assert [sample.label for sample in source.flat] == [2, 0, 0, 2]


def test_class_names_give_the_order_of_string_labels():
    source = open_source((X, ["a", "b", "b", "a"], ("b", "a")))
    assert source.classes == ("b", "a")
    assert [sample.label for sample in source.flat] == [1, 0, 0, 1]


def test_labels_in_a_column_as_keras_has_them():
    assert [s.label for s in open_source((X, np.array([[1], [0], [1], [0]], np.uint8))).flat] == [1, 0, 1, 0]


def test_a_mapping_gives_splits():
    source = open_source({"train": (X, [7, 5, 7, 5]), "valid": (X[:2], [7, 5]), "test": (X[:1], [9])})
    assert source.flat == ()
    assert source.classes == ("5", "7", "9")
    assert {split: [(s.name, s.label) for s in samples] for split, samples in source.given.items()} == {
        "train": [("train/0", 1), ("train/1", 0), ("train/2", 1), ("train/3", 0)],
        "val": [("val/0", 1), ("val/1", 0)],
        "test": [("test/0", 2)],
    }


def test_a_mapping_with_class_names():
    source = open_source({"train": (X, [0, 1, 0, 1]), "test": (X, [0, 1, 0, 1]), "classes": ["ant", "bee"]})
    assert source.classes == ("ant", "bee")


def test_train_alone_is_flat():
    assert len(open_source({"train": (X, [0, 1, 0, 1])}).flat) == 4


@pytest.mark.parametrize("images", [X[..., 0], X[..., :1], [image[..., :1] for image in X]])
def test_gray_images_have_two_axes(images):
    source = open_source((images, [0, 1, 0, 1]))
    assert all(np.array_equal(sample.array, image[..., 0]) for sample, image in zip(source.flat, X, strict=True))
    assert all(sample.array.flags.c_contiguous for sample in source.flat)


def test_images_of_different_sizes_come_as_a_list():
    images = [np.zeros((2, 3, 3), np.uint8), np.ones((4, 5), np.uint8)]
    for given in (images, np.array([*images, None], object)[:2]):
        assert [sample.array.shape for sample in open_source((given, [0, 1])).flat] == [(2, 3, 3), (4, 5)]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            (X / 255.0, [0, 1, 0, 1]),
            "images are float64, and Topgraft takes uint8, 0…255. For values of 0…1 use (images",
        ),
        ((X.astype(np.uint16), [0, 1, 0, 1]), "For 16-bit values use (images >> 8)"),
        ((X > 3, [0, 1, 0, 1]), "Use images.astype('uint8') * 255"),
        ((X.astype(int), [0, 1, 0, 1]), "Where the values are 0…255 use images.astype('uint8')"),
        (([X[0], X[1] / 255.0], [0, 1]), "the arrays, image 1: the images are float64"),
        (([X[0], "a.jpg"], [0, 1]), "image 1 is a str; give arrays"),
        ((X.transpose(0, 3, 1, 2), [0, 1, 0, 1]), "channels first, (3, 5, 6); use images.transpose(0, 2, 3, 1)"),
        (([X[0].transpose(2, 0, 1)], [0]), "channels first, (3, 5, 6); use images.transpose(1, 2, 0)"),
        ((np.zeros((2, 5, 6, 4), np.uint8), [0, 1]), "an image has 4 channels; give RGB"),
        ((np.zeros((2, 0, 6, 3), np.uint8), [0, 1]), "an image has the shape (0, 6, 3)"),
        ((X[0, 0], [0, 1]), "the images have the shape (6, 3); give N×H×W×3"),
        ((X, [0, 1]), "4 images but 2 labels"),
        ((X, np.eye(4, 2)), "for one-hot rows use labels.argmax(axis=1)"),
        ((X, [0.0, 1.0, 0.0, 1.0]), "the labels are float64; give integers, labels.astype(int), or strings"),
        ((X, [None, "a", "b", "c"]), "the labels are object"),
        ((X, [0, 1, 2, -1], ["a", "b"]), "labels that are not a class: -1, 2. There are 2 classes"),
        ((X, [*"abcd"], ["a", "b"]), "labels that are not a class: c, d"),
        ((X, [0, 1, 0, 1], ["a", "a"]), "class names are given twice: a"),
        ((X,), "1 things were given; give (images, labels)"),
        ({}, "none of train, val and test"),
        ({"dev": (X, [0, 1, 0, 1])}, "no split named 'dev'"),
        ({"val": (X, [0, 1, 0, 1])}, "there is no train, only val"),
        ({"train": X}, "train: give a pair (images, labels)"),
        ({"train": (X, [0, 1, 0, 1]), "val": (X, [*"abab"])}, "integers and those of another are strings"),
        ({"val": (X, [0, 1, 0, 1]), "valid": (X, [0, 1, 0, 1])}, "val is given twice"),
    ],
)
def test_what_cannot_be_used_is_refused_with_advice(where, message: str):
    with pytest.raises(DataError, match=re.escape(message)):
        open_source(where)
