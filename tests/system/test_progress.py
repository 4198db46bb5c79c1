"""Progress: nothing for short work, plain lines where there is no terminal, silence when quiet."""

from __future__ import annotations

import io

import pytest

from topgraft.system import formatting, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], seconds: float) -> None:
    with progress.bar("base", 100) as bar:
        for _ in range(10):
            clock[0] += seconds / 10
            bar.advance(10)


def test_short_work_shows_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 1.5)
    assert capsys.readouterr() == ("", "")


def test_long_work_prints_plain_lines_with_rate_and_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, 40.0)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "base: 10 of 100 images"
    assert lines[1] == "base: 40 of 100 images, 2.5 images/s, 24 s left"
    assert lines[-1] == "base: 100 of 100 images, 2.5 images/s, 0 s left"
    assert 3 <= len(lines) <= 6
    assert len(set(lines)) == len(lines)


def test_work_that_ends_at_its_first_line_prints_one(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("base", 4) as bar:
        clock[0] += 3.0
        bar.advance(4)
    assert capsys.readouterr().err == "base: 4 of 4 images\n"


def test_what_comes_before_the_first_images_is_no_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """A network is converted and warmed up meanwhile; and what is ready at the same moment says nothing either."""
    with progress.bar("base", 1000) as bar:
        bar.advance(0)
        for seconds, images in ((60.0, 4), (0.5, 4), (9.5, 32), (10.0, 40)):
            clock[0] += seconds
            bar.advance(images)
            line = bar.line(clock[0])
            assert ("left" in line) == (bar.done > 8)
    assert capsys.readouterr().err.splitlines() == [
        "base: 4 of 1,000 images",
        "base: 40 of 1,000 images, 3.6 images/s, 4 min 27 s left",
        "base: 80 of 1,000 images, 3.8 images/s, 4 min 2 s left",
    ]


def test_a_terminal_gets_a_bar(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", shown)
    work(clock, 40.0)
    assert "base" in shown.getvalue()
    assert "100 %" in shown.getvalue()
    assert "2.5 images/s" in shown.getvalue()


def test_a_bar_that_does_not_stay_leaves_no_last_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("epoch 1 of 2", 100, stays=False) as bar:
        for _ in range(2):
            clock[0] += 3.0
            bar.advance(50)
    assert len(capsys.readouterr().err.splitlines()) == 1
    with progress.bar("epoch 2 of 2", 100, stays=False) as bar:
        clock[0] += 3.0
        bar.advance(100)
    assert capsys.readouterr().err == "", "the epoch's own line follows"


def test_quiet_is_quiet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.quiet():
        work(clock, 40.0)
        progress.note("a note")
    assert capsys.readouterr() == ("", "")


def test_what_is_quiet_stays_quiet_inside(capsys: pytest.CaptureFixture[str]) -> None:
    """A verb that is called within a quiet one, with its own default, is quiet."""
    with progress.quiet(), progress.quiet(False):
        progress.note("inside")
    progress.note("after")
    assert capsys.readouterr().err == "after\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (40.4, "40 s"),
        (89.4, "89 s"),
        (89.6, "1 min 30 s"),
        (120.0, "2 min"),
        (150.0, "2 min 30 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (5400.0, "1 h 30 min"),
        (9000.0, "2 h 30 min"),
        (7199.0, "2 h"),
        (4_320_000.0, "1,200 h"),
    ],
)
def test_a_duration_is_written_for_people(seconds: float, expected: str) -> None:
    assert formatting.duration(seconds) == expected


def test_a_long_time_left_is_written_as_a_duration(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("base", 1_000) as bar:
        bar.advance(10)
        clock[0] += 10.0
        bar.advance(10)
    assert capsys.readouterr().err.splitlines()[0].endswith(", 16 min 20 s left")


def test_a_message_is_wrapped_at_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("COLUMNS", "30")
    progress.message("left out 2 files that cannot be read:\n  photos/a-very-long-name-of-a-photo.jpg: it is a folder")
    assert shown.getvalue().splitlines() == [
        "left out 2 files that cannot",
        "  be read:",
        "  photos/a-very-long-name-of-a-photo.jpg:",
        "    it is a folder",
    ]


def test_a_message_is_whole_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    progress.message("note: " + "word " * 40 + "end\n\n  indented")
    assert capsys.readouterr().err == "note: " + "word " * 40 + "end\n\n  indented\n"


@pytest.mark.parametrize(
    "text", ["right for 10.0 % of 60", "top-1 (n = 60)", "it took 12 s", "C = 0.1 was", "a /path=x b"]
)
def test_a_number_and_what_belongs_to_it_stay_on_one_line(text: str) -> None:
    for width in range(8, 40):
        lines = progress.wrapped(text, width).splitlines()
        assert " ".join(line.strip() for line in lines) == text
        assert not any(line.strip().startswith(("%", "=", "s")) for line in lines)
        assert not any(line.endswith("=") for line in lines)
