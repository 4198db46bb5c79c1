"""A store against a dictionary: whatever is appended, damaged and reopened, in whatever order."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topgraft.data.samples import ImageSpec
from topgraft.features.cache_key import CacheKey
from topgraft.features.engines.base import EngineChoice
from topgraft.features.store import FeatureStore

KEY = CacheKey.make(
    spec=ImageSpec(8, 8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    weights="w",
    boundary="stem",
    view="plain",
    choice=EngineChoice("torch", "fp32", "cpu", 4, 1),
)
IMAGES = st.integers(0, 9)
SHAPES = st.sampled_from([(1,), (3,), (2, 2), ()])


def digest(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), shape=SHAPES)
def test_a_store_is_a_dictionary_on_disk(data: st.DataObject, shape: tuple[int, ...]) -> None:
    values = st.floats(-65504, 65504, width=16)
    expected: dict[int, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), KEY, shape)
        for _ in range(data.draw(st.integers(1, 5), label="steps")):
            numbers = data.draw(st.lists(IMAGES, unique=True), label="appended")
            rows = data.draw(arrays.arrays(np.float32, (len(numbers), *shape), elements=values), label="rows")
            store.append([digest(number) for number in numbers], rows)
            expected.update(zip(numbers, rows, strict=True))
            if data.draw(st.booleans(), label="reopen"):
                store = FeatureStore(Path(folder), KEY, shape)
            asked = data.draw(st.lists(IMAGES), label="asked")
            assert store.missing([digest(n) for n in asked]) == [digest(n) for n in asked if n not in expected]
            here = [number for number in asked if number in expected]
            found = store.gather([digest(number) for number in here])
            assert found.shape == (len(here), *shape)
            for row, number in zip(found, here, strict=True):
                assert np.array_equal(row, expected[number])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_is_ever_served(data: st.DataObject) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    names = [digest(0), digest(1)]
    with tempfile.TemporaryDirectory() as folder:
        FeatureStore(Path(folder), KEY, (3,)).append(names, rows)
        [path] = Path(folder).rglob("*.rows")
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1), label="byte")
        content[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
        store = FeatureStore(Path(folder), KEY, (3,))
        missing = store.missing(names)
        # A bit of the padding, or of a header's blank, changes nothing that is read.
        assert missing in (names, [])
        if not missing:
            assert np.array_equal(store.gather(names), rows)
