"""Features on disk: read back as stored, whole after anything, and never mixed up."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from topgraft.data.samples import ImageSpec
from topgraft.errors import CacheError
from topgraft.features import cache_key, segment_file
from topgraft.features import store as cache
from topgraft.features.cache_key import CacheKey
from topgraft.features.engines.base import EngineChoice
from topgraft.features.store import FeatureStore
from topgraft.system import files
from topgraft.system.threads import ALIGNMENT

SPEC = ImageSpec(224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CHOICE = EngineChoice("torch", "bf16", "cpu", 4, 2)
WIDTH = 5


def key(**changes: Any) -> CacheKey:
    plain = {"spec": SPEC, "weights": "w", "boundary": "stage7", "view": "plain", "choice": CHOICE}
    return CacheKey.make(**plain | changes)


def digests(*numbers: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]


def rows(*numbers: int, shape: tuple[int, ...] = (WIDTH,)) -> NDArray[np.float32]:
    return np.stack([np.random.default_rng(number).standard_normal(shape) for number in numbers]).astype(np.float32)


def stored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As float16 keeps them."""
    return values.astype(np.float16).astype(np.float32)


def opened(folder: Path, shape: tuple[int, ...] = (WIDTH,)) -> FeatureStore:
    return FeatureStore(folder, key(), shape)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rows"))


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.missing(digests(1, 2, 3)) == digests(1, 2, 3)
    store.append(digests(1, 2, 3), rows(1, 2, 3))
    store.append(digests(4, 5), rows(4, 5))
    for reader in (store, opened(tmp_path)):
        assert reader.missing(digests(5, 6, 1)) == digests(6)
        for asked in ((1, 2, 3, 4, 5), (5, 1, 3, 1), (2,), ()):
            found = reader.gather(digests(*asked))
            assert found.dtype == np.float32
            assert found.shape == (len(asked), WIDTH)
            assert not asked or found.ctypes.data % ALIGNMENT == 0
            assert np.array_equal(found, stored(rows(*asked)) if asked else np.empty((0, WIDTH)))


def test_feature_maps_are_stored_in_their_shape(tmp_path: Path) -> None:
    shape = (3, 4, 2)
    opened(tmp_path, shape).append(digests(1, 2), rows(1, 2, shape=shape))
    assert np.array_equal(opened(tmp_path, shape).gather(digests(2, 1)), stored(rows(2, 1, shape=shape)))


def test_long_segments_are_gathered_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cache, segment_file):
        monkeypatch.setattr(module, "BLOCK", 3 * 2 * WIDTH)  # three rows
    numbers = tuple(range(20))
    opened(tmp_path).append(digests(*numbers), rows(*numbers))
    order = (*range(5, 15), *reversed(numbers))
    assert np.array_equal(opened(tmp_path).gather(digests(*order)), stored(rows(*order)))


def test_the_newest_row_of_an_image_is_used(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(digests(1), rows(1))
    store.append(digests(1), rows(2))
    for reader in (store, opened(tmp_path)):
        assert np.array_equal(reader.gather(digests(1)), stored(rows(2)))


def test_nothing_is_made_before_something_is_stored(tmp_path: Path) -> None:
    store = opened(tmp_path / "new")
    assert store.missing(digests(1)) == digests(1)
    store.append([], np.empty((0, WIDTH), dtype=np.float32))
    assert not (tmp_path / "new").exists()


def test_rows_that_are_not_here_or_of_another_shape_are_errors(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(KeyError):
        store.gather(digests(1))
    with pytest.raises(ValueError, match="2 digests need rows of"):
        store.append(digests(1, 2), rows(1))


def test_the_key_can_be_read(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(digests(1), rows(1))
    found = json.loads((store.folder / "key.json").read_text(encoding="utf-8"))
    assert found == json.loads(key().as_json())
    assert store.folder == tmp_path / key().digest
    assert set(found) == {"spec", "weights", "boundary", "view", "engine", "versions", "processor"}
    assert {"topgraft", "engine", "pillow", "jpg"} <= set(found["versions"])
    assert found["spec"]["decode"] == "scaled"


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "v"},
        {"boundary": "stage6"},
        {"view": "flipped"},
        {"spec": replace(SPEC, decode="full")},
        {"spec": replace(SPEC, resize_size=257)},
        {"spec": replace(SPEC, mean=(0.5, 0.5, 0.4))},
        {"choice": replace(CHOICE, precision="fp32")},
        {"choice": replace(CHOICE, name="openvino")},
        {"choice": replace(CHOICE, device="cuda")},
        {"choice": replace(CHOICE, batch_size=8)},
    ],
)
def test_all_that_makes_a_row_is_in_the_key(tmp_path: Path, changes: dict[str, Any]) -> None:
    opened(tmp_path).append(digests(1), rows(1))
    other = FeatureStore(tmp_path, key(**changes), (WIDTH,))
    assert other.missing(digests(1)) == digests(1)


