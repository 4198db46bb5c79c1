"""Count the processor cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may use, at least 1: those of its affinity, or fewer where a container has a CPU quota.

    A quota of 1.5 cores counts as 2, as in Go and the Java virtual machine: with 1 thread a third of it is lost.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    cores = _affinity()
    quota = _quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def limit_openmp(root: Path = _ROOT) -> None:
    """Make libraries that are loaded later compute with no more threads than a CPU quota has cores.

    OpenMP, which PyTorch computes with, knows the affinity but not the quota: with one thread for each of a large
    machine's cores, a container is stopped for most of each period. ``OMP_NUM_THREADS`` is left alone where it is set.
    """
    cores = usable_cores(root)
    if cores < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13; also obeys PYTHON_CPU_COUNT
        return int(os.process_cpu_count() or 1)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _quota(root: Path) -> float | None:
    """Cores by the smallest CPU quota of the process's control groups and of those above them; None without one.

    Linux's files: ``cpu.max`` of version 2 (Documentation/admin-guide/cgroup-v2.rst), ``cpu.cfs_quota_us`` and
    ``cpu.cfs_period_us`` of version 1 (Documentation/scheduler/sched-bwc.rst).
    """
    quotas = [quota for folder in _control_groups(root) if (quota := _folder_quota(folder)) is not None]
    return min(quotas, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of the process's control groups that may have a CPU quota, up to where each tree is mounted.

    Within a container the path may be the host's, which does not exist there; the mount's root is then its own group.
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
        microseconds, of = int(quota), int(period)  # "max", or -1: no quota
    except (OSError, ValueError):
        return None
    return microseconds / of if microseconds > 0 and of > 0 else None
