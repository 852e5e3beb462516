"""How many CPUs this process may really use: the affinity mask and the cgroup quota, not the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class CpuBudget:
    """``affinity`` CPUs may be scheduled on; ``quota`` CPUs' worth of time a period, if there is one."""

    affinity: int
    quota: float | None

    @property
    def whole(self) -> int:
        """Threads that can compute at once without being throttled; at least 1."""
        if self.quota is None:
            return self.affinity
        return max(1, min(self.affinity, int(self.quota + 0.05)))

    @property
    def model_threads(self) -> int:
        """Threads for one batch.

        From five CPUs on one is left to the event loop; below, the model gains more from it, and the
        loop has its turn between two batches.
        """
        return self.whole if self.whole <= 4 else self.whole - 1


def cpu_budget(root: Path = _ROOT) -> CpuBudget:
    """Read the budget; ``root`` is the file system that holds ``proc`` and ``sys``."""
    return CpuBudget(affinity=_affinity(), quota=_quota(root))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(root: Path) -> float | None:
    """The tightest quota of the process's cgroup and all above it (v2 and v1)."""
    quotas: list[float] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += _walk(root / "sys/fs/cgroup", path, _v2)
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", "cpu,cpuacct", "cpuacct,cpu"):
                quotas += _walk(root / "sys/fs/cgroup" / mount, path, _v1)
    return min(quotas, default=None)


def _walk(mount: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    # Inside a container the path is that of the host and may not exist; the mount itself always does.
    inside = [part for part in path.split("/") if part not in {"", ".."}]
    places = [mount.joinpath(*inside[:depth]) for depth in range(len(inside) + 1)]
    return [quota for place in places if (quota := read(place)) is not None]


def _v2(directory: Path) -> float | None:
    fields = " ".join(_lines(directory / "cpu.max")).split()
    if len(fields) != 2 or fields[0] == "max":
        return None
    return _ratio(fields[0], fields[1])


def _v1(directory: Path) -> float | None:
    quota = " ".join(_lines(directory / "cpu.cfs_quota_us"))
    return _ratio(quota, " ".join(_lines(directory / "cpu.cfs_period_us")))


def _ratio(quota: str, period: str) -> float | None:
    try:
        microseconds, length = int(quota), int(period)
    except ValueError:
        return None
    return microseconds / length if microseconds > 0 and length > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
