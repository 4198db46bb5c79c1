import gzip
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from topgraft.data.hashing import digest_array
from topgraft.data.sources import cifar, cifar_archive, open_source
from topgraft.errors import DataError, DownloadError
from topgraft.system import download

ROWS = 4  # images of each file
FINE, COARSE = [f"fine{n}" for n in range(100)], [f"coarse{n}" for n in range(20)]
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MEMBERS = {"cifar10": [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], "cifar100": ["train", "test"]}
FOLDERS = {
    ("cifar10", True): "cifar-10-batches-py",
    ("cifar10", False): "cifar-10-batches-bin",
    ("cifar100", True): "cifar-100-python",
    ("cifar100", False): "cifar-100-binary",
}
ARCHIVES = {
    ("cifar10", True): "cifar-10-python.tar.gz",
    ("cifar10", False): "cifar-10-binary.tar.gz",
    ("cifar100", True): "cifar-100-python.tar.gz",
    ("cifar100", False): "cifar-100-binary.tar.gz",
}


def planes(member: int) -> np.ndarray:
    return np.random.default_rng(member).integers(0, 256, (ROWS, 3072), dtype=np.uint8)


def labels(dataset: str, member: int) -> tuple[list[int], list[int]]:
    """Fine and coarse."""
    fine = [(7 * member + n) % (10 if dataset == "cifar10" else 100) for n in range(ROWS)]
    return fine, [label // 5 for label in fine]


def files(dataset: str, pickled: bool) -> dict[str, bytes]:
    """The published archive's files, with four images in each."""
    made: dict[str, bytes] = {"readme.html": b"<html>"}
    for number, member in enumerate(MEMBERS[dataset]):
        fine, coarse = labels(dataset, number)
        if pickled:
            names = ["labels"] if dataset == "cifar10" else ["fine_labels", "coarse_labels"]
            batch = dict(zip(names, (fine, coarse), strict=False))
            batch |= {"data": planes(number), "filenames": ["a.png"] * ROWS, "batch_label": member}
            made[member] = pickle.dumps({key.encode(): value for key, value in batch.items()}, 2)
        else:
            before = [fine] if dataset == "cifar10" else [coarse, fine]
            made[f"{member}.bin"] = np.hstack([np.array(before, np.uint8).T, planes(number)]).tobytes()
    if dataset == "cifar10":
        key, meta = ("batches.meta", {"label_names": TEN}) if pickled else ("batches.meta.txt", [TEN])
    else:
        key, meta = ("meta", {"fine_label_names": FINE, "coarse_label_names": COARSE}) if pickled else ("", [])
        if not pickled:
            made |= {
                "fine_label_names.txt": "\n".join(FINE).encode(),
                "coarse_label_names.txt": "\n".join(COARSE).encode(),
            }
    if key:
        made[key] = pickle.dumps(meta, 2) if pickled else ("\n".join(TEN) + "\n\n").encode()
    return made


def pack(path: Path, folder: str, contents: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, data in contents.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def unpack(path: Path, contents: Mapping[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return path


def archive(folder: Path, dataset: str = "cifar10", pickled: bool = True) -> Path:
    return pack(folder / ARCHIVES[dataset, pickled], FOLDERS[dataset, pickled], files(dataset, pickled))


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No Keras, no cache and no network but what a test makes."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOPGRAFT_OFFLINE", "1")


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_images_labels_and_names(tmp_path: Path, dataset: str, pickled: bool, packed: bool):
    contents = files(dataset, pickled)
    where = archive(tmp_path, dataset, pickled) if packed else unpack(tmp_path / "anything", contents)
    source = open_source(str(where))
    train = len(MEMBERS[dataset]) - 1
    assert source.classes == tuple(TEN if dataset == "cifar10" else FINE)
    assert (source.flat, list(source.given)) == ((), ["train", "test"])
    assert [s.name for s in source.given["train"]] == [f"{dataset}/train/{n}" for n in range(ROWS * train)]
    assert [s.name for s in source.given["test"]] == [f"{dataset}/test/{n}" for n in range(ROWS)]
    assert [s.label for s in source.samples] == [x for n in range(train + 1) for x in labels(dataset, n)[0]]
    for number, sample in enumerate(source.samples):
        image = planes(number // ROWS)[number % ROWS].reshape(3, 32, 32).transpose(1, 2, 0)
        assert np.array_equal(sample.array, image)
        assert sample.digest == digest_array(image)


@pytest.mark.parametrize("pickled", [True, False])
def test_coarse_labels(tmp_path: Path, pickled: bool):
    archive(tmp_path, "cifar100", pickled)
    source = open_source("cifar100_coarse", data_dir=tmp_path)
    assert source.classes == tuple(COARSE)
    assert [sample.label for sample in source.samples] == [x for n in range(2) for x in labels("cifar100", n)[1]]
    assert source.given["test"][3].name == "cifar100_coarse/test/3"


def test_images_are_views_of_a_few_arrays(tmp_path: Path):
    samples = open_source(archive(tmp_path)).samples
    assert len({id(sample.array.base) for sample in samples}) == 6


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_data_folder_that_holds_it(tmp_path: Path, pickled: bool, packed: bool):
    here = tmp_path / "here"
    if packed:
        archive(here, "cifar10", pickled)
    else:
        unpack(here / FOLDERS["cifar10", pickled], files("cifar10", pickled))
    assert len(open_source("cifar10", data_dir=here).samples) == 6 * ROWS


@pytest.mark.parametrize("packed", [True, False])
def test_a_data_folder_that_is_it(tmp_path: Path, packed: bool):
    here = archive(tmp_path / "a") if packed else unpack(tmp_path / "b", files("cifar10", True))
    assert len(open_source("cifar10", data_dir=here).samples) == 6 * ROWS


# As keras.datasets leaves them: Keras 2 unpacks into the folder of its name, Keras 3 into one named target.
@pytest.mark.parametrize(
    "place",
    [
        "cifar-10-batches-py",
        "cifar-10-batches-py.tar.gz",
        "cifar-10-batches-py/cifar-10-batches-py",
        "cifar-10-batches-py-target/cifar-10-batches-py",
        "cifar-10-batches-py-target_archive",
        "cifar-10-batches-py_archive",
    ],
)
def test_what_keras_has_downloaded_is_used(tmp_path: Path, place: str):
    path = tmp_path / "keras" / "datasets" / place
    if place.endswith(("gz", "_archive")):
        pack(path, "cifar-10-batches-py", files("cifar10", True))
    else:
        unpack(path, files("cifar10", True))
    assert len(open_source("cifar10").samples) == 6 * ROWS


def test_keras_has_a_home_without_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    unpack(tmp_path / ".keras" / "datasets" / "cifar-100-python-target" / "cifar-100-python", files("cifar100", True))
    assert len(open_source("cifar100").samples) == 2 * ROWS


def test_an_incomplete_folder_is_passed_over(tmp_path: Path):
    contents = files("cifar10", True)
    del contents["data_batch_4"]
    unpack(tmp_path / "keras" / "datasets" / "cifar-10-batches-py", contents)
    with pytest.raises(DownloadError):
        open_source("cifar10")


def test_the_user_s_folder_comes_before_keras_s_and_that_before_the_cache(tmp_path: Path):
    places = [tmp_path / "own", tmp_path / "keras" / "datasets", tmp_path / "cache" / "datasets"]
    for number, place in reversed(list(enumerate(places))):
        contents = files("cifar10", True)
        contents["batches.meta"] = pickle.dumps({"label_names": [f"{number}-{n}" for n in range(10)]}, 2)
        pack(place / "cifar-10-python.tar.gz", "cifar-10-batches-py", contents)
        assert open_source("cifar10", data_dir=tmp_path / "own").classes[0] == f"{number}-0"


def test_what_is_nowhere_is_downloaded_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def fetch(url: str, *, known_hash: str, folder: Path, file_name: str) -> Path:
        asked.append((url, known_hash, folder, file_name))
        return archive(folder, "cifar100")

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(cifar, "BASE_URL", "http://127.0.0.1/")
    for _ in range(2):
        assert len(open_source("cifar100").samples) == 2 * ROWS
    url, file_name = "http://127.0.0.1/cifar-100-python.tar.gz", "cifar-100-python.tar.gz"
    assert asked == [(url, "md5:eb9058c3a382ffc7106e4002c42a8d85", tmp_path / "cache" / "datasets", file_name)]


def test_offline_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(DownloadError) as raised:
        open_source("cifar10", data_dir=tmp_path / "own")
    for part in (
        "TOPGRAFT_OFFLINE is set",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        str(tmp_path / "cache" / "datasets" / "cifar-10-python.tar.gz"),
        "--data-dir",
        "To open the folder cifar10, write ./cifar10",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_cut_archive_is_an_error(tmp_path: Path, keep: float):
    path = archive(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"is damaged: .* Delete it and get it again"):
        open_source("cifar10", data_dir=tmp_path)


def test_a_changed_byte_is_an_error(tmp_path: Path):
    path = archive(tmp_path)
    plain = bytearray(gzip.decompress(path.read_bytes()))
    checksum = path.read_bytes()[-8:]
    plain[plain.index(b"horse")] ^= 1  # still a pickle
    path.write_bytes(gzip.compress(bytes(plain))[:-8] + checksum)
    with pytest.raises(DataError, match="is damaged: CRC check failed"):
        open_source(path)


def test_a_file_that_lacks_a_batch_is_an_error(tmp_path: Path):
    contents = files("cifar10", True)
    del contents["data_batch_3"], contents["batches.meta"]
    with pytest.raises(DataError, match=r"lacks batches\.meta, data_batch_3"):
        open_source(pack(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", contents))


class Runs:
    def __reduce__(self):
        return Path.mkdir, (Path("owned"),)


@pytest.mark.parametrize("member", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_malicious_batch_is_refused(tmp_path: Path, member: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    contents = files("cifar10", True)
    contents[member] = pickle.dumps({"data": Runs()}, 2)
    with pytest.raises(DataError, match=f"{member} is a pickle that asks for .* Nothing of it was run"):
        open_source(pack(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", contents))
    assert not (tmp_path / "owned").exists()


GOOD = {b"data": planes(0), b"labels": [0] * ROWS}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "does not hold a dict"),
        ({b"labels": [0]}, "has no entry data"),
        ({b"data": planes(0)}, "has no entry labels"),
        (GOOD | {b"labels": [0]}, "does not hold images of 32×32 with one label each"),
        (GOOD | {b"data": planes(0)[:, :-1]}, "does not hold images of 32×32 with one label each"),
        (GOOD | {b"data": planes(0).astype(np.int64)}, "does not hold images of 32×32 with one label each"),
        (GOOD | {b"labels": [0, 10, 0, -1]}, "has 2 labels that are not a class, such as 10"),
        (GOOD | {b"labels": ["a"] * ROWS}, "has 4 labels that are not a class, such as "),
    ],
)
def test_batches_of_another_shape_are_errors(tmp_path: Path, batch: object, message: str):
    contents = files("cifar10", True) | {"data_batch_5": pickle.dumps(batch, 2)}
    with pytest.raises(DataError, match=message):
        open_source(unpack(tmp_path / "unpacked", contents))


def test_a_binary_batch_of_another_length_is_an_error(tmp_path: Path):
    contents = files("cifar100", False) | {"train.bin": b"x" * 3073}
    with pytest.raises(DataError, match=r"train\.bin has 3073 bytes, not a multiple of 3074"):
        open_source(unpack(tmp_path / "unpacked", contents))


def test_another_archive_is_no_cifar(tmp_path: Path):
    with pytest.raises(DataError, match="is an archive; unpack it"):
        open_source(pack(tmp_path / "photos.tar.gz", "photos", {"a": b"x"}))


def test_the_published_checksums():
    assert {form.archive: form.md5 for forms in cifar_archive.LAYOUTS.values() for form in forms} == {
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    }
