"""What holds for the splits of any images: nothing twice, nothing lost, stratified, stable, nested."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topgraft.data.hashing import digest_bytes
from topgraft.data.samples import SPLIT_NAMES, Sample, Splits
from topgraft.data.sources.base import Source
from topgraft.data.splits import divide

IMAGE = np.zeros((1, 1), np.uint8)
lean = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 5)


def sample(name: str, label: int, content: str) -> Sample:
    return Sample(name, label, array=IMAGE, digest=digest_bytes(content.encode()))


def classes(n: int) -> tuple[str, ...]:
    return tuple(f"class{label}" for label in range(n))


@st.composite
def flat_sources(draw: st.DrawFn, twins: bool = True) -> Source:
    """Two to four classes of 3 to 25 images, some with copies, also under another label."""
    sizes = draw(st.lists(st.integers(3, 25), min_size=2, max_size=4))
    salt = draw(st.integers(0, 9999))
    images = [(label, f"{salt}-{label}-{n}") for label, size in enumerate(sizes) for n in range(size)]
    if twins:
        # A copy's label is not lower, so that no class loses an image to another.
        copied = draw(st.lists(st.sampled_from(images), max_size=8))
        images += [(draw(st.integers(label, len(sizes) - 1)), content) for label, content in copied]
    order = draw(st.permutations(range(len(images))))
    samples = [sample(f"{n}.jpg", *images[n]) for n in order]
    return Source("photos", classes(len(sizes)), flat=tuple(samples))


@st.composite
def given_sources(draw: st.DrawFn) -> Source:
    """Given splits, with contents in several of them; each class has some in train that no other split has."""
    n = draw(st.integers(2, 4))
    parts = {}
    for split in draw(st.sampled_from([("train", "val", "test"), ("train", "test"), ("train", "val")])):
        shared = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 12)), max_size=15))
        own = [(label, f"{split}-{label}-{k}") for label in range(n) for k in range(draw(st.integers(2, 8)))]
        images = [(label, f"shared-{content}") for label, content in shared] + own
        parts[split] = tuple(sample(f"{split}/{k}", label, content) for k, (label, content) in enumerate(images))
    return Source("photos", classes(n), given=parts)


def places(splits: Splits) -> dict[str, str]:
    return {s.name: split for split in SPLIT_NAMES for s in splits[split]}


def in_one_split_only(splits: Splits) -> bool:
    digests = [{s.digest for s in splits[split]} for split in SPLIT_NAMES]
    return not (digests[0] & digests[1] or digests[0] & digests[2] or digests[1] & digests[2])


@lean
@given(flat_sources(), seeds)
def test_each_image_is_in_one_split_and_its_copies_with_it(source: Source, seed: int):
    splits = divide(source, split_seed=seed)
    assert sorted(s.name for split in SPLIT_NAMES for s in splits[split]) == sorted(s.name for s in source.flat)
    assert in_one_split_only(splits)
    order = {s.name: n for n, s in enumerate(source.flat)}
    for split in SPLIT_NAMES:
        assert [order[s.name] for s in splits[split]] == sorted(order[s.name] for s in splits[split])


@lean
@given(flat_sources(twins=False), seeds)
def test_each_class_is_divided_60_20_20(source: Source, seed: int):
    splits = divide(source, split_seed=seed)
    for label in range(len(source.classes)):
        n = sum(s.label == label for s in source.flat)
        counts = {split: sum(s.label == label for s in splits[split]) for split in SPLIT_NAMES}
        assert sum(counts.values()) == n
        assert min(counts.values()) >= 1
        for split, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
            assert abs(counts[split] - share * n) <= 1, (split, counts)


@lean
@given(flat_sources(), seeds, st.randoms())
def test_the_order_and_the_names_of_the_files_do_not_matter(source: Source, seed: int, random):
    shuffled = list(source.flat)
    random.shuffle(shuffled)
    renamed = replace(source, flat=tuple(replace(s, name=f"new/{s.name}") for s in shuffled))
    before = places(divide(source, split_seed=seed))
    assert places(divide(renamed, split_seed=seed)) == {f"new/{name}": split for name, split in before.items()}


@lean
@given(flat_sources(), seeds, st.integers(0, 3), st.integers(0, 9999))
def test_a_new_image_moves_at_most_one_other_across_each_cut(source: Source, seed: int, label: int, salt: int):
    label %= len(source.classes)
    new = sample("new.jpg", label, f"new {salt}")
    before = divide(source, split_seed=seed)
    after = places(divide(replace(source, flat=(*source.flat, new)), split_seed=seed))
    moved = {s.digest for split in SPLIT_NAMES for s in before[split] if after[s.name] != split}
    assert len(moved) <= 2
    home = {s.digest: min(t.label for t in source.flat if t.digest == s.digest) for s in source.flat}
    assert all(home[digest] == label for digest in moved)


@lean
@given(flat_sources(), seeds)
def test_all_copies_are_reported(source: Source, seed: int):
    splits = divide(source, split_seed=seed)
    where = places(splits)
    counts = Counter(s.digest for s in source.flat)
    assert {group.digest for group in splits.duplicates} == {digest for digest, n in counts.items() if n > 1}
    for group in splits.duplicates:
        assert group.names == tuple(s.name for s in source.flat if s.digest == group.digest)
        assert group.labels == tuple(s.label for s in source.flat if s.digest == group.digest)
        assert group.splits == tuple(where[name] for name in group.names)
        assert group.dropped == ()


@lean
@given(given_sources(), seeds)
def test_given_splits_keep_their_images_but_for_those_in_a_later_one(source: Source, seed: int):
    splits = divide(source, split_seed=seed)
    assert in_one_split_only(splits)
    assert splits.test == source.given.get("test", ())
    later: set[str] = set()
    for split in ("test", "val", "train"):
        kept = [s for s in source.given.get(split, ()) if s.digest not in later]
        later |= {s.digest for s in source.given.get(split, ())}
        if split == "train" and "val" in splits.made:
            assert sorted(s.name for s in (*splits.train, *splits.val)) == sorted(s.name for s in kept)
        else:
            assert list(splits[split]) == kept or "val" in splits.made
    assert splits.made == (frozenset() if "val" in source.given else {"val"})
    gone = {s.name for s in source.samples} - set(places(splits))
    assert {name for group in splits.duplicates for name in group.dropped} == gone


@lean
@given(st.one_of(flat_sources(), given_sources()), seeds, st.data())
def test_a_limit_takes_nested_stratified_subsets(source: Source, seed: int, data: st.DataObject):
    whole = divide(source, split_seed=seed)
    sizes = Counter((split, s.label) for split in SPLIT_NAMES for s in whole[split])
    total = sum(sizes.values())
    small = data.draw(st.integers(len(sizes), total + 5))
    large = data.draw(st.integers(small, total + 5))
    first, second = (divide(source, split_seed=seed, limit=limit) for limit in (small, large))
    for splits, limit in ((first, small), (second, large)):
        counts = Counter((split, s.label) for split in SPLIT_NAMES for s in splits[split])
        assert sum(counts.values()) == min(limit, total)
        assert set(counts) == set(sizes)
        share = min(limit, total) / total
        for stratum, size in sizes.items():
            # One image of each comes first; the others are within the rounding of all strata together.
            slack = 1 + len(sizes) * size / total
            assert share * size - slack <= counts[stratum] <= max(1, share * size + slack)
        for split in SPLIT_NAMES:
            kept = {s.name for s in splits[split]}
            assert list(splits[split]) == [s for s in whole[split] if s.name in kept]
    assert set(places(first).items()) <= set(places(second).items()) <= set(places(whole).items())
