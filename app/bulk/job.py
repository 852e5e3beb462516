"""A bulk job: what to label with what, its parts, and the run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from app.artifacts.manifest import MANIFEST, sha256_of
from app.bulk.labelling import ANSWER, Labeller, ModelChoice
from app.bulk.parts import Parts
from app.bulk.source import ROW, Columns, InputUnusable, Source, open_source

Progress: TypeAlias = Callable[[int], None]
"""Hears of so many more rows that are done."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that decides the output. Picklable: a worker elsewhere opens the same files."""

    input: Path
    output: Path
    columns: Columns
    model: ModelChoice
    top_k: int = 3
    part_rows: int = 2000
    """Rows that a kill costs at most, for each worker."""
    max_text_chars: int = 2000

    def open(self) -> Source:
        """Raises :class:`InputUnusable`."""
        return open_source(self.input, self.columns, self.part_rows)

    def labeller(self) -> Labeller:
        return Labeller(self.model, self.top_k, self.max_text_chars)

    def parts(self, source: Source) -> Parts:
        """Where the parts are, bound to this input, this model and these options."""
        directory = self.model.store.root / self.model.name / self.model.version
        return Parts(
            self.output,
            {
                "input_sha256": source.sha256,
                "rows": source.rows,
                "model": self.model.label,
                "manifest_sha256": sha256_of(directory / MANIFEST),
                "backend": self.model.backend,
                "text": self.columns.text,
                "keep": self.columns.keep,
                "top_k": self.top_k,
                "part_rows": self.part_rows,
                "max_text_chars": self.max_text_chars,
            },
        )


class Runner(Protocol):
    """Labels the parts with these numbers, wherever it likes, and writes each."""

    def __call__(
        self, job: Job, source: Source, parts: Parts, numbers: Sequence[int], progress: Progress
    ) -> None: ...


def run(job: Job, runner: Runner, begin: Callable[[int, int], Progress]) -> bool:
    """Do what is left of the job; whether anything was.

    ``begin`` is told how many rows are done and how many there are. Raises :class:`InputUnusable`,
    :class:`app.bulk.parts.JobRefused` or what loading the model raises; parts that are written stay.
    """
    _check_columns(job.columns)
    source = job.open()
    if not source.rows:
        raise InputUnusable(f"{job.input} holds no messages")
    parts = job.parts(source)
    if parts.output_stands():
        parts.remove()  # killed between the last two steps
        return False
    count = -(-source.rows // job.part_rows)
    with parts.opened():
        done = parts.finished()
        left = [number for number in range(count) if number not in done]
        rows_left = sum(rows_of(job, source, number) for number in left)
        progress = begin(source.rows - rows_left, source.rows)
        if left:
            runner(job, source, parts, left, progress)
        parts.merge(count)
    return True


def run_here(
    job: Job, source: Source, parts: Parts, numbers: Sequence[int], progress: Progress
) -> None:
    """A :class:`Runner`: this process, one part after the other."""
    labeller = job.labeller()
    try:
        for number in numbers:
            parts.write(number, labeller.label(source.part(number), progress))
    finally:
        labeller.close()


def rows_of(job: Job, source: Source, number: int) -> int:
    """Rows of one part; the last may be short."""
    return min(job.part_rows, source.rows - number * job.part_rows)


def _check_columns(columns: Columns) -> None:
    ours = {ROW, *(name for name, _ in ANSWER)}
    taken = ours.intersection(columns.keep)
    if taken:
        raise InputUnusable(f"a column {min(taken)!r} cannot be kept: the output has its own")
    if len(set(columns.keep)) != len(columns.keep):
        raise InputUnusable("a column is to be kept twice")


def errors_of(output: Path) -> dict[str, int]:
    """How many rows could not be labelled, by reason."""
    column: pa.ChunkedArray = pq.read_table(output, columns=["error"]).column("error")
    return {
        one["values"]: one["counts"]
        for one in column.value_counts().to_pylist()
        if one["values"] is not None
    }
