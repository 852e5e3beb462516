"""The same job on many machines: Ray Data hands out the parts and does again what a worker lost.

Every machine needs this package, the model store and the files at the same paths. A part is written by
the worker that labels it, under its final name in one step: one that is done twice stands once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.bulk.job import Job, Progress, rows_of
from app.bulk.labelling import Labeller
from app.bulk.parts import Parts
from app.bulk.source import Source
from app.errors import BackendUnavailable

Block = dict[str, npt.NDArray[np.int64]]


class RayRunner:
    """A :class:`app.bulk.job.Runner` on a cluster: ``workers`` processes, one loaded model each.

    ``address`` is that of a running cluster; without one, a cluster is started on this machine and
    stopped at the end.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._workers = workers
        self._address = address

    def __call__(
        self, job: Job, source: Source, parts: Parts, numbers: Sequence[int], progress: Progress
    ) -> None:
        """Raises :class:`BackendUnavailable` when Ray is not installed or there is no such cluster."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told about this work
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise BackendUnavailable("Ray is not installed: install the extra `ray`") from error
        try:
            ray.init(address=self._address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise BackendUnavailable(f"the Ray cluster cannot be reached: {error}") from error
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            threads = job.model.options.threads
            workers = self._workers or max(1, int(ray.cluster_resources()["CPU"]) // threads)
            # One block a part: what a killed worker was at is given to another, and no more.
            waiting = ray.data.from_items(
                [{"part": number} for number in numbers], override_num_blocks=len(numbers)
            )
            finished = waiting.map_batches(
                PartLabeller,
                fn_constructor_args=(job, source, parts),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(numbers))),
                num_cpus=threads,
                runtime_env={"env_vars": _quiet_threads(threads)},
            )
            for one in finished.iter_rows():
                progress(rows_of(job, source, int(one["part"])))
        finally:
            ray.shutdown()


class PartLabeller:
    """A worker: loads the model once, then labels and writes every part that it is given."""

    def __init__(self, job: Job, source: Source, parts: Parts) -> None:
        self._source = source
        self._parts = parts
        self._labeller: Labeller = job.labeller()

    def __call__(self, block: Block) -> Block:
        for number in block["part"]:
            part = self._source.part(int(number))
            self._parts.write(int(number), self._labeller.label(part))
        return block


def _quiet_threads(threads: int) -> dict[str, str]:
    """What OpenMP and BLAS read when they load; see the same in :mod:`app.cli`."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "OPENBLAS_NUM_THREADS": "1",
    }
