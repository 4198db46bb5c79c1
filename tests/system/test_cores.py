"""Cores that a process may use: its affinity, and the CPU quota of its control groups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from topgraft.cli import main
from topgraft.data import hashing, loader
from topgraft.features.engines import choose
from topgraft.system import cores


def tree(root: Path, cgroup: str, files: Mapping[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # rounded up
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),  # more than the affinity
        ("0::/\n", {"cpu.max": "\n"}, 8),
        ("nonsense\n", {"cpu.max": "max"}, 8),
        ("0::/a.slice/b\n", {"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"}, 3),
        ("0::/../../other\n", {"cpu.max": "400000 100000"}, 4),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 5),
        (
            "4:memory:/x\n3:cpu,cpuacct:/docker/1f\n",  # the host's path: the container's own group is mounted as root
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 8),
        ("1:name=systemd:/\n0::/\n", {"unified/cpu.max": "600000 100000"}, 6),
    ],
)
def test_a_quota_limits_the_cores(tmp_path: Path, cgroup: str, files: Mapping[str, str], expected: int) -> None:
    assert cores.usable_cores(tree(tmp_path, cgroup, files)) == expected


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert cores.usable_cores(tmp_path) == 8


def test_a_system_without_affinity_counts_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores(tmp_path) == 1


def test_python_3_13_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert cores.usable_cores(tmp_path) == 3


def test_decoding_threads_are_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert loader.decoding_threads(None) <= 3
    assert loader.decoding_threads(7) == 7
    assert hashing._threads(None) <= 3


def test_only_one_module_counts_cores() -> None:
    source = Path(cores.__file__).parent
    counting = [path.name for path in source.rglob("*.py") if "cpu_count" in path.read_text(encoding="utf-8")]
    assert counting == ["cores.py"]


def test_openmp_is_told_of_a_quota_and_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores.limit_openmp(tmp_path)
    assert "OMP_NUM_THREADS" not in os.environ
    limited = tree(tmp_path, "0::/\n", {"cpu.max": "100000 100000"})
    cores.limit_openmp(limited)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    cores.limit_openmp(limited)
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_the_command_tells_openmp_before_a_verb_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(main, "limit_openmp", lambda: calls.append("limit"))
    monkeypatch.setattr(main, "main", lambda: calls.append("main") or 0)
    monkeypatch.setattr(os, "_exit", lambda code: calls.append(f"exit {code}"))
    main.entry()
    assert calls == ["limit", "main", "exit 0"]


def test_an_engine_computes_on_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "get_num_threads", lambda: 48)
    monkeypatch.setattr(choose, "usable_cores", lambda: 2)
    assert choose.choose().threads == 2
    monkeypatch.setattr(choose, "get_num_threads", lambda: 1)
    assert choose.choose().threads == 1