@pytest.mark.parametrize("name", ["__version__", "engine_version", "processor_features", "decoder_versions"])
def test_versions_and_processor_are_in_the_key(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = key().digest
    assert key().digest == before
    changed = {"engine_version": lambda name: "x", "processor_features": lambda: ("x",)}
    monkeypatch.setattr(
        cache_key, name, {"__version__": "x", "decoder_versions": lambda: {"jpg": "x"}, **changed}[name]
    )
    assert key().digest != before


def test_the_gpu_is_in_the_keys_of_what_it_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for names in ([], ["NVIDIA A100"], ["NVIDIA T4"], ["NVIDIA T4", "NVIDIA A100"]):
        monkeypatch.setattr(cache_key, "gpu_names", lambda names=names: names)
        found.append((key().digest, key(choice=replace(CHOICE, device="cuda")).digest))
    assert len({processor for processor, _ in found}) == 1
    assert len({gpu for _, gpu in found}) == 3
    assert found[2] == found[3], "the first one computes"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (65504.0, None),
        (-65504.0, None),
        (65505.0, "65505"),
        (-70000.0, "70000"),
        (np.inf, "inf"),
        (-np.inf, "inf"),
        (np.nan, "not a number"),
    ],
)
def test_what_float16_cannot_store_is_an_error_that_names_the_image(
    tmp_path: Path, value: float, said: str | None
) -> None:
    bad = rows(1, 2, 3)
    bad[1, 3] = value
    store = opened(tmp_path)
    if said is None:
        store.append(digests(1, 2, 3), bad)
        assert store.gather(digests(2))[0, 3] == value
        return
    with pytest.raises(CacheError) as caught:
        store.append(digests(1, 2, 3), bad, names=["a.jpg", "b.jpg", "c.jpg"])
    assert str(caught.value).startswith(f"b.jpg: an activation after group stage7 is {said}, which float16")
    assert str(caught.value).endswith("try --precision fp32")
    assert store.missing(digests(1, 2, 3)) == digests(1, 2, 3)
    with pytest.raises(CacheError, match=digests(2)[0]):
        store.append(digests(1, 2, 3), bad)


def test_advice_for_float32_is_another_one(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, key(choice=replace(CHOICE, precision="fp32")), (1,))
    with pytest.raises(CacheError, match="choose another backbone"):
        store.append(digests(1), np.array([[1e6]], dtype=np.float32))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    digest_at = data.index(bytes.fromhex(digests(3)[0]))
    broken = {
        "empty": b"",
        "cut in the header": data[:10],
        "cut in the digests": data[: digest_at + 5],
        "cut in the rows": data[:-1],
        "longer": data + b"\0",
        "another magic": b"X" + data[1:],
        "header is not JSON": data[:20] + b"\xff" + data[21:],
        "header is not a record": segment_file._MAGIC + b"\2\0\0\0[]" + data[len(segment_file._MAGIC) + 6 :],
        "header claims gigabytes": segment_file._MAGIC + b"\xff\xff\xff\xff" + data[len(segment_file._MAGIC) + 4 :],
        "a digest": data[:digest_at] + b"\0" + data[digest_at + 1 :],
        "a row": data[:-1] + bytes([data[-1] ^ 1]),
    }
    path.write_bytes(broken[how])


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "cut in the header",
        "cut in the digests",
        "cut in the rows",
        "longer",
        "another magic",
        "header is not JSON",
        "header is not a record",
        "header claims gigabytes",
        "a digest",
        "a row",
    ],
)
def test_a_damaged_segment_is_as_good_as_missing(tmp_path: Path, how: str) -> None:
    opened(tmp_path).append(digests(1, 2), rows(1, 2))
    opened(tmp_path).append(digests(3, 4), rows(3, 4))
    damage(segments(tmp_path)[1], how)
    store = opened(tmp_path)
    assert store.missing(digests(1, 2, 3, 4)) == digests(3, 4)
    store.append(digests(3, 4), rows(3, 4))
    for reader in (store, opened(tmp_path)):
        assert reader.missing(digests(1, 2, 3, 4)) == []
        assert np.array_equal(reader.gather(digests(4, 1, 2, 3)), stored(rows(4, 1, 2, 3)))


