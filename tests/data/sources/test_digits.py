from collections import Counter

import numpy as np
from sklearn.datasets import load_digits

from topgraft.data.sources import open_source


def test_all_digits_with_their_labels():
    source = open_source("digits")
    expected = load_digits()
    assert source.classes == tuple("0123456789")
    assert [sample.label for sample in source.flat] == expected.target.tolist()
    assert [sample.name for sample in source.flat][:2] == ["digits/0", "digits/1"]
    assert Counter(sample.label for sample in source.flat) == Counter(expected.target.tolist())


def test_values_fill_eight_bits():
    images = np.stack([sample.array for sample in open_source("digits").flat])
    expected = load_digits().images
    assert (images.dtype, images.shape) == (np.uint8, (1797, 8, 8))
    assert np.array_equal(images[expected == 16], np.full((expected == 16).sum(), 255))
    assert np.array_equal(images[expected == 8], np.full((expected == 8).sum(), 128))  # 127.5, to even
    assert not images[expected == 0].any()
