import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from topgraft.data.sources.cifar_pickles import read_pickle
from topgraft.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def python2_pickle(rows: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle and its NumPy wrote it: protocol 2, and strings that are bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    shape = b"M" + struct.pack("<H", rows.shape[0]) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array = made + b"(K\x01" + shape + dtype + b"\x89" + text(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_what_python_2_wrote():
    rows = np.arange(2 * 300, dtype=np.uint8).reshape(2, 300)
    data = python2_pickle(rows, [3, 9])
    reference = pickle.loads(data, encoding="bytes")  # that the test itself writes what NumPy reads
    read = read_pickle(data, "batch")
    assert set(read) == set(reference) == {b"data", b"labels"}
    assert np.array_equal(read[b"data"], rows)
    assert np.array_equal(reference[b"data"], rows)
    assert read[b"labels"] == [3, 9]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?"])
def test_arrays_of_numbers(protocol: int, order: str, dtype: str):
    array = np.array(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    read = read_pickle(pickle.dumps({"data": array}, protocol), "batch")["data"]
    assert np.array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_strings_numbers_lists_and_dicts(protocol: int):
    value = {"names": ["a", "größe", b"bytes\xff"], "n": [0, 255, -7, 2**70, 1.5, True, None], "t": (1, (2,)), "e": {}}
    read = read_pickle(pickle.dumps(value, protocol), "batch")
    if protocol < 3:  # these write bytes by a call, and Python 2's strings are bytes
        assert read["names"][2] == b"bytes\xff"
    assert read == value


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Plain:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Plain(), "(Plain|_reconstructor)"),
        (Runs(eval, "1 + 1"), "eval"),
        (Runs(getattr, "a", "upper"), "getattr"),
        (Runs(np.frombuffer, b"1234"), "(frombuffer|_frombuffer)"),
        (OrderedDict(a=1), "OrderedDict"),
        ({1, 2}, "set"),
        (1j, "complex"),
        (np.float64(1), "scalar"),
        (np.array([Plain(), "a"], object), "."),
        (np.zeros(2, [("a", "u1")]), "."),
        (np.zeros(2, "M8[s]"), "."),
        (np.ma.zeros(2), "."),
        (np.dtype("u1"), "a dtype"),
        (np.ndarray, "a arraytype"),
    ],
)
def test_everything_else_is_refused(protocol: int, value: object, named: str):
    data = pickle.dumps({"data": value}, protocol)
    with pytest.raises(DataError, match=f"batch is a pickle that asks for .*{named}.*, and only arrays"):
        read_pickle(data, "batch")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_of_a_malicious_pickle_is_run(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    payloads = Runs(os.mkdir, "owned"), Runs(os.system, "mkdir owned"), Runs(exec, "import os; os.mkdir('owned')")
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "owned"
    for payload in payloads:
        data = pickle.dumps([payload], protocol)
        with pytest.raises(DataError, match="Nothing of it was run"):
            read_pickle(data, "batch")
        assert not target.exists()
        pickle.loads(data)  # that the payload would have worked
        assert target.exists()
        target.rmdir()


@pytest.mark.parametrize("depth", [10, 400])
def test_deep_containers_are_refused(depth: int):
    value: list = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(DataError, match="asks for containers nested too deeply"):
        read_pickle(pickle.dumps(value), "batch")


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cos\nsystem\nU\x02ls\x85R.",
        b"\x80\x02" + ARRAY + b"}U\x08__call__K\x01sb.",  # a state for a stand-in
        b"\x80\x02" + ARRAY + b"cnumpy\nndarray\nK\x05\x85U\x01b\x87R.",  # an array without contents
        b"\x80\x02" + ARRAY + b"K\x01K\x02K\x03\x87R.",  # an array of another type
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",  # objects
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x05rot13\x86R.",
        b"\x80\x02c_codecs\nencode\n" + b"K\x01U\x06latin1\x86R.",
        b"\x80\x02Pname\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"",
        b"no pickle",
        b"\x80\x02}(U\x04data",  # cut
        b"\x80\x7f.",
        pickle.dumps({"data": np.zeros((9, 9), np.uint8)})[:-20],
    ],
)
def test_crafted_and_damaged_pickles_are_refused(data: bytes):
    with pytest.raises(DataError, match=r"^batch is (a pickle that asks for|not a pickle, or is damaged)"):
        read_pickle(data, "batch")