def test_an_older_row_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    opened(tmp_path).append(digests(1, 3), rows(1, 3))
    opened(tmp_path).append(digests(3), rows(7))
    damage(segments(tmp_path)[1], "a row")
    store = opened(tmp_path)
    assert store.missing(digests(1, 3)) == []
    assert np.array_equal(store.gather(digests(3)), stored(rows(3)))


@pytest.mark.parametrize("how", ["cut in the rows", "gone"])
def test_damage_while_it_is_used_is_a_clear_error(tmp_path: Path, how: str) -> None:
    opened(tmp_path).append(digests(3), rows(3))
    store = opened(tmp_path)
    assert store.missing(digests(3)) == []
    [path] = segments(tmp_path)
    path.unlink() if how == "gone" else damage(path, how)
    with pytest.raises(CacheError, match="removed or damaged while it was in use; run the same again"):
        store.gather(digests(3))


def test_files_of_others_in_the_folder_do_no_harm(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(digests(1), rows(1))
    (store.folder / ".x.rows-abc.tmp").write_bytes(b"half")
    (store.folder / "notes.rows").write_text("not a segment", encoding="utf-8")
    (store.folder / "folder.rows").mkdir()
    assert opened(tmp_path).missing(digests(1, 2)) == digests(2)


def test_a_full_disk_leaves_the_earlier_segments_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    store.append(digests(1), rows(1))
    real = files.atomic_write

    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        with real(path) as file:
            file.write(b"some bytes fit")
            raise OSError(errno.ENOSPC, "No space left on device")
            yield file

    monkeypatch.setattr(segment_file, "atomic_write", full)
    with pytest.raises(CacheError, match=r"No space left on device.*earlier rows are kept.*--cache-dir"):
        store.append(digests(2), rows(2))
    monkeypatch.undo()
    for reader in (store, opened(tmp_path)):
        assert reader.missing(digests(1, 2)) == digests(2)
        assert np.array_equal(reader.gather(digests(1)), stored(rows(1)))
    assert sorted(path.name for path in store.folder.iterdir()) == sorted(["key.json", segments(tmp_path)[0].name])


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from topgraft.system import files
import test_store as t

store = t.opened(Path(sys.argv[1]))
store.append(t.digests(1, 2), t.rows(1, 2))
files.replace = lambda source, target: os._exit(9)  # dies with the segment written, not yet in its place
store.append(t.digests(3, 4), t.rows(3, 4))
"""


def test_a_kill_leaves_the_earlier_segments_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)])
    assert done.returncode == 9
    store = opened(tmp_path)
    assert store.missing(digests(1, 2, 3, 4)) == digests(3, 4)
    assert np.array_equal(store.gather(digests(2, 1)), stored(rows(2, 1)))


def append_many(folder: Path, first: int) -> None:
    store = opened(folder)
    for number in range(first, first + 40, 2):
        store.append(digests(number, number + 1), rows(number, number + 1))


def test_processes_that_append_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=append_many, args=(tmp_path, first)) for first in (0, 30)]  # 30 … 39 in both
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    numbers = tuple(range(70))
    store = opened(tmp_path)
    assert store.missing(digests(*numbers)) == []
    assert np.array_equal(store.gather(digests(*numbers)), stored(rows(*numbers)))
    assert len(segments(tmp_path)) == 40


def test_many_segments_do_not_hold_files_open(tmp_path: Path) -> None:
    for number in range(50):
        opened(tmp_path).append(digests(number), rows(number))
    store = opened(tmp_path)
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list open files")
    before = len(os.listdir(descriptors))  # noqa: PTH208  # the listing itself must not stay open
    kept = store.gather(digests(*range(50)))
    assert len(os.listdir(descriptors)) == before  # noqa: PTH208
    assert len(kept) == 50


def test_gathering_holds_little_more_than_the_result(tmp_path: Path) -> None:
    count, width = 2000, 1000
    asked = digests(*range(count))
    store = opened(tmp_path, (width,))
    store.append(asked, np.ones((count, width), dtype=np.float32))
    store = opened(tmp_path, (width,))
    store.missing(asked)
    tracemalloc.start()
    try:
        result = store.gather(asked)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.nbytes == 8_000_000
    assert peak < 1.5 * result.nbytes
