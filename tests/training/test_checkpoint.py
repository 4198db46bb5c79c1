"""A checkpoint comes back as it was, or is named as damaged; an optimizer continues as if it had not stopped."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.disks import small_disk
from support.small import small_classifier

from topgraft.errors import CheckpointError, TopgraftError, UsageError
from topgraft.system import files
from topgraft.training.checkpoint import Checkpoint, pack_optimizer, read, unpack_optimizer, write
from topgraft.training.resume import differences, require_same
from topgraft.training.sgd.optimizers import make_optimizer

GENERATOR = torch.Generator().manual_seed(3)
CUBE = torch.randn(4, 3, 5, 5, generator=GENERATOR)
TENSORS = {
    "channels_last": CUBE.to(memory_format=torch.channels_last),
    "turned": CUBE.transpose(0, 2),
    "part": CUBE[1:3, :, ::2],
    "again": CUBE,
    "wide": CUBE.double() / 3,
    "half": CUBE.half(),
    "bf16": CUBE.bfloat16(),
    "count": torch.tensor(7),
    "step": torch.tensor(3.0),
    "small": torch.tensor([-3, 2], dtype=torch.int8),
    "short": torch.tensor([-300], dtype=torch.int16),
    "int": torch.tensor([1 << 30], dtype=torch.int32),
    "flags": torch.tensor([True, False, True]),
    "generator": torch.Generator().manual_seed(1).get_state(),
    "none": torch.empty(0, 3),
    "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    "weight": torch.nn.Parameter(torch.ones(2)),
}
STATE = {
    "phase": 1,
    "epoch": 2,
    "loss": 0.1 + 0.2,
    "best": float("-inf"),
    "rows": {"stem": None, "head": 1.0},
    "numpy": np.random.default_rng(5).bit_generator.state,
    "words": ["Käfer", ""],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "run" / files.CHECKPOINT_FILE, Checkpoint(TENSORS, STATE))
    return tmp_path / "run" / files.CHECKPOINT_FILE


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def equal(got: Checkpoint | None) -> bool:
    return (
        got is not None
        and got.state == STATE
        and got.tensors.keys() == TENSORS.keys()
        and all(
            (tensor.dtype, tensor.shape, bits(tensor))
            == (TENSORS[name].dtype, TENSORS[name].shape, bits(TENSORS[name]))
            for name, tensor in got.tensors.items()
        )
    )


def test_what_was_written_comes_back_bit_for_bit(path: Path) -> None:
    got = read(path)
    assert equal(got)
    assert got is not None
    assert all(tensor.is_contiguous() for tensor in got.tensors.values())
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere" / "file.safetensors") is None


def test_it_is_a_safetensors_file_with_one_metadata_key(path: Path) -> None:
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert bits(loaded["turned"]) == bits(TENSORS["turned"])
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    assert size % 8 == 0
    assert len(json.loads(data[8 : 8 + size])["__metadata__"]) == 1


def test_equal_content_is_equal_bytes(path: Path, tmp_path: Path) -> None:
    tensors = {name: TENSORS[name].clone(memory_format=torch.contiguous_format) for name in reversed(TENSORS)}
    write(tmp_path / "other", Checkpoint(tensors, dict(reversed(STATE.items()))))
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_what_it_cannot_hold_is_said_before_anything_is_written(path: Path) -> None:
    before = path.read_bytes()
    for tensors, state in (
        ({"a": torch.zeros(1, dtype=torch.complex64)}, {}),
        ({"__metadata__": torch.zeros(1)}, {}),
        ({}, {"a": torch.zeros(1)}),
    ):
        with pytest.raises(TypeError):
            write(path, Checkpoint(tensors, state))
    assert path.read_bytes() == before


def test_an_empty_one_is_one(tmp_path: Path) -> None:
    write(tmp_path / "file", Checkpoint({}, {}))
    got = read(tmp_path / "file")
    assert got is not None
    assert (got.tensors, got.state) == ({}, {})


def test_a_file_cut_short_is_damage(path: Path) -> None:
    whole = path.read_bytes()
    for size in sorted({0, 1, 7, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"is damaged.*--overwrite"):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="is damaged"):
        read(path)


def test_flipped_bits_are_found_or_change_nothing(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + struct.unpack_from("<Q", whole)[0]
    chance = random.Random(0)
    found = 0
    for at in (*range(header), *(chance.randrange(header, len(whole)) for _ in range(200))):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert equal(read(path)), at
        except CheckpointError:
            found += 1
    assert found > header


@pytest.mark.parametrize("data", [b"[" * 100_000, b"null", b"[]", b"{}", b'{"__metadata__": {"topgraft": "3"}}'])
def test_other_content_is_damage(path: Path, data: bytes) -> None:
    for whole in (data, struct.pack("<Q", len(data)) + data):
        path.write_bytes(whole)
        with pytest.raises(CheckpointError, match="is damaged"):
            read(path)


def test_another_format_says_what_to_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topgraft.training.checkpoint.FORMAT_VERSION", 4)
    with pytest.raises(CheckpointError, match=r"has format 3, .*--overwrite"):
        read(path)


@pytest.mark.parametrize("what", ["open", "fsync", "replace"])
def test_a_full_disk_leaves_the_previous_one(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if what == "fsync" else Path, what, fails)
        with pytest.raises(OSError, match="No space left"):
            write(path, Checkpoint({}, {}))
    assert equal(read(path))
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path, 64) as disk:
        write(disk / "file", Checkpoint(TENSORS, STATE))
        with pytest.raises(OSError, match="No space left"):
            write(disk / "file", Checkpoint({"large": torch.zeros(20_000)}, {}))
        assert equal(read(disk / "file"))
        assert [other.name for other in disk.iterdir()] == ["file"]


# --- Optimizers ----------------------------------------------------------------------------------------------------

ROWS = {"stem": 0.1, "stage1": 0.5, "head": 1.0}


def training(name: str, seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network laid out as it is when it steps, and its optimizer, whose rates a schedule will multiply."""
    classifier = small_classifier(seed)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    l2 = 0.0 if name == "adamw" else 1e-4
    optimizer = make_optimizer(dict(classifier.groups.items()), ROWS, name=name, lr=0.01, l2=l2)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return classifier, optimizer


