"""A fit, an evaluation and predictions open no socket and leave no file outside their own folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

WATCHED = """
import json, os, sys

asked, written = [], []

def watch(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "smtplib.", "ftplib.")):
        asked.append([event, repr(arguments)])
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1], arguments[2]
        if (mode and set(mode) & set("wxa+")) or (not mode and flags & (os.O_WRONLY | os.O_RDWR)):
            written.append(os.path.abspath(os.fsdecode(arguments[0])))

sys.addaudithook(watch)
from topgraft.cli.main import main

photos, run = sys.argv[1:]
codes = [
    main(["fit", "--strategy", "head", photos, "--out", run, "--quiet"]),
    main(["evaluate", run, photos, "--quiet"]),
    main(["predict", run, photos]),
]
print(json.dumps({"codes": codes, "asked": asked, "written": written}))
"""


def test_nothing_leaves_the_machine_and_nothing_is_left_behind(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for label, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (photos / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (40, 40), tuple(np.add(color, number))).save(photos / label / f"{number}.png")
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    for name in ("home", "temporary", "here", "cache"):
        (tmp_path / name).mkdir()
    home = str(tmp_path / "home")
    # In CI OpenVINO's telemetry would be silent of itself.
    silent = ("CI", "TF_BUILD", "JENKINS_URL")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_") and k not in silent} | {
        **dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"), home),
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "temporary")),
        "TOPGRAFT_CACHE": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(photos), str(tmp_path / "runs" / "one")],
        capture_output=True, text=True, check=True, cwd=tmp_path / "here", env=environment,
    )  # fmt: skip
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["codes"] == [0, 0, 0]
    assert said["asked"] == []
    own = (str(tmp_path / "cache"), str(tmp_path / "runs"))
    assert any(path.startswith(str(tmp_path / "cache")) for path in said["written"])  # so the watch is awake
    assert [path for path in said["written"] if not path.startswith((*own, os.devnull))] == []
    for name in ("home", "temporary", "here"):
        assert list((tmp_path / name).rglob("*")) == [], name
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one"}
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before
