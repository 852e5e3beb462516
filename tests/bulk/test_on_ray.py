"""Bulk labelling on a real Ray cluster on this machine: run by `make test-ray`."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pyarrow.parquet as pq
import pytest

from app.bulk.job import Job, run, run_here
from app.bulk.on_ray import RayRunner

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


def workers() -> list[psutil.Process]:
    """The processes below this one that hold a labeller."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("PartLabeller" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_killed_worker_costs_nothing(new_job: Callable[..., Job]) -> None:
    """Two workers, one killed at work: every row is there once, as from one machine alone."""
    job = new_job(20_000, part_rows=250)
    seen: set[int] = set()
    killed: list[int] = []
    labelled: list[int] = []

    def progress(rows: int) -> None:
        labelled.append(rows)
        alive = workers()
        seen.update(process.pid for process in alive)
        if not killed and len(alive) == 2 and len(labelled) >= 5:
            alive[0].kill()
            killed.append(alive[0].pid)

    assert run(job, RayRunner(workers=2), lambda done, total: progress)
    assert killed
    assert len(seen) >= 3, "nobody came in the killed worker's place"
    assert sum(labelled) == 20_000

    alone = new_job(job.input, output=job.output.with_name("alone.parquet"), part_rows=250)
    run(alone, run_here, lambda done, total: lambda rows: None)
    assert pq.read_table(job.output).equals(pq.read_table(alone.output))
