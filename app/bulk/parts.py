"""Finished parts on disk: each appears whole or not at all, so a killed job goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from app.artifacts.manifest import write_atomically
from app.errors import ShopintentError

_JOB = "job.json"
_LOCK = "lock"
_NUMBER = re.compile(r"part-(\d+)\.parquet")
_METADATA = b"shopintent.job"
_ROWS_AT_ONCE = 65_536
"""Rows of one row group in the output."""


class JobRefused(ShopintentError):
    """The output, or what lies beside it, belongs to another job."""


class Parts:
    """The folder ``OUT.parts`` beside the output, until the output is whole.

    ``job`` is all that decides what a part holds; parts of another job are never mixed in.
    """

    def __init__(self, output: Path, job: Mapping[str, object]) -> None:
        self.output = output
        self.directory = output.with_name(output.name + ".parts")
        self._job = json.dumps(job, indent=1, sort_keys=True).encode()

    def output_stands(self) -> bool:
        """Whether this very job has been done. Raises :class:`JobRefused` when another has."""
        if not self.output.exists():
            return False
        try:
            metadata = pq.read_schema(self.output).metadata or {}
        except (OSError, pa.ArrowException):
            metadata = {}
        if metadata.get(_METADATA) != self._job:
            raise JobRefused(f"{self.output} exists and is not the result of this very job")
        return True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder, or take up the one that this job has left; one process at a time.

        Raises :class:`JobRefused`.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobRefused(f"another process writes to {self.directory}") from None
            note = self.directory / _JOB
            if not note.exists():
                write_atomically(note, self._job)
            elif note.read_bytes() != self._job:
                raise JobRefused(
                    f"{self.directory} holds parts of another job (other input, model or options): "
                    "remove it, or choose another output"
                )
            yield

    def finished(self) -> set[int]:
        """Numbers of the parts that stand."""
        names = (_NUMBER.fullmatch(path.name) for path in self.directory.iterdir())
        return {int(found[1]) for found in names if found}

    def write(self, number: int, table: pa.Table) -> None:
        """Two processes may write the same part: both write the same rows, and one name stands."""
        partial = self.directory / f"part-{number:06}.{uuid4().hex}.partial"
        _write_synced(partial, table)
        partial.replace(self._path(number))

    def merge(self, count: int) -> None:
        """Write the output from parts ``0 .. count - 1``, in order, then remove the folder."""
        partial = self.directory / "output.partial"
        paths = [self._path(number) for number in range(count)]
        schema = pq.read_schema(paths[0]).with_metadata({_METADATA: self._job})
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            waiting: list[pa.Table] = []
            for path in paths:
                waiting.append(pq.read_table(path).replace_schema_metadata(schema.metadata))
                if sum(table.num_rows for table in waiting) >= _ROWS_AT_ONCE:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        _sync(partial)
        partial.replace(self.output)
        _sync(self.output.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the folder, if it is there."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.directory / f"part-{number:06}.parquet"


def _write_synced(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
