"""The CPU budget is what the kernel will really give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cpu import CpuBudget, cpu_budget


def files(root: Path, **contents: str) -> None:
    for path, content in contents.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def test_no_cgroup_means_affinity_only(tmp_path: Path) -> None:
    """Where nothing limits the process, all CPUs of its mask count."""
    budget = cpu_budget(tmp_path)
    assert budget.quota is None
    assert budget.whole == len(os.sched_getaffinity(0))


def test_v2_takes_the_tightest_of_all_levels(tmp_path: Path) -> None:
    """A parent's quota binds its children."""
    files(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/pod/app\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pod/app/cpu.max": "400000 100000\n",
        },
    )
    assert cpu_budget(tmp_path).quota == 1.5


def test_v2_inside_a_container(tmp_path: Path) -> None:
    """The host's path does not exist inside; the mount's own file counts."""
    files(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/../../kubepods/x\n",
            "sys/fs/cgroup/cpu.max": "200000 100000",
        },
    )
    assert cpu_budget(tmp_path).quota == 2.0


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_v1_quota(tmp_path: Path, mount: str) -> None:
    """The older hierarchy has its own files; -1 means no limit."""
    files(
        tmp_path,
        **{
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n",
            f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us": "-1\n",
            f"sys/fs/cgroup/{mount}/cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/{mount}/docker/a/cpu.cfs_quota_us": "300000\n",
            f"sys/fs/cgroup/{mount}/docker/a/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_budget(tmp_path).quota == 3.0


@pytest.mark.parametrize("content", ["", "max", "max 100000", "x y", "0 100000", "1 0"])
def test_strange_files_mean_no_limit(tmp_path: Path, content: str) -> None:
    """What cannot be read limits nothing, and never fails a start."""
    files(tmp_path, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": content})
    assert cpu_budget(tmp_path).quota is None


@pytest.mark.parametrize(
    ("affinity", "quota", "whole", "threads"),
    [
        (2, None, 2, 2), (8, 2.0, 2, 2), (8, 0.5, 1, 1), (8, 1.5, 1, 1), (2, 16.0, 2, 2),
        (4, None, 4, 4), (8, None, 8, 7), (64, 6.0, 6, 5), (8, 1.99, 2, 2),
    ],
)  # fmt: skip
def test_threads_are_never_throttled(
    affinity: int, quota: float | None, whole: int, threads: int
) -> None:
    """Whole CPUs within mask and quota, at least one; from five on the event loop keeps one."""
    budget = CpuBudget(affinity, quota)
    assert (budget.whole, budget.model_threads) == (whole, threads)
