"""The history of a fit that runs: whole lines, each said as it comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from topgraft.metrics import Interval
from topgraft.strategies.history import EpochRecord, epoch_from_json, line_of
from topgraft.system import progress
from topgraft.training.history_file import GrowingHistory, described

TOP1 = Interval(0.8951, 0.84, 0.93, 1234)
HEAD = [
    EpochRecord(0, "head", 0, 0.5, 0.1, 0.2104, TOP1, strength=strength, chosen=strength == 0.0316228)
    for strength in (0.0316228, 0.1)
]
EPOCHS = [EpochRecord(1, "from stage5", epoch, 12.3, 0.712, 0.4, TOP1, lr=3e-4, epochs=20) for epoch in (11, 12)]


def records(path: Path) -> list[EpochRecord]:
    return [epoch_from_json(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def test_an_epoch_is_one_line_of_at_most_80_characters() -> None:
    line = described(EPOCHS[1], 1234)
    assert line == "from stage5, epoch 12/20: loss 0.712, val. 89.5 % of 1,234, lr 0.0003, 12 s"
    folds = described(EpochRecord(1, "from stage5", 1, 150.0, 0.7, 0.4, TOP1, lr=3e-4, epochs=5, folds=5), 99)
    assert folds == "from stage5, epoch 1/5: loss 0.700, out of fold 89.5 % of 1,234, lr 0.0003, 2 min 30 s"


def test_of_a_solved_head_the_chosen_strength_is_said() -> None:
    assert described(HEAD[0], 1234) == "head: solved, C = 0.0316, loss 0.210, val. 89.5 % of 1,234"
    assert described(HEAD[1], 1234) is None


def test_each_record_is_said_and_in_the_file_as_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run" / "history.jsonl"
    history = GrowingHistory(file, 1234)
    for number, record in enumerate([*HEAD, *EPOCHS], start=1):
        history.add(record)
        assert records(file) == [*HEAD, *EPOCHS][:number]
        assert file.read_text("utf-8").endswith("\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [described(HEAD[0], 1234), described(EPOCHS[0], 1234), described(EPOCHS[1], 1234)]


def test_quietly_it_is_only_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.quiet():
        GrowingHistory(tmp_path / "history.jsonl", 1234).add(EPOCHS[0])
    assert capsys.readouterr() == ("", "")
    assert records(tmp_path / "history.jsonl") == EPOCHS[:1]


def test_without_a_folder_it_is_only_said(capsys: pytest.CaptureFixture[str]) -> None:
    GrowingHistory(None, 1234).add(EPOCHS[0])
    assert capsys.readouterr().err == f"{described(EPOCHS[0], 1234)}\n"


def test_a_resumed_run_replaces_what_was_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("".join(map(line_of, [*HEAD, *EPOCHS])), encoding="utf-8")
    history = GrowingHistory(file, 1234, HEAD)  # the state that was kept was before the epochs
    assert records(file) == HEAD
    for record in [*HEAD, *EPOCHS[1:]]:
        history.add(record)
    assert records(file) == [*HEAD, *EPOCHS[1:]]


def test_a_run_that_starts_anew_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("of another fit\n", encoding="utf-8")
    GrowingHistory(file, 1234).add(EPOCHS[0])
    assert records(file) == EPOCHS[:1]


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.jsonl"
    history = GrowingHistory(file, 1234)
    history.add(EPOCHS[0])

    class Full:
        """A file that takes ten bytes."""

        def __init__(self, real: object) -> None:
            self.real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.real.close()  # type: ignore[attr-defined]

        def write(self, data: bytes) -> int:
            return int(self.real.write(data[:10]))  # type: ignore[attr-defined]

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *given, **named: Full(real(path, *given, **named)))
    history.add(EPOCHS[1])
    monkeypatch.undo()
    history.add(EPOCHS[1])
    assert records(file) == EPOCHS[:1]
    assert capsys.readouterr().err.count("is not written any further") == 1
