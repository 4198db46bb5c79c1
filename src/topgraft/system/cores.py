"""Count the processor cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may use, at least 1: those of its affinity, or fewer in a container with a CPU quota.

    A quota of 1.5 cores counts as 2, as in Go and the Java virtual machine: one thread would waste a third of it.

    Args:
        root: folder that contains ``proc`` and ``sys``.
    """
    cores = _affinity()
    quota = _quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def limit_openmp(root: Path = _ROOT) -> None:
    """Limit the threads of libraries that are loaded later to the cores of a CPU quota.

    OpenMP, which PyTorch uses, respects the affinity but not the quota: with one thread for each core of a large
    machine, a container is paused for most of each period. ``OMP_NUM_THREADS`` is not changed if it is set.
    """
    cores = usable_cores(root)
    if cores < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13; also respects PYTHON_CPU_COUNT
        return int(os.process_cpu_count() or 1)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _quota(root: Path) -> float | None:
    """Cores by the smallest CPU quota of the process's control groups and their parents; None without a quota.

    Linux's files: ``cpu.max`` of version 2 (Documentation/admin-guide/cgroup-v2.rst), ``cpu.cfs_quota_us`` and
    ``cpu.cfs_period_us`` of version 1 (Documentation/scheduler/sched-bwc.rst).
    """
    quotas = [quota for folder in _control_groups(root) if (quota := _folder_quota(folder)) is not None]
    return min(quotas, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the process's control groups that may have a CPU quota, up to the mount of each hierarchy.

    In a container the path may be that of the host, which does not exist; the root of the mount is then its group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            trees = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            trees = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for tree in trees:
            yield from (tree.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _folder_quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        quota_us, period_us = int(quota), int(period)  # "max" or -1: no quota
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
