"""What a user reads after a mistake: one short traceback, and none of a library's."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import topgraft as tg
from topgraft.data.sources import cifar
from topgraft.models.weights.published import WEIGHTS
from topgraft.system import download

# The frames of Topgraft on the way, two or three lines each. The chain of the HTTP client has more than 200 lines.
LINES = 45
IMAGES = (np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2)


def damaged(folder: Path) -> Path:
    (folder / "config.json").write_text("{", encoding="utf-8")
    return folder


def latin1(folder: Path) -> Path:
    (folder / "table.csv").write_bytes(b"image,label\n\xff,a\n")
    return folder / "table.csv"


MISTAKES: dict[str, Callable[[Path], Any]] = {
    "archive not there": lambda folder: tg.open_images("cifar10", data_dir=folder),
    "weights not there": lambda folder: tg.create_network("vgg16"),
    "file of weights not there": lambda folder: tg.create_network("vgg16", folder / "vgg16.pth"),
    "folder not there": lambda folder: tg.open_images(folder / "photos"),
    "folder without images": lambda folder: tg.open_images(damaged(folder)),
    "table in another encoding": lambda folder: tg.open_images(latin1(folder)),
    "one class": lambda folder: tg.open_images((IMAGES[0], np.zeros(6, int))),
    "unknown backbone": lambda folder: tg.summary("resnet51"),
    "unknown baseline": lambda folder: tg.summary("descriptor_codin"),
    "unknown option": lambda folder: tg.fit(IMAGES, stategy="head"),
    "bad value": lambda folder: tg.fit(IMAGES, budget="soon"),
    "option without effect": lambda folder: tg.fit(IMAGES, strategy="head", lr=0.1),
    "rules not there": lambda folder: tg.fit(IMAGES, rules=folder / "rules.toml"),
    "rules damaged": lambda folder: tg.fit(IMAGES, rules=damaged(folder) / "config.json"),
    "no artifact": lambda folder: tg.load(folder / "run"),
    "damaged artifact": lambda folder: tg.load(damaged(folder)),
    "no measurement": lambda folder: tg.fit(IMAGES, engine="fastest"),
}


def printed(mistake: Callable[[], Any]) -> str:
    """What Python prints after it."""
    with pytest.raises(tg.TopgraftError) as raised:
        mistake()
    return "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_usual_mistake_is_one_short_traceback(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPGRAFT_OFFLINE", "1")
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    text = printed(lambda: MISTAKES[name](tmp_path))
    assert text.count("Traceback (most recent call last)") == 1
    assert len(text.splitlines()) <= LINES


@pytest.mark.parametrize("what", ["archive not there", "weights not there"])
def test_without_a_network_the_traceback_holds_none_of_the_http_client(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        monkeypatch.delenv("TOPGRAFT_OFFLINE", raising=False)
        monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(cifar, "BASE_URL", address)
        monkeypatch.setattr(download, "_PAUSES", (0.0,))
        for name, row in WEIGHTS.items():
            monkeypatch.setitem(WEIGHTS, name, replace(row, url=address + row.file))
        text = printed(lambda: MISTAKES[what](tmp_path))
    assert "cannot be downloaded" in text
    assert "urllib3" not in text
    assert text.count("Traceback (most recent call last)") == 1
    assert len(text.splitlines()) <= LINES