def step(classifier: torch.nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] / (1 + number)
        generator = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=generator)
        classifier(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_an_optimizer_continues_as_if_it_had_not_stopped(name: str, before: int, tmp_path: Path) -> None:
    whole, optimizer = training(name)
    step(whole, optimizer, range(5))

    first, optimizer = training(name)
    step(first, optimizer, range(before))
    tensors, state = pack_optimizer(optimizer)
    weights = {f"weights.{key}": tensor for key, tensor in first.state_dict().items()}
    write(tmp_path / "file", Checkpoint({**tensors, **weights}, {"optimizer": state}))

    got = read(tmp_path / "file")
    assert got is not None
    second, optimizer = training(name, seed=1)
    second.load_state_dict({key: got.tensors[f"weights.{key}"] for key in second.state_dict()})
    unpack_optimizer(optimizer, {key: got.tensors[key] for key in tensors}, got.state["optimizer"])
    rates = [(group["lr"], group["initial_lr"]) for group in optimizer.param_groups]
    assert rates == [(group["lr"], group["initial_lr"]) for group in state["groups"]]
    step(second, optimizer, range(before, 5))
    for key, tensor in second.state_dict().items():
        assert bits(tensor) == bits(whole.state_dict()[key]), key


def test_moments_lie_in_memory_as_their_weights_do() -> None:
    classifier, optimizer = training("adam")
    step(classifier, optimizer, range(1))
    tensors, state = pack_optimizer(optimizer)
    _, fresh = training("adam")
    unpack_optimizer(fresh, {key: tensor.contiguous() for key, tensor in tensors.items()}, state)
    parameters = [parameter for group in fresh.param_groups for parameter in group["params"]]
    assert any(not parameter.is_contiguous() for parameter in parameters)
    assert all(fresh.state[p]["exp_avg"].stride() == p.stride() for p in parameters)


def test_what_was_packed_does_not_change_with_the_optimizer_that_took_it() -> None:
    classifier, optimizer = training("adam")
    step(classifier, optimizer, range(1))
    tensors, state = pack_optimizer(optimizer)
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    other, fresh = training("adam")
    unpack_optimizer(fresh, kept, state)
    step(other, fresh, range(1, 3))
    assert all(torch.equal(kept[key], tensor) for key, tensor in tensors.items())


def test_an_optimizer_of_another_kind_or_network_is_refused() -> None:
    classifier, optimizer = training("adam")
    step(classifier, optimizer, range(1))
    tensors, state = pack_optimizer(optimizer)
    with pytest.raises(CheckpointError, match="of Adam, not of SGD"):
        unpack_optimizer(training("sgd")[1], tensors, state)
    groups = dict(small_classifier(classes=7).groups.items())
    with pytest.raises(CheckpointError, match="has the shape"):
        unpack_optimizer(make_optimizer(groups, ROWS, name="adam", lr=0.01, l2=1e-4), tensors, state)
    rows = {**ROWS, "stem": None}
    with pytest.raises(CheckpointError, match="does not fit"):
        unpack_optimizer(make_optimizer(groups, rows, name="adam", lr=0.01, l2=1e-4), tensors, state)
    for wrong in ({}, {**state, "others": {}}, {**state, "groups": []}):
        with pytest.raises(CheckpointError, match="does not fit"):
            unpack_optimizer(training("adam")[1], tensors, wrong)


# --- Settings ------------------------------------------------------------------------------------------------------


def test_differences_are_lines_that_a_user_can_read() -> None:
    saved = {"lr": 0.001, "batch_size": 32, "refit": False, "limit": None, "resume": False, "where": "a", "gone": 3}
    asked = {"lr": 0.01, "batch_size": 32, "refit": True, "limit": 9, "resume": True, "where": "b", "new": "x"}
    assert differences(saved, asked, {"resume"}) == [
        "--lr: 0.001 then, 0.01 now",
        "--refit: off then, on now",
        "--limit: not given then, 9 now",
        "WHERE: a then, b now",
        "--gone: 3 then, not given now",
        "--new: not given then, x now",
    ]
    assert differences(saved, saved) == []
    assert differences({"a": 0}, {"a": False}) == ["--a: 0 then, off now"]
    assert differences({"unfreeze_from": None}, {"unfreeze_from": "stage5"}) == [
        "--unfreeze-from: not given then, stage5 now"
    ]


def test_going_on_with_other_settings_is_refused_with_all_of_them() -> None:
    require_same(Path("run"), {"lr": 1, "resume": False}, {"lr": 1, "resume": True}, {"resume"})
    with pytest.raises(UsageError, match=r"^run was fitted with other settings.*\n  --a: 1 then, 2 now\n  --b: 1 then"):
        require_same(Path("run"), {"a": 1, "b": 1}, {"a": 2, "b": 2})


def test_errors_are_topgrafts_own() -> None:
    assert issubclass(CheckpointError, TopgraftError)
